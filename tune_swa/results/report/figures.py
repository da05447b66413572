"""Which pictures does the report show, and what are they made from?

Each figure comes with the table of its numbers. Figures are plotly's; what is drawn is decided here,
how the page looks in `report`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import plotly.graph_objects as go
from scipy import interpolate
from scipy.spatial import QhullError

from tune_swa.config import format_value
from tune_swa.experiment.state import ExperimentState
from tune_swa.experiment.trial_state import TrialState
from tune_swa.inference import statistics
from tune_swa.inference.calibration import bin_reliability
from tune_swa.results.comparison import Comparison, Entry
from tune_swa.results.contrasts import Arm, Verdict
from tune_swa.results.predictions import TestPredictions

SWA, BASELINE, LIVE, SHARED = "#1f6fb4", "#c2571a", "#7fb2dd", "#c9d3dc"
GOOD, BAD, INK, GRID = "#1a7f4b", "#b3261e", "#1c2733", "#e3e8ed"
MOST_POINTS = 2000
"""Trials drawn at most, the best first: a page has to open on a phone."""
LEAST_SURFACE = 6
"""Places with completed trials, from which on something is interpolated between them."""


@dataclass(frozen=True)
class Figure:
    """A picture, what it says, and its numbers."""

    name: str
    title: str
    text: str
    figure: go.Figure | None
    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    numeric: frozenset[int] = field(default_factory=frozenset)
    """Columns of numbers, which are set to the right."""


def percent(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{100 * value:.{digits}f}"


def points(value: float | None) -> str:
    if value is None:
        return ""
    return "0.00" if round(100 * value, 2) == 0 else f"{100 * value:+.2f}"


def blank(height: int = 380) -> go.Figure:
    """An empty figure in the report's style."""
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


# ------------------------------------------------------------------------------------- the search


def landscape(compared: Comparison) -> Figure:
    """Accuracy by start and rate of averaging."""
    entries = [e for e in (*compared.ranked, *compared.unfinished) if e.trial.kind == "swa" and e.accuracy]
    entries = entries[:MOST_POINTS]
    done = [e for e in entries if e.completed]
    lost = [e for e in entries if not e.completed]
    figure = blank(430)
    surface = _surface(done)
    if surface is not None:
        figure.add_trace(surface)
    rates = sorted({_of(e, "lr") for e in entries if e.params.get("lr") is not None})
    apart = _apart([_of(e, "swa_start") for e in entries], len(rates))
    for group, name, symbol in ((lost, "not completed", "x-thin-open"), (done, "completed", "circle")):
        if not group:
            continue
        marker: dict[str, Any] = {"size": 12, "symbol": symbol, "line": {"width": 1.5, "color": INK}}
        if name == "completed":
            marker |= {
                "color": [100 * (e.accuracy or 0) for e in group], "coloraxis": "coloraxis",
                "line": {"width": 0.5, "color": INK},
            }  # fmt: skip
        figure.add_trace(
            go.Scatter(
                x=[_of(e, "swa_start") + apart * _place(e, rates) for e in group],
                y=[_of(e, "swa_lr") for e in group], mode="markers", name=name, marker=marker,
                text=[f"{safe(e.label)}<br>{percent(e.accuracy)} %, {e.trial.status}" for e in group],
                hovertemplate="%{text}<extra></extra>",
            )
        )  # fmt: skip
    figure.update_layout(
        coloraxis={"colorscale": "Viridis", "colorbar": {"title": {"text": "%"}, "thickness": 12}}
    )
    figure.update_xaxes(title="swa_start, epoch", tickformat="d")
    if len({_of(e, "swa_start") for e in entries}) <= 12:
        figure.update_xaxes(tickvals=sorted({_of(e, "swa_start") for e in entries}))
    ticks = _log_ticks([_of(e, "swa_lr") for e in entries])
    figure.update_yaxes(title="swa_lr", type="log", tickvals=ticks, ticktext=[format_value(t) for t in ticks])
    rows = [
        [e.label, e.trial.status, e.params.get("swa_start"), _value(e.params.get("swa_lr")),
         _value(e.params.get("lr")), percent(e.accuracy), points(e.delta_vs_baseline)]
        for e in entries
    ]  # fmt: skip
    return Figure(
        "landscape",
        "Where averaging starts, and at which rate",
        f"Each trial of the search by its validation accuracy ({compared.images} images, one seed)."
        + (
            " Trials that differ in the base rate alone stand side by side, the lowest on the left."
            if apart
            else ""
        )
        + (" Behind them, the mean of the completed ones, interpolated." if surface is not None else ""),
        figure,
        ["configuration", "status", "swa_start", "swa_lr", "lr", "validation %", "against best baseline"],
        rows,
        frozenset({2, 3, 4, 5, 6}),
    )


