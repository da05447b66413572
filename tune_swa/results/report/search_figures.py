"""Figures of the search: learning curves, epochs spent, importance, and the expected best."""

from __future__ import annotations

import plotly.graph_objects as go

from tune_swa.experiment.state import ExperimentState
from tune_swa.experiment.trial_state import TrialState
from tune_swa.inference.statistics import expected_best
from tune_swa.results.comparison import Comparison
from tune_swa.results.metric_format import MetricFormat
from tune_swa.results.report.style import (
    BASELINE,
    INK,
    LIVE,
    SHARED,
    SKIPPED,
    SWA,
    Figure,
    blank_figure,
    focus_on_end,
)

MOST_BARS = 200
"""Trials whose epochs are drawn; the table has all of them."""


def draw_curves(compared: Comparison) -> Figure:
    """Draw the best SWA trial, its live model and the best baseline, epoch by epoch."""
    figure = blank_figure(400)
    swa, baseline = compared.best_swa, compared.baseline
    columns: dict[str, list[float | None]] = {}
    epochs, written = compared.experiment.train.epochs, MetricFormat(compared.objective.metric)
    for entry, field, name, color, dash in (
        (baseline, written.metric, "best baseline", BASELINE, "solid"),
        (swa, "live_accuracy", "best SWA, live model", LIVE, "dot"),
        (swa, written.metric, "best SWA, model to ship", SWA, "solid"),
    ):
        if entry is None or (written.is_nll and field == "live_accuracy"):  # nll of live models is not known
            continue
        values = [record.get(field) for record in entry.trial.records]
        columns[name] = [*values, *[None] * (epochs - len(values))]
        figure.add_trace(
            go.Scatter(
                x=list(range(len(values))), y=[None if v is None else written.scale(v) for v in values],
                name=name, mode="lines",
                line={"color": color, "dash": dash, "width": 2},
            )
        )  # fmt: skip
    if swa is not None and swa.trial.fork_epoch is not None:
        figure.add_vline(
            x=swa.trial.fork_epoch, line={"color": INK, "width": 1, "dash": "dash"},
            annotation_text="averaging starts", annotation_position="bottom right",
        )  # fmt: skip
    figure.update_xaxes(title="epoch")
    figure.update_yaxes(title=f"validation {written.metric}, {written.unit}")
    shown = " and ".join(e.label for e in (swa, baseline) if e is not None)
    text = f"{shown or 'No trial has completed yet'}."
    reported = [[written.scale(v) for v in values if v is not None] for values in columns.values()]
    if any(reported):
        figure.update_yaxes(range=focus_on_end(reported, 0.005 if written.is_nll else 0.5))
        text += " The range is that of the second half; a double click shows all of it."
    first = (
        next((record["average"] for record in swa.trial.records if "average" in record), None)
        if swa
        else None
    )
    if swa is not None and first is not None:
        text += f" The model to ship is {first}, and where all averages were scored the best of them."
    return Figure(
        "curves",
        f"Validation {written.metric} by epoch",
        text,
        figure,
        ["epoch", *columns],
        [[k, *(written.format_number(values[k]) for values in columns.values())] for k in range(epochs)],
        frozenset(range(1 + len(columns))),
    )


