"""Figure of the objective over the start and the rate of averaging."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from scipy import interpolate
from scipy.spatial import QhullError

from tune_swa.config import format_value
from tune_swa.results.comparison import Comparison, Entry
from tune_swa.results.metric_format import MetricFormat
from tune_swa.results.report.style import (
    INK,
    Figure,
    blank_figure,
    escape_html,
)

MOST_POINTS = 2000
"""Trials drawn at most, the best first: a page has to open on a phone."""
LEAST_SURFACE = 6
"""Positions with completed trials from which a surface is interpolated between them."""


def draw_landscape(compared: Comparison) -> Figure:
    """Draw the objective of every SWA trial of the search by `swa_start` and `swa_lr`."""
    written = MetricFormat(compared.objective.metric)
    entries = [e for e in (*compared.ranked, *compared.unfinished) if e.trial.kind == "swa" and e.accuracy]
    entries = entries[:MOST_POINTS]
    surface = _interpolate_surface([e for e in entries if e.completed], written)
    width = _dodge_width(entries)
    text = f"Validation {written.metric} of each trial of the search ({compared.images} images, one seed)."
    if width:
        text += " Trials that differ only in the base rate are side by side, the lowest rate on the left."
    if surface is not None:
        text += " The background interpolates the mean of the completed trials."
    return Figure(
        "landscape",
        "Start and learning rate of averaging",
        text,
        _draw_chart(entries, surface, width, written),
        [
            "configuration",
            "status",
            "swa_start",
            "swa_lr",
            "lr",
            f"validation {written.short}",
            "against best baseline",
        ],
        [_table_row(e, written) for e in entries],
        frozenset({2, 3, 4, 5, 6}),
    )


def _draw_chart(
    entries: Sequence[Entry], surface: go.Contour | None, width: float, written: MetricFormat
) -> go.Figure:
    figure = blank_figure(430)
    if surface is not None:
        figure.add_trace(surface)
    rates = _base_rates(entries)
    unfinished = {"size": 12, "symbol": "x-thin-open", "line": {"width": 1.5, "color": INK}}
    done, lost = ([e for e in entries if e.completed == completed] for completed in (True, False))
    completed = {
        "size": 12, "symbol": "circle", "line": {"width": 0.5, "color": INK}, "coloraxis": "coloraxis",
        "color": [plot_value(e, written) for e in done],
    }  # fmt: skip
    for group, name, marker in ((lost, "not completed", unfinished), (done, "completed", completed)):
        if group:
            figure.add_trace(_draw_trials(group, rates, width, name, marker, written))
    figure.update_layout(
        coloraxis={
            "colorscale": _color_scale(written),
            "colorbar": {"title": {"text": written.short}, "thickness": 12},
        }
    )
    starts = sorted({_number(e, "swa_start") for e in entries})
    figure.update_xaxes(title="swa_start, epoch", tickformat="d")
    if len(starts) <= 12:
        figure.update_xaxes(tickvals=starts)
    ticks = _log_ticks([_number(e, "swa_lr") for e in entries])
    figure.update_yaxes(title="swa_lr", type="log", tickvals=ticks, ticktext=[format_value(t) for t in ticks])
    return figure


def _draw_trials(
    group: Sequence[Entry],
    rates: Sequence[float],
    width: float,
    name: str,
    marker: dict[str, Any],
    written: MetricFormat,
) -> go.Scatter:
    return go.Scatter(
        x=[_number(e, "swa_start") + width * _dodge_offset(e, rates) for e in group],
        y=[_number(e, "swa_lr") for e in group], mode="markers", name=name, marker=marker,
        text=[f"{escape_html(e.label)}<br>{describe_value(e, written)}, {e.trial.status}" for e in group],
        hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip


def read_number(entry: Entry, written: MetricFormat) -> float:
    """The metric of a trial that has reported."""
    return entry.read_metric(written.metric) or 0.0


def plot_value(entry: Entry, written: MetricFormat) -> float:
    """The same as it is plotted."""
    return written.scale(read_number(entry, written))


def describe_value(entry: Entry, written: MetricFormat) -> str:
    """The same with its unit or name."""
    return written.format_value(read_number(entry, written))


def _color_scale(written: MetricFormat) -> str:
    """The better, the brighter."""
    return "Viridis_r" if written.is_nll else "Viridis"


def _table_row(entry: Entry, written: MetricFormat) -> list[object]:
    swa_lr, lr = ("" if (v := entry.params.get(n)) is None else format_value(v) for n in ("swa_lr", "lr"))
    return [
        entry.label, entry.trial.status, entry.params.get("swa_start"), swa_lr, lr,
        written.format_number(read_number(entry, written)), written.format_gain(entry.delta_vs_baseline),
    ]  # fmt: skip


# ----------------------------------------------------------------------- trials in the same place


def _base_rates(entries: Sequence[Entry]) -> list[float]:
    return sorted({_number(e, "lr") for e in entries if e.params.get("lr") is not None})


def _dodge_width(entries: Sequence[Entry]) -> float:
    """Epochs between trials that would cover each other, where the base rate has a few values; else 0."""
    rates = len(_base_rates(entries))
    if not 2 <= rates <= 6:
        return 0.0
    starts = sorted({_number(e, "swa_start") for e in entries})
    return 0.5 * min((b - a for a, b in itertools.pairwise(starts)), default=1) / rates


def _dodge_offset(entry: Entry, rates: Sequence[float]) -> float:
    """Position of its base rate among all of them, around 0."""
    return rates.index(_number(entry, "lr")) - (len(rates) - 1) / 2 if rates else 0.0


def _number(entry: Entry, name: str) -> float:
    """A setting that is a number."""
    value = entry.params[name]
    assert isinstance(value, int | float)
    return value


# ------------------------------------------------------------------------- background and ticks


def _interpolate_surface(done: Sequence[Entry], written: MetricFormat) -> go.Contour | None:
    """Mean objective over (swa_start, log swa_lr), linear between trials; None where they span no area."""
    cells: dict[tuple[float, float], list[float]] = {}
    for e in done:
        position = (_number(e, "swa_start"), math.log10(_number(e, "swa_lr")))
        cells.setdefault(position, []).append(plot_value(e, written))
    if len(cells) < LEAST_SURFACE:
        return None
    positions = np.array(list(cells))
    low, span = positions.min(axis=0), np.ptp(positions, axis=0)
    if not span.all():
        return None
    x, y = np.linspace(0, 1, 41), np.linspace(0, 1, 41)
    values = [float(np.mean(v)) for v in cells.values()]
    shown = [plot_value(e, written) for e in done]
    try:
        z = interpolate.griddata((positions - low) / span, values, tuple(np.meshgrid(x, y)), method="linear")
    except QhullError:  # all on one line
        return None
    # colours of its own: plotly's page hangs where a contour shares a colour axis with markers
    return go.Contour(
        x=low[0] + span[0] * x, y=10 ** (low[1] + span[1] * y), z=z, zmin=min(shown), zmax=max(shown),
        colorscale=_color_scale(written), showscale=False, opacity=0.45, line={"width": 0.5},
        hoverinfo="skip", ncontours=12,
    )  # fmt: skip


def _log_ticks(values: Sequence[float]) -> list[float]:
    """1, 2 and 5 times powers of ten around positive values; only the powers over many decades."""
    if not values:
        return []
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    steps = (1, 2, 5) if high - low <= 3 else (1,)
    return [float(f"{k}e{e}") for e in range(low, high + 1) for k in steps]
