"""Figure of the objective over the start of averaging, where averaging has no rate of its own."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from tune_swa.config import format_value
from tune_swa.results.comparison import Comparison, Entry
from tune_swa.results.metric_format import MetricFormat
from tune_swa.results.report.landscape import MOST_POINTS, describe_value, plot_value, read_number
from tune_swa.results.report.style import (
    BASELINE,
    INK,
    SWA,
    Figure,
    blank_figure,
    escape_html,
)


def draw_starts(compared: Comparison) -> Figure:
    """Draw the objective of every SWA trial of the search by `swa_start` (`averaging.tail: base`)."""
    written = MetricFormat(compared.objective.metric)
    entries = [e for e in (*compared.ranked, *compared.unfinished) if e.trial.kind == "swa" and e.accuracy]
    entries = entries[:MOST_POINTS]
    figure = blank_figure(380)
    for completed, name, marker in (
        (False, "not completed", {"size": 12, "symbol": "x-thin-open", "line": {"width": 1.5, "color": INK}}),
        (True, "completed", {"size": 10, "color": SWA, "line": {"width": 0.5, "color": INK}}),
    ):
        group = [e for e in entries if e.completed == completed]
        if group:
            figure.add_trace(_draw_trials(group, name, marker, written))
    baseline = compared.baseline
    if baseline is not None and baseline.accuracy is not None:
        figure.add_hline(
            y=plot_value(baseline, written), line={"color": BASELINE, "width": 1, "dash": "dash"},
            annotation_text="best baseline", annotation_position="bottom right",
        )  # fmt: skip
    figure.update_xaxes(title="swa_start, epoch", tickformat="d")
    figure.update_yaxes(title=f"validation {written.metric}, {written.unit}")
    return Figure(
        "landscape",
        "Start of averaging",
        f"Validation {written.metric} of each trial of the search ({compared.images} images, one seed). The "
        "base schedule goes on while weights are averaged, so there is no swa_lr.",
        figure,
        [
            "configuration",
            "status",
            "swa_start",
            "lr",
            f"validation {written.short}",
            "against best baseline",
        ],
        [_table_row(e, written) for e in entries],
        frozenset({2, 3, 4, 5}),
    )


def _draw_trials(
    group: Sequence[Entry], name: str, marker: dict[str, object], written: MetricFormat
) -> go.Scatter:
    return go.Scatter(
        x=[e.params["swa_start"] for e in group], y=[plot_value(e, written) for e in group],
        mode="markers", name=name, marker=marker,
        text=[f"{escape_html(e.label)}<br>{describe_value(e, written)}, {e.trial.status}" for e in group],
        hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip


def _table_row(entry: Entry, written: MetricFormat) -> list[object]:
    lr = entry.params.get("lr")
    return [
        entry.label, entry.trial.status, entry.params["swa_start"], "" if lr is None else format_value(lr),
        written.format_number(read_number(entry, written)), written.format_gain(entry.delta_vs_baseline),
    ]  # fmt: skip