def draw_epochs_spent(state: ExperimentState) -> Figure:
    """Draw the epochs of every trial of the search: trained, shared, and saved by early stopping."""
    trials = [t for t in state.trials.values() if t.stage == "search"]
    epochs = state.header.spec["train"]["epochs"] if state.header else 0
    shared = [_count_shared(t) for t in trials]
    trained = [len(t.records) - s for t, s in zip(trials, shared, strict=True)]
    saved = [epochs - len(t.records) if t.status == "pruned" else 0 for t in trials]
    figure = blank_figure(max(220, 80 + 15 * len(trials[:MOST_BARS])))
    for values, name, color in (
        (shared, "shared", SHARED),
        (trained, "trained", SWA),
        (saved, "saved by early stopping", SKIPPED),
    ):
        figure.add_trace(
            go.Bar(
                x=values[:MOST_BARS], y=[t.name for t in trials[:MOST_BARS]], name=name, orientation="h",
                marker={"color": color}, hovertemplate="%{y}: %{x} epochs " + name + "<extra></extra>",
            )
        )  # fmt: skip
    figure.update_layout(barmode="stack", bargap=0.25)
    figure.update_yaxes(autorange="reversed", type="category", tickfont={"size": 10})
    figure.update_xaxes(title="epochs")
    pruned = sum(t.status == "pruned" for t in trials)
    rows = [
        [t.name, t.kind, t.status, own, taken, _stopped_after(t)]
        for t, own, taken in zip(trials, trained, shared, strict=True)
    ]
    return Figure(
        "work",
        "Epochs trained, shared and saved",
        f"{sum(trained):,} epochs were trained and {sum(shared):,} shared with another trial of the same "
        f"trunk. Early stopping ended {pruned} {'trial' if pruned == 1 else 'trials'} and saved "
        f"{sum(saved):,} epochs.",
        figure,
        ["trial", "kind", "status", "trained", "shared", "stopped after epoch"],
        rows,
        frozenset({3, 4, 5}),
    )


def draw_importance(values: dict[str, float] | None, text: str) -> Figure:
    """Draw the share of the objective's variance that each setting explains."""
    if not values:
        return Figure("importance", "Importance of the settings", text, None, [], [])
    ordered = sorted(values.items(), key=lambda item: item[1])
    figure = blank_figure(110 + 34 * len(ordered))
    figure.add_trace(
        go.Bar(
            x=[100 * v for _, v in ordered], y=[n for n, _ in ordered], orientation="h",
            marker={"color": SWA}, hovertemplate="%{y}: %{x:.0f} %<extra></extra>",
        )
    )  # fmt: skip
    figure.update_xaxes(title="share of the variance, %", rangemode="tozero")
    return Figure(
        "importance",
        "Importance of the settings",
        text,
        figure,
        ["setting", "share %"],
        [[name, f"{100 * value:.1f}"] for name, value in reversed(ordered)],
        frozenset({1}),
    )


def draw_expected_best(compared: Comparison) -> Figure:
    """Draw how the best of n trials grows with n alone."""
    objective, written = compared.objective, MetricFormat(compared.objective.metric)
    values = [e.read_metric(objective.metric) for e in compared.ranked if e.trial.kind == "swa"]
    best = expected_best([objective.orient_value(v) for v in values if v is not None])
    expected = [objective.orient_value(float(v)) for v in best]
    figure = blank_figure(320)
    figure.add_trace(
        go.Scatter(
            x=list(range(1, len(expected) + 1)), y=[written.scale(v) for v in expected], mode="lines",
            showlegend=False, line={"color": SWA, "width": 2},
        )
    )  # fmt: skip
    baseline = None if compared.baseline is None else compared.baseline.read_metric(objective.metric)
    if baseline is not None:
        figure.add_hline(
            y=written.scale(baseline), line={"color": BASELINE, "dash": "dot", "width": 2},
            annotation_text="best baseline", annotation_position="bottom right",
        )  # fmt: skip
    figure.update_xaxes(title="completed SWA trials")
    figure.update_yaxes(title=f"expected best, validation {written.short}")
    return Figure(
        "best_of",
        "Expected best by number of trials",
        f"Expected {'lowest' if written.is_nll else 'highest'} validation {written.metric} of n trials drawn "
        f"from the completed ones. The best of many is {'low' if written.is_nll else 'high'} by chance "
        "alone; results on fresh seeds are free of that.",
        figure if expected else None,
        ["trials", f"expected best {written.short}"],
        [[k, written.format_number(v)] for k, v in enumerate(expected, start=1)],
        frozenset({0, 1}),
    )


def _count_shared(trial: TrialState) -> int:
    return sum(record.get("shared_from") is not None for record in trial.records)


def _stopped_after(trial: TrialState) -> object:
    """The rung that stopped it, or an empty cell."""
    return next((rung for rung, decision in sorted(trial.rungs.items()) if decision == "stop"), "")