def _apart(starts: Sequence[float], rates: int) -> float:
    """Epochs between trials that would lie on each other, where the base rate has a few values."""
    if not 2 <= rates <= 6 or not starts:
        return 0.0
    each = sorted(set(starts))
    gaps = [b - a for a, b in itertools.pairwise(each)]
    return 0.5 * min(gaps, default=1) / rates


def _place(entry: Entry, rates: Sequence[float]) -> float:
    """Of its base rate among the others, around 0."""
    return rates.index(_of(entry, "lr")) - (len(rates) - 1) / 2 if rates else 0.0


def _of(entry: Entry, name: str) -> float:
    """A setting that is a number."""
    value = entry.params[name]
    assert isinstance(value, int | float)
    return value


def _surface(done: Sequence[Entry]) -> go.Contour | None:
    """Mean accuracy over (swa_start, log swa_lr), linear between the trials; None where they span no area."""
    cells: dict[tuple[float, float], list[float]] = {}
    for e in done:
        where = (_of(e, "swa_start"), math.log10(_of(e, "swa_lr")))
        cells.setdefault(where, []).append(100 * (e.accuracy or 0))
    if len(cells) < LEAST_SURFACE:
        return None
    found = np.array(list(cells))
    low, span = found.min(axis=0), np.ptp(found, axis=0)
    if not span.all():
        return None
    x, y = np.linspace(0, 1, 41), np.linspace(0, 1, 41)
    values = [float(np.mean(v)) for v in cells.values()]
    shown = [100 * (e.accuracy or 0) for e in done]
    try:
        z = interpolate.griddata((found - low) / span, values, tuple(np.meshgrid(x, y)), method="linear")
    except QhullError:  # all on one line
        return None
    # colours of its own: plotly's page hangs where a contour shares a colour axis with markers
    return go.Contour(
        x=low[0] + span[0] * x, y=10 ** (low[1] + span[1] * y), z=z, zmin=min(shown), zmax=max(shown),
        colorscale="Viridis", showscale=False, opacity=0.45, line={"width": 0.5}, hoverinfo="skip",
        ncontours=12,
    )  # fmt: skip


def _log_ticks(values: Sequence[float]) -> list[float]:
    """1, 2 and 5 times powers of ten around positive values; only the powers over many decades."""
    if not values:
        return []
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    steps = (1, 2, 5) if high - low <= 3 else (1,)
    return [float(f"{k}e{e}") for e in range(low, high + 1) for k in steps]


def curves(compared: Comparison) -> Figure:
    """The best SWA trial, its live model and the best baseline, epoch by epoch."""
    figure = blank(400)
    swa, baseline = compared.best_swa, compared.baseline
    columns: dict[str, list[float | None]] = {}
    epochs = compared.experiment.train.epochs
    for entry, what, name, color, dash in (
        (baseline, "accuracy", "best baseline", BASELINE, "solid"),
        (swa, "live_accuracy", "best SWA, its live model", LIVE, "dot"),
        (swa, "accuracy", "best SWA, the model to ship", SWA, "solid"),
    ):
        if entry is None:
            continue
        values = [record[what] for record in entry.trial.records]
        columns[name] = [*values, *[None] * (epochs - len(values))]
        figure.add_trace(
            go.Scatter(
                x=list(range(len(values))), y=[100 * v for v in values], name=name, mode="lines",
                line={"color": color, "dash": dash, "width": 2},
            )
        )  # fmt: skip
    if swa is not None and swa.trial.fork_epoch is not None:
        figure.add_vline(
            x=swa.trial.fork_epoch, line={"color": INK, "width": 1, "dash": "dash"},
            annotation_text="averaging starts", annotation_position="bottom right",
        )  # fmt: skip
    figure.update_xaxes(title="epoch")
    figure.update_yaxes(title="validation accuracy, %")
    rows = [[k, *(percent(values[k]) for values in columns.values())] for k in range(epochs)]
    shown = " and ".join(e.label for e in (swa, baseline) if e is not None)
    return Figure(
        "curves",
        "What averaging does, epoch by epoch",
        f"{shown or 'Nothing has completed yet'}.",
        figure,
        ["epoch", *columns],
        rows,
        frozenset(range(1 + len(columns))),
    )


