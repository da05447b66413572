"""Common style of the report's figures: colours, layout, and how numbers are written."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field

import plotly.graph_objects as go

SWA, BASELINE, LIVE = "#1f6fb4", "#c2571a", "#7fb2dd"
SHARED, SKIPPED = "#c9d3dc", "#f3d9c6"
GOOD, BAD, INK, GRID = "#1a7f4b", "#b3261e", "#1c2733", "#e3e8ed"
SWA_ARMS = (SWA, "#6a4fb3", "#14808a", "#3d4f9f")
PLAIN_ARMS = (BASELINE, "#a3851d", "#a2427a", "#7a5a48")
"""Colours of arms in figures of more than two. The first of each kind is that of all other figures."""


@dataclass(frozen=True)
class Figure:
    """A chart, the text above it, and the table of its numbers."""

    name: str
    title: str
    text: str
    figure: go.Figure | None
    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    numeric: frozenset[int] = field(default_factory=frozenset)
    """Columns of numbers, which are aligned to the right."""


def blank_figure(height: int = 380) -> go.Figure:
    """An empty chart in the report's style."""
    figure = go.Figure()
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 56, "r": 16, "t": 16, "b": 48},
        font={"family": "system-ui, sans-serif", "size": 13, "color": INK},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},  # more lines grow upwards
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        hoverlabel={"align": "left"},
    )
    figure.update_xaxes(gridcolor=GRID, zeroline=False, automargin=True)
    figure.update_yaxes(gridcolor=GRID, zeroline=False, automargin=True)
    return figure


def focus_on_end(values: Sequence[Sequence[float]], least_margin: float) -> list[float]:
    """Return an axis range that shows the second half of curves over epochs.

    Args:
        values: of each curve as they are plotted, one for each epoch; at least one curve is not empty.
        least_margin: above and below them.
    """
    shown = [v for curve in values for v in curve[len(curve) // 2 :]]
    low, high = min(shown), max(shown)
    margin = max(least_margin, 0.05 * (high - low))
    return [low - margin, high + margin]


def add_seed_markers(figure: go.Figure, values: Sequence[float], row: int, color: str, template: str) -> None:
    """Draw the values of single seeds, as they are plotted, as faint dots in one row of the chart."""
    figure.add_trace(
        go.Scatter(
            x=list(values), y=[row] * len(values), mode="markers", showlegend=False,
            marker={"size": 7, "color": color, "opacity": 0.35}, hovertemplate=template,
        )
    )  # fmt: skip


def format_percent(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{100 * value:.{digits}f}"


def format_points(value: float | None) -> str:
    """A difference in accuracy (0 to 1) as signed percentage points."""
    if value is None:
        return ""
    return "0.00" if round(100 * value, 2) == 0 else f"{100 * value:+.2f}"


def format_range(low: float, high: float) -> str:
    return f"{format_points(low)} to {format_points(high)}"


def escape_html(text: str) -> str:
    """Plotly reads some HTML in its texts."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def encode_png(png: bytes) -> str:
    """Return a data URI, which the page can show without a file of its own."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
