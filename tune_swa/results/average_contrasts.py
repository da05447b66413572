"""Compare every average of every arm with the best plain training, on the test images of fresh seeds.

The averages of a configuration share its runs, so they cost no further training. The verdict of a search is
about the leading average alone; here stands what the others do, with a correction for how many there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tune_swa.inference.looks import LEAST_SEEDS
from tune_swa.inference.statistics import Interval, adjust_holm, crossed_interval
from tune_swa.results.contrasts import TestedArm, Verdict
from tune_swa.results.predictions import REFRESHED, SHIPPED, TestPredictions

Metric = Literal["accuracy", "nll", "calibrated"]
"""The last is the nll at the temperature that was fitted on the validation images."""
Outcome = Literal["better", "worse", "not distinguishable", "too few seeds", "unfinished"]
Predictions = Mapping[str, Mapping[str, TestPredictions]]
"""By run, then by variant of its model."""
Repetitions = Mapping[int, TestPredictions]
"""Predictions by seed, or by the number of a group of seeds."""
REFRESHED_LABEL = "BN refresh alone"


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
    """An average of an arm, or an ensemble of its runs, against the same of the best plain training."""

    arm: TestedArm
    average: str
    """Its label, or the method of an ensemble."""
    against: TestedArm
    repetitions: tuple[int, ...]
    """That both have: seeds, or numbers of groups of seeds."""
    accuracy: Difference
    nll: Difference
    calibrated: Difference | None
    """The nll where each model is at its own temperature, which takes away what a temperature alone brings
    (Ashukha et al. 2020); None: not all of the runs have one, or it is an ensemble."""

    def read_metric(self, metric: Metric) -> Difference:
        """Return the difference in a metric that it has."""
        found: Difference = getattr(self, metric)
        return found


class Group(NamedTuple):
    """What is compared with the same rivals."""

    against: TestedArm
    """The rival that differences are shown to."""
    entries: tuple[tuple[TestedArm, str, Repetitions], ...]
    """Arm, label and predictions."""
    rivals: Mapping[str, Repetitions]
    """Predictions of every rival, by its name. "Better" is ahead of all of them."""

    def list_predictions(self) -> list[TestPredictions]:
        """All that is compared."""
        both = (*(runs for *_, runs in self.entries), *self.rivals.values())
        return [predictions for runs in both for predictions in runs.values()]


def compare_averages(found: Verdict, predictions: Predictions) -> tuple[AverageContrast, ...]:
    """Compare the averages of the finalists and of the best plain training; empty where none are listed.

    Beside them stands the best plain training with refreshed batch-normalisation statistics, since a refresh
    is part of what an average brings.

    "Better" means ahead of every plain arm, as in the verdict: the largest of the p-values counts, so there
    is no price for picking the best of them as the rival that is shown.

    Args:
        found: verdict of the look.
        predictions: of all variants of its runs.
    """
    best = found.best_plain
    if best is None:
        return ()
    entries = [
        (arm, label, {run.seed: predictions[run.name][label] for run in arm.runs if run.name in predictions})
        for arm in (*found.finalists, best)
        for label in list_averages(arm, predictions)
    ]
    again = {seed: variants[REFRESHED] for seed, variants in _list_refreshed(best, predictions)}
    if entries and again:  # a network without batch normalisation has nothing to refresh
        entries.append((best, REFRESHED_LABEL, again))
    rivals = {plain.name: select_shipped(plain, predictions) for plain in found.plain}
    return compare_entries(found, best, entries, rivals)


def compare_entries(
    found: Verdict,
    best: TestedArm,
    entries: Iterable[tuple[TestedArm, str, Repetitions]],
    rivals: Mapping[str, Repetitions],
) -> tuple[AverageContrast, ...]:
    """Compare each entry with the plain arms, as one family of tests for each metric.

    Args:
        found: verdict of the look.
        best: the plain arm that differences are shown to.
        entries: arm, label and predictions.
        rivals: predictions of every plain arm, by its name.
    """
    return compare_groups(found, [Group(best, tuple(entries), rivals)])


def compare_groups(found: Verdict, groups: Sequence[Group]) -> tuple[AverageContrast, ...]:
    """Compare the entries of each group with its rivals; all of them are one family of tests for each metric.

    Args:
        found: verdict of the look.
        groups: in the order of the result.
    """
    everyone = [said for group in groups for said in group.list_predictions()]
    metrics: list[Metric] = ["accuracy", "nll"]
    if all(said.calibrated is not None for said in everyone):
        metrics.append("calibrated")
    compared = []
    for against, entries, rivals in groups:
        for arm, label, runs in entries:
            both = tuple(sorted(runs.keys() & rivals[against.name].keys()))
            if len(both) < 2:
                continue
            level, name = 1 - found.alpha, against.name
            measured = {m: _measure_difference(m, runs, name, rivals, level) for m in metrics}
            accuracy, nll = measured["accuracy"], measured["nll"]
            compared.append(
                AverageContrast(arm, label, against, both, accuracy, nll, measured.get("calibrated"))
            )
    return _adjust_p_values(compared, metrics, found)


def list_averages(arm: TestedArm, predictions: Predictions) -> list[str]:
    """Return the labels of the averages that all runs of an arm have, in their order."""
    runs = [predictions[run.name] for run in arm.runs if run.name in predictions]
    first = [] if not arm.runs or arm.runs[0].tested is None else list(arm.runs[0].tested.averages or {})
    return [label for label in first if all(label in variants for variants in runs)]


def _list_refreshed(
    arm: TestedArm, predictions: Predictions
) -> Iterator[tuple[int, Mapping[str, TestPredictions]]]:
    for run in arm.runs:
        if REFRESHED in predictions.get(run.name, {}):
            yield run.seed, predictions[run.name]


def select_shipped(arm: TestedArm, predictions: Predictions) -> dict[int, TestPredictions]:
    """Return the predictions of the model to ship of each run of an arm, by seed."""
    return {run.seed: predictions[run.name][SHIPPED] for run in arm.runs if run.name in predictions}


def _measure_difference(
    metric: Metric,
    runs: Repetitions,
    best: str,
    rivals: Mapping[str, Repetitions],
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
    if metric == "accuracy":
        return said.correct.astype(np.float64)
    if metric == "nll":
        return said.nll
    assert said.calibrated is not None
    return said.calibrated.nll


def _one_sided(interval: Interval, sign: int) -> float:
    """The p-value of the mean not lying on the side of `sign`."""
    half = interval.p_value / 2
    return half if sign * interval.mean > 0 else 1 - half


def _adjust_p_values(
    compared: Sequence[AverageContrast], metrics: Sequence[Metric], found: Verdict
) -> tuple[AverageContrast, ...]:
    """Adjust for the number of averages, each metric by itself, and say what comes out."""
    adjusted = {m: adjust_holm([c.read_metric(m).p_value for c in compared]) for m in metrics}

    def conclude(c: AverageContrast, metric: Metric, p_value: float) -> Difference:
        points = c.read_metric(metric)
        outcome: Outcome = points.outcome if p_value <= found.alpha else "not distinguishable"
        if len(c.repetitions) < LEAST_SEEDS:
            outcome = "too few seeds"
        if not found.complete:
            outcome = "unfinished"
        return replace(points, p_value=p_value, outcome=outcome)

    concluded = []
    for k, c in enumerate(compared):
        differences: dict[str, Any] = {m: conclude(c, m, adjusted[m][k]) for m in metrics}
        concluded.append(replace(c, **differences))
    return tuple(concluded)