def work(state: ExperimentState) -> Figure:
    """Epochs of every trial of the search: trained, shared, and not trained because it was stopped."""
    trials = [t for t in state.trials.values() if t.stage == "search"]
    drawn = trials[:200]
    epochs = state.header["spec"]["train"]["epochs"] if state.header else 0
    shared = [_shared(t) for t in drawn]
    trained = [len(t.records) - s for t, s in zip(drawn, shared, strict=True)]
    saved = [epochs - len(t.records) if t.status == "pruned" else 0 for t in drawn]
    figure = blank(max(220, 80 + 15 * len(drawn)))
    names = [t.name for t in drawn]
    for values, name, color in (
        (shared, "shared", SHARED), (trained, "trained", SWA), (saved, "stopped before", "#f3d9c6"),
    ):  # fmt: skip
        figure.add_trace(
            go.Bar(x=values, y=names, name=name, orientation="h", marker={"color": color},
                   hovertemplate="%{y}: %{x} epochs " + name + "<extra></extra>")
        )  # fmt: skip
    figure.update_layout(barmode="stack", bargap=0.25)
    figure.update_yaxes(autorange="reversed", type="category", tickfont={"size": 10})
    figure.update_xaxes(title="epochs")
    total, kept = sum(len(t.records) for t in trials), sum(map(_shared, trials))
    pruned = sum(t.status == "pruned" for t in trials)
    skipped = sum(epochs - len(t.records) for t in trials if t.status == "pruned")
    rows = [[t.name, t.kind, t.status, len(t.records) - _shared(t), _shared(t), _rung(t)] for t in trials]
    return Figure(
        "work",
        "What was trained, shared and stopped",
        f"{total - kept:,} epochs were trained and {kept:,} taken over from trials with the same trunk; "
        f"early stopping ended {pruned} trials, {skipped:,} epochs before their last.",
        figure,
        ["trial", "kind", "status", "trained", "shared", "stopped after epoch"],
        rows,
        frozenset({3, 4, 5}),
    )


def importance(values: dict[str, float] | None, why: str) -> Figure:
    """How much of the spread of the accuracy each setting explains."""
    if not values:
        return Figure("importance", "Which settings matter", why, None, [], [])
    ordered = sorted(values.items(), key=lambda item: item[1])
    figure = blank(110 + 34 * len(ordered))
    figure.add_trace(
        go.Bar(
            x=[100 * v for _, v in ordered], y=[n for n, _ in ordered], orientation="h",
            marker={"color": SWA}, hovertemplate="%{y}: %{x:.0f} %<extra></extra>",
        )
    )  # fmt: skip
    figure.update_xaxes(title="share of the variance, %", rangemode="tozero")
    return Figure(
        "importance",
        "Which settings matter",
        why,
        figure,
        ["setting", "share %"],
        [[name, f"{100 * value:.1f}"] for name, value in reversed(ordered)],
        frozenset({1}),
    )


def best_of(compared: Comparison) -> Figure:
    """How the best of n trials grows with n alone."""
    accuracies = [e.accuracy for e in compared.ranked if e.trial.kind == "swa" and e.accuracy is not None]
    expected = statistics.expected_best(accuracies)
    figure = blank(320)
    figure.add_trace(
        go.Scatter(
            x=list(range(1, len(expected) + 1)), y=[100 * v for v in expected], mode="lines",
            showlegend=False, line={"color": SWA, "width": 2},
        )
    )  # fmt: skip
    if compared.baseline is not None and compared.baseline.accuracy is not None:
        figure.add_hline(
            y=100 * compared.baseline.accuracy, line={"color": BASELINE, "dash": "dot", "width": 2},
            annotation_text="best baseline", annotation_position="bottom right",
        )  # fmt: skip
    figure.update_xaxes(title="completed SWA trials")
    figure.update_yaxes(title="expected best, validation %")
    return Figure(
        "best_of",
        "The best grows with the number tried",
        "Expected highest validation accuracy of so many trials drawn from those that completed. The best of "
        "many is high by luck alone; the fresh seeds above are free of that.",
        figure if len(expected) else None,
        ["trials", "expected best %"],
        [[k, percent(float(v))] for k, v in enumerate(expected, start=1)],
        frozenset({0, 1}),
    )


# ----------------------------------------------------------------------------------- calibration


