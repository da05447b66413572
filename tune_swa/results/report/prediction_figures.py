"""Figures from the predictions on the test images: calibration, and accuracy by class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from tune_swa.inference.calibration import Reliability, bin_reliability
from tune_swa.results.contrasts import TestedArm
from tune_swa.results.predictions import RunPredictions, TestPredictions
from tune_swa.results.report.style import (
    BASELINE,
    GRID,
    SWA,
    Figure,
    blank_figure,
    escape_html,
    format_percent,
    format_points,
)


def draw_calibration(arms: Sequence[TestedArm], predictions: RunPredictions) -> Figure:
    """Draw accuracy against confidence of an SWA arm and a plain one, all runs of each together."""
    figure = blank_figure(400)
    rows: list[list[object]] = []
    lowest = 1.0
    for arm in arms:
        runs = [predictions[run.name] for run in arm.runs if run.name in predictions]
        if not runs:
            continue
        confidence = np.concatenate([r.confidence for r in runs])
        correct = np.concatenate([r.correct for r in runs])
        curve = bin_reliability(confidence, correct, equal_mass=True)
        figure.add_trace(
            go.Scatter(
                x=100 * curve.confidence, y=100 * curve.accuracy, name=arm.label, mode="lines+markers",
                line={
                    "dash": "solid" if arm.kind == "swa" else "dot",
                    "color": SWA if arm.kind == "swa" else BASELINE,
                },
            )
        )  # fmt: skip
        lowest = min(lowest, *curve.confidence, *curve.accuracy)
        rows += _tabulate_calibration(arm, runs, curve)
    figure.add_trace(
        go.Scatter(x=[100 * lowest, 100], y=[100 * lowest, 100], mode="lines",
                   line={"color": GRID, "width": 2}, showlegend=False, hoverinfo="skip")
    )  # fmt: skip
    figure.update_xaxes(title="confidence, %")
    figure.update_yaxes(title="accuracy, %")
    return Figure(
        "calibration",
        "Calibration",
        "On the diagonal, predictions with 90 % confidence are right nine times in ten. Bins hold equally "
        "many test images, of all runs together; nll, Brier score and calibration errors (ECE) are means "
        "over the runs.",
        figure if rows else None,
        ["configuration", "bin of confidence, %", "images", "confidence %", "accuracy %", "nll", "Brier",
         "ECE %, equal widths", "ECE %, equal masses"],
        rows,
        frozenset(range(1, 9)),
    )  # fmt: skip


def _tabulate_calibration(
    arm: TestedArm, runs: Sequence[TestPredictions], curve: Reliability
) -> list[list[object]]:
    """All images of an arm, then each bin."""
    confidence = np.concatenate([r.confidence for r in runs])
    correct = np.concatenate([r.correct for r in runs])
    # over runs, as the recorded one and as nll and Brier: pooled runs would hide errors that cancel
    equal_mass = [bin_reliability(r.confidence, r.correct, equal_mass=True).ece for r in runs]
    rows: list[list[object]] = [
        [arm.label, "all", len(correct), format_percent(float(confidence.mean())),
         format_percent(float(correct.mean())), f"{arm.mean_of('nll'):.4f}", f"{arm.mean_of('brier'):.4f}",
         format_percent(arm.mean_of("ece")), format_percent(float(np.mean(equal_mass)))]
    ]  # fmt: skip
    bins = zip(curve.low, curve.high, curve.images, curve.confidence, curve.accuracy, strict=True)
    return rows + [
        [arm.label, f"{format_percent(low)} to {format_percent(high)}", int(n), format_percent(mean),
         format_percent(accuracy), "", "", "", ""]
        for low, high, n, mean, accuracy in bins
    ]  # fmt: skip


def draw_classes(
    arm: TestedArm, against: TestedArm, predictions: RunPredictions, names: Sequence[str]
) -> Figure:
    """Draw the accuracy of two arms class by class."""
    figure = blank_figure(360)
    shares = []
    for side, color in ((against, BASELINE), (arm, SWA)):
        counts, share = _accuracy_by_class(side, predictions, len(names))
        shares.append(share)
        figure.add_trace(
            go.Bar(x=[escape_html(n) for n in names], y=[None if s is None else 100 * s for s in share],
                   name=side.label, marker={"color": color})
        )  # fmt: skip
    lowest = min((s for side in shares for s in side if s is not None), default=0.0)
    figure.update_yaxes(title="test accuracy, %", range=[max(0.0, 100 * lowest - 5), 100.5])
    figure.update_xaxes(type="category")
    rows = [
        [name, n, format_percent(plain), format_percent(swa),
         format_points(None if plain is None or swa is None else swa - plain)]
        for name, n, plain, swa in zip(names, counts, *shares, strict=True)
    ]  # fmt: skip
    return Figure(
        "classes",
        "Accuracy by class",
        f"{arm.label} against {against.label}, mean over the seeds.",
        figure,
        ["class", "test images", f"{against.label} %", f"{arm.label} %", "points"],
        rows,
        frozenset({1, 2, 3, 4}),
    )


def _accuracy_by_class(
    arm: TestedArm, predictions: RunPredictions, classes: int
) -> tuple[list[int], list[float | None]]:
    """Test images of each class, and the share that is right over all runs (None without images)."""
    runs = [predictions[run.name] for run in arm.runs if run.name in predictions]
    correct = np.stack([r.correct for r in runs]).mean(axis=0)
    of_class = [runs[0].label == k for k in range(classes)]
    return (
        [int(images.sum()) for images in of_class],
        [float(correct[images].mean()) if images.any() else None for images in of_class],
    )
