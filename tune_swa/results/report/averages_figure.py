"""Figures of averages and ensembles on fresh seeds: accuracy and nll, against the best plain training."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from tune_swa.results.average_contrasts import AverageContrast, Difference
from tune_swa.results.report.style import (
    BAD,
    GOOD,
    INK,
    Figure,
    blank_figure,
    format_percent,
    format_points,
    format_range,
)

_HEADER = (
    "repetitions", "test %", "points", "interval", "p", "verdict",
    "nll", "nll difference", "interval", "p", "verdict",
    "nll at its temperature", "difference", "interval", "p", "verdict",
)  # fmt: skip
_NUMERIC = (0, 1, 2, 3, 4, 6, 7, 8, 9, 11, 12, 13, 14)
"""Columns of it that hold numbers."""


def draw_averages(compared: Sequence[AverageContrast]) -> Figure:
    """Draw the difference of every average to the best plain training, in accuracy and in nll.

    Args:
        compared: at least one.
    """
    chosen = any(c.arm.average is not None for c in compared)
    of = "the average that it chose for each configuration" if chosen else "the leading average"
    return _draw_contrasts(
        compared,
        "average",
        "Averages on fresh seeds",
        f"Every average of the same runs against the last model of {compared[0].against.label}, the best "
        f"plain training found. The verdict of the search is that of {of}.",
    )


def draw_ensembles(compared: Sequence[AverageContrast]) -> Figure:
    """Draw the difference of ensembles to deep ensembles of the best plain training.

    Args:
        compared: at least one.
    """
    return _draw_contrasts(
        compared,
        "ensemble",
        "Ensembles of the runs on fresh seeds",
        f"The probabilities of runs are averaged, {len(compared[0].repetitions)} disjoint groups of seeds, "
        f"against deep ensembles of as many runs of {compared[0].against.label}. Fewer than five groups are "
        "a description.",
    )


def draw_merges(compared: Sequence[AverageContrast]) -> Figure:
    """Draw the difference of merged models to plain training and to SWA.

    Args:
        compared: at least one.
    """
    names = [f"{c.average}<br>against {c.against.label}" for c in compared]
    rows = [_tabulate_contrast(c) for c in compared]
    return Figure(
        "merges",
        "Merges on fresh seeds",
        "The recipe of the best merge of each kind, followed on every fresh seed: its members are trained "
        "and merged, and none is chosen again. Each is compared with the best plain training found and with "
        "the finalist that leads the verdict. Diamonds: mean with the interval for new seeds and new images. "
        "p-values against plain training ask for being ahead of all of it. All are adjusted by Holm's method "
        "over the lines, accuracy and nll each by itself.",
        _draw_panels(compared, names),
        ["configuration", "merge", "against", *_HEADER],
        [[*row[:2], c.against.label, *row[2:]] for row, c in zip(rows, compared, strict=True)],
        frozenset(number + 3 for number in _NUMERIC),
    )


def _draw_contrasts(compared: Sequence[AverageContrast], what: str, title: str, text: str) -> Figure:
    names = [f"{c.arm.name_average(c.average)}<br>{c.arm.configuration}" for c in compared]
    return Figure(
        f"{what}s",
        title,
        f"{text} Diamonds: mean with the interval for new seeds and new images. p-values ask for being "
        f"ahead of all plain training, and are adjusted by Holm's method over the {what}s, accuracy and nll "
        "each by itself.",
        _draw_panels(compared, names),
        ["configuration", what, *_HEADER],
        [_tabulate_contrast(c) for c in compared],
        frozenset(number + 2 for number in _NUMERIC),
    )


def _draw_panels(compared: Sequence[AverageContrast], names: Sequence[str]) -> go.Figure:
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.06)
    figure.update_layout(blank_figure(120 + 40 * len(compared)).layout)
    for row, c in enumerate(compared):
        _add_difference(figure, c.accuracy, row, 1, scale=100)
        _add_difference(figure, c.nll, row, 2, scale=1)
    for column, title in ((1, "accuracy, points"), (2, "nll, nats")):
        figure.add_vline(x=0, line={"color": INK, "width": 1, "dash": "dot"}, row=1, col=column)
        figure.update_xaxes(title=title, automargin=True, zeroline=False, row=1, col=column)
    figure.update_yaxes(
        tickvals=list(range(len(names))), ticktext=names, autorange="reversed", automargin=True
    )
    return figure


def _add_difference(figure: go.Figure, found: Difference, row: int, column: int, *, scale: float) -> None:
    at, color = found.interval, {"better": GOOD, "worse": BAD}.get(found.outcome, INK)
    shown = f"{scale * at.mean:+.4g} ({scale * at.low:+.4g} to {scale * at.high:+.4g})"
    figure.add_trace(
        go.Scatter(
            x=[scale * at.mean], y=[row], mode="markers", showlegend=False,
            marker={"size": 10, "color": color, "symbol": "diamond"},
            error_x={
                "type": "data", "symmetric": False, "array": [scale * (at.high - at.mean)],
                "arrayminus": [scale * (at.mean - at.low)], "thickness": 2, "width": 5, "color": color,
            },
            hovertemplate=f"{shown}: {found.outcome}<extra></extra>",
        ),
        row=1, col=column,
    )  # fmt: skip


def _tabulate_contrast(c: AverageContrast) -> list[object]:
    accuracy = c.accuracy
    return [
        c.arm.configuration, c.arm.name_average(c.average), len(c.repetitions), format_percent(accuracy.mean),
        format_points(accuracy.interval.mean), format_range(accuracy.interval.low, accuracy.interval.high),
        f"{accuracy.p_value:.3g}", accuracy.outcome, *_tabulate_nll(c.nll), *_tabulate_nll(c.calibrated),
    ]  # fmt: skip


def _tabulate_nll(found: Difference | None) -> list[str]:
    if found is None:
        return [""] * 5
    at = found.interval
    return [
        f"{found.mean:.4f}", f"{at.mean:+.4f}", f"{at.low:+.4f} to {at.high:+.4f}", f"{found.p_value:.3g}",
        found.outcome,
    ]  # fmt: skip