def calibration(arms: Sequence[Arm], predictions: dict[str, TestPredictions]) -> Figure:
    """Accuracy against confidence of the leading arm and the baseline, all their runs together."""
    figure = blank(400)
    figure.add_trace(
        go.Scatter(x=[0, 100], y=[0, 100], mode="lines", line={"color": GRID, "width": 2}, showlegend=False,
                   hoverinfo="skip")
    )  # fmt: skip
    rows: list[list[object]] = []
    for arm in arms:
        runs = [predictions[run.name] for run in arm.runs if run.name in predictions]
        if not runs:
            continue
        confidence = np.concatenate([r.confidence for r in runs])
        right = np.concatenate([r.correct for r in runs])
        found = bin_reliability(confidence, right, equal_mass=True)
        # over runs, as the recorded one and as nll and Brier: pooled runs would hide errors that cancel
        masses = [bin_reliability(r.confidence, r.correct, equal_mass=True).ece for r in runs]
        figure.add_trace(
            go.Scatter(
                x=100 * found.confidence, y=100 * found.accuracy, name=arm.label, mode="lines+markers",
                line={"dash": "solid" if arm.kind == "swa" else "dot"},
            )
        )  # fmt: skip
        rows.append(
            [arm.label, "all", len(right), percent(float(confidence.mean())), percent(float(right.mean())),
             f"{arm.mean_of('nll'):.4f}", f"{arm.mean_of('brier'):.4f}", percent(arm.mean_of("ece")),
             percent(float(np.mean(masses)))]
        )  # fmt: skip
        bins = zip(found.low, found.high, found.images, found.confidence, found.accuracy, strict=True)
        rows += [
            [arm.label, f"{percent(low)} to {percent(high)}", int(n), percent(mean), percent(hits),
             "", "", "", ""]
            for low, high, n, mean, hits in bins
        ]  # fmt: skip
    figure.update_xaxes(title="confidence, %")
    figure.update_yaxes(title="accuracy, %")
    return Figure(
        "calibration",
        "How far its confidence can be believed",
        "On the diagonal an image called with 90 % confidence is right nine times in ten. Bins of equally "
        "many test images, all runs together; nll, Brier score and calibration errors (ECE) are means over "
        "the runs.",
        figure if rows else None,
        ["configuration", "bin of confidence, %", "images", "confidence %", "accuracy %", "nll", "Brier",
         "ECE %, equal widths", "ECE %, equal masses"],
        rows,
        frozenset(range(1, 9)),
    )  # fmt: skip


def classes(arm: Arm, against: Arm, predictions: dict[str, TestPredictions], names: Sequence[str]) -> Figure:
    """Accuracy class by class."""
    figure = blank(360)
    table: list[list[object]] = []
    shares = []
    for side in (against, arm):
        runs = [predictions[run.name] for run in side.runs if run.name in predictions]
        right = np.stack([r.correct for r in runs]).mean(axis=0)
        shares.append([float(right[runs[0].label == k].mean()) if (runs[0].label == k).any() else None
                       for k in range(len(names))])  # fmt: skip
        count = [int((runs[0].label == k).sum()) for k in range(len(names))]
        figure.add_trace(
            go.Bar(x=[safe(n) for n in names], y=[None if s is None else 100 * s for s in shares[-1]],
                   name=side.label, marker={"color": SWA if side is arm else BASELINE})
        )  # fmt: skip
    lowest = min((s for side in shares for s in side if s is not None), default=0.0)
    figure.update_yaxes(title="test accuracy, %", range=[max(0.0, 100 * lowest - 5), 100.5])
    figure.update_xaxes(type="category")
    for name, n, before, now in zip(names, count, *shares, strict=True):
        change = None if before is None or now is None else now - before
        table.append([name, n, percent(before), percent(now), points(change)])
    return Figure(
        "classes",
        "Class by class",
        f"{arm.label} against {against.label}, mean over the seeds.",
        figure,
        ["class", "test images", f"{against.label} %", f"{arm.label} %", "points"],
        table,
        frozenset({1, 2, 3, 4}),
    )


# ---------------------------------------------------------------------------------------- helpers


def safe(text: str) -> str:
    """Plotly reads some HTML in its texts."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _value(value: Any) -> str:
    return "" if value is None else format_value(value)


def _shared(trial: TrialState) -> int:
    return sum(record.get("shared_from") is not None for record in trial.records)


def _rung(trial: TrialState) -> object:
    return next((rung for rung, decision in sorted(trial.rungs.items()) if decision == "stop"), "")


def entry_rows(compared: Comparison, found: Verdict | None) -> list[list[object]]:
    """The table in the tutorial's form, with what the fresh seeds say."""
    fresh = {arm.name: arm for arm in found.arms} if found else {}
    against = {c.arm.name: c for c in found.against_plain} if found else {}

    def row(rank: object, entry: Entry) -> list[object]:
        arm, c = fresh.get(entry.trial.name), against.get(entry.trial.name)
        at = c.interval if c else None
        return [
            rank,
            entry.label,
            entry.trial.status,
            percent(entry.accuracy),
            points(entry.delta_vs_baseline),
            points(entry.delta_vs_same_lr),
            percent(float(np.mean(arm.test))) if arm and arm.test else "",
            f"{points(at.mean)} ({points(at.low)} to {points(at.high)})" if at else "",
        ]

    ranked = [row(k, e) for k, e in enumerate(compared.ranked, start=1)]
    return [*ranked, *(row("", e) for e in compared.unfinished)]
