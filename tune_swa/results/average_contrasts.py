"""Compare every average of every arm with the best plain training, on the test images of fresh seeds.

The averages of a configuration share its runs, so they cost no further training. The verdict of a search is
about the leading average alone; here stands what the others do, with a correction for how many there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tune_swa.inference.looks import LEAST_SEEDS
from tune_swa.inference.statistics import Interval, adjust_holm, crossed_interval
from tune_swa.results.contrasts import TestedArm, Verdict
from tune_swa.results.predictions import SHIPPED, TestPredictions

Metric = Literal["accuracy", "nll"]
METRICS: tuple[Metric, ...] = ("accuracy", "nll")
Outcome = Literal["better", "worse", "not distinguishable", "too few seeds", "unfinished"]
Predictions = Mapping[str, Mapping[str, TestPredictions]]
"""By run, then by variant of its model."""


@dataclass(frozen=True)
class Difference:
    """A metric of an average against the best plain training; positive is more of the metric."""

    mean: float
    """Of the average, over its seeds."""
    interval: Interval
    """Of the difference, for new seeds and new images."""
    p_value: float
    """Two-sided, of not being better than every plain arm (where it is worse, of not being worse than the
    best), by Holm's method over all averages that are compared in this metric."""
    outcome: Outcome


@dataclass(frozen=True)
class AverageContrast:
    """An average of an arm against the best plain training's last model."""

    arm: TestedArm
    average: str
    """Its label."""
    against: TestedArm
    seeds: tuple[int, ...]
    """That both have."""
    accuracy: Difference
    nll: Difference


def compare_averages(found: Verdict, predictions: Predictions) -> tuple[AverageContrast, ...]:
    """Compare the averages of the finalists and of the best plain training; empty where none are listed.

    "Better" means ahead of every plain arm, as in the verdict: the largest of the p-values counts, so there
    is no price for picking the best of them as the rival that is shown.

    Args:
        found: verdict of the look.
        predictions: of all variants of its runs.
    """
    best = found.best_plain
    if best is None:
        return ()
    arms = [*found.finalists, best]
    listed = [(arm, label) for arm in arms for label in _list_averages(arm, predictions)]
    compared = [_compare_average(arm, label, best, found, predictions) for arm, label in listed]
    return _adjust_p_values([c for c in compared if c is not None], found)


def _list_averages(arm: TestedArm, predictions: Predictions) -> list[str]:
    """Labels of the averages that all runs of an arm have, in their order."""
    runs = [predictions[run.name] for run in arm.runs if run.name in predictions]
    first = [] if not arm.runs or arm.runs[0].tested is None else list(arm.runs[0].tested.averages or {})
    return [label for label in first if all(label in variants for variants in runs)]


def _compare_average(
    arm: TestedArm, label: str, best: TestedArm, found: Verdict, predictions: Predictions
) -> AverageContrast | None:
    runs = {run.seed: predictions[run.name][label] for run in arm.runs if run.name in predictions}
    rivals = {
        plain.name: {
            run.seed: predictions[run.name][SHIPPED] for run in plain.runs if run.name in predictions
        }
        for plain in found.plain
    }
    seeds = tuple(sorted(runs.keys() & rivals[best.name].keys()))
    if len(seeds) < 2:
        return None
    differences = {
        metric: _measure_difference(metric, runs, best.name, rivals, 1 - found.alpha) for metric in METRICS
    }
    return AverageContrast(arm, label, best, seeds, differences["accuracy"], differences["nll"])


def _select_shipped(arm: TestedArm, predictions: Predictions) -> dict[int, TestPredictions]:
    return {run.seed: predictions[run.name][SHIPPED] for run in arm.runs if run.name in predictions}


def _measure_difference(
    metric: Metric,
    runs: Mapping[int, TestPredictions],
    best: str,
    rivals: Mapping[str, Mapping[int, TestPredictions]],
    level: float,
) -> Difference:
    """The difference to the best plain arm, with p-values that count every plain arm.

    Its p-value is not adjusted yet, and its outcome only says which way it points.
    """
    intervals = {}
    for name, other in rivals.items():
        seeds = sorted(runs.keys() & other.keys())
        if len(seeds) >= 2:
            table = np.stack([_values(metric, runs[s]) - _values(metric, other[s]) for s in seeds])
            intervals[name] = crossed_interval(table, level).interval
    shown = intervals[best]
    sign = 1 if metric == "accuracy" else -1
    ahead = max(_one_sided(interval, sign) for interval in intervals.values())
    behind = min(1.0, len(intervals) * _one_sided(shown, -sign))
    mean = float(np.mean([_values(metric, said).mean() for said in runs.values()]))
    outcome: Outcome = "better" if ahead <= behind else "worse"
    return Difference(mean, shown, min(1.0, 2 * min(ahead, behind)), outcome)


def _values(metric: Metric, said: TestPredictions) -> NDArray[np.float64]:
    """Metric of each image, shape (N,)."""
    return said.correct.astype(np.float64) if metric == "accuracy" else said.nll


def _one_sided(interval: Interval, sign: int) -> float:
    """The p-value of the mean not lying on the side of `sign`."""
    half = interval.p_value / 2
    return half if sign * interval.mean > 0 else 1 - half


def _adjust_p_values(compared: Sequence[AverageContrast], found: Verdict) -> tuple[AverageContrast, ...]:
    """Adjust for the number of averages, each metric by itself, and say what comes out."""
    adjusted = {m: adjust_holm([getattr(c, m).p_value for c in compared]) for m in METRICS}

    def conclude(c: AverageContrast, metric: Metric, p_value: float) -> Difference:
        points: Difference = getattr(c, metric)
        outcome: Outcome = points.outcome if p_value <= found.alpha else "not distinguishable"
        if len(c.seeds) < LEAST_SEEDS:
            outcome = "too few seeds"
        if not found.complete:
            outcome = "unfinished"
        return replace(points, p_value=p_value, outcome=outcome)

    def conclude_both() -> Iterator[AverageContrast]:
        for c, accuracy, nll in zip(compared, adjusted["accuracy"], adjusted["nll"], strict=True):
            yield replace(c, accuracy=conclude(c, "accuracy", accuracy), nll=conclude(c, "nll", nll))

    return tuple(conclude_both())
