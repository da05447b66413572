"""Arms on fresh seeds, contrasts between two of them, and the verdict of a look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tune_swa.config import Metric, Params, is_swa_setting, params_key
from tune_swa.experiment.events import Stop
from tune_swa.experiment.objective import Objective
from tune_swa.experiment.trial_state import TrialState
from tune_swa.inference import statistics
from tune_swa.inference.checks import PartsComparison
from tune_swa.inference.rule import subtract_scores
from tune_swa.results.image_scores import score_images
from tune_swa.results.predictions import RunPredictions

Outcome = Literal["better", "worse", "not distinguishable", "not tested", "too few seeds", "unfinished"]


@dataclass(frozen=True)
class TestedArm:
    """A configuration on its fresh seeds."""

    name: str
    kind: str
    label: str
    params: Params
    roles: tuple[str, ...]
    runs: tuple[TrialState, ...]
    """Completed and tested, by seed."""
    missing: tuple[int, ...]
    """Seeds without a completed run."""
    average: str | None = None
    """Label of the average that was chosen for it, which its label names as well; None: none was."""
    configuration: str = ""
    """The configuration alone, beside which any of its averages is named."""

    def name_average(self, average: str) -> str:
        """Name one of its averages in a table of all."""
        return f"{average} (chosen)" if average == self.average else average

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run.seed for run in self.runs)

    @property
    def test(self) -> list[float]:
        """Test accuracy of each run, 0 to 1."""
        return self.test_values("accuracy")

    def test_values(self, metric: str) -> list[float]:
        """A test metric of each run: accuracy, nll, ece or brier."""
        return [_test_metrics(run)[metric] for run in self.runs]

    @property
    def validation(self) -> list[float]:
        """Validation accuracy of each run, 0 to 1."""
        return self.validation_values("accuracy")

    def validation_values(self, metric: Metric) -> list[float]:
        """A validation metric of each run at its last epoch."""
        return [run.records[-1][metric] for run in self.runs]

    @property
    def refreshed(self) -> list[float]:
        """Test accuracy of a baseline's runs with refreshed batch-normalisation statistics."""
        return self.refreshed_values("accuracy")

    def refreshed_values(self, metric: str) -> list[float]:
        """The same of any test metric."""
        return [r.tested.refreshed[metric] for r in self.runs if r.tested and r.tested.refreshed]

    def mean_of(self, metric: str) -> float:
        """Mean over the runs of a test metric, as of `test_values`."""
        return float(np.mean(self.test_values(metric)))


@dataclass(frozen=True)
class Contrast:
    """An arm against another, on the seeds that both have."""

    arm: TestedArm
    against: TestedArm
    seeds: tuple[int, ...]
    differences: Any
    """Shape (S, N), of `metric`, positive where `arm` did better on an image. Of accuracy: 1 where only `arm`
    is right, -1 where only `against` is, else 0; of nll: nll of `against` minus that of `arm`, in nats."""
    paired: statistics.Interval
    """Interval for new seeds on these very images."""
    crossed: statistics.Crossed
    """Interval for new seeds and new images: the verdict rests on it."""
    interval: statistics.Interval
    """Interval of the crossed layout; for a finalist against the best plain arm its upper end allows for its
    being the best of several."""
    p_value: float
    """Two-sided, at or below `alpha` of the look where a claim is made: of a finalist not being better than
    every plain arm, or where it is called worse, than the best of them. Else of this difference alone."""
    outcome: Outcome | None
    """None: a description, which no correction was made for."""
    not_beaten: tuple[str, ...] = ()
    """Labels of other plain arms that it is not clearly ahead of, which "better" asks for."""
    metric: Metric = "accuracy"
    """Of the objective, which the differences, intervals and the outcome are of."""
    beside: statistics.Interval | None = None
    """Crossed interval of the gain in the other metric, of the same runs: a description."""

    @property
    def by_seed(self) -> list[float]:
        """Gain in the test metric on each seed."""
        return [float(value) for value in self.differences.mean(axis=1)]


@dataclass(frozen=True)
class Verdict:
    """The verdict of one look at the test images."""

    look: int
    """Counts from 1 over the whole experiment."""
    alpha: float
    """Two-sided level of its intervals."""
    images: int
    """Test images."""
    planned_seeds: int
    """Number of seeds planned for this look."""
    arms: tuple[TestedArm, ...]
    against_plain: tuple[Contrast, ...]
    """Each finalist against the best plain training that was found, in the order in which they are tested;
    against the best baseline of the search in looks of older journals."""
    against_others: tuple[Contrast, ...]
    """Each finalist against the other plain arms. "better" has to beat them, too."""
    against_trunk: tuple[Contrast, ...]
    """Each finalist against its own settings without SWA: SWA's part alone. A description."""
    complete: bool
    """Whether every planned run has ended."""
    plan: int | None
    """Number of the plan that it belongs to, from 1; None: of an older journal, judged by another rule."""
    looks: tuple[int, ...] = ()
    """Numbers of seeds at which the plan looks."""
    levels: tuple[float, ...] = ()
    """One-sided level of each."""
    stop: Stop | None = None
    """Why no more seeds follow; None: they do, or the look is not complete."""
    parts: PartsComparison | None = None
    """Test against validation images, of the arm with the largest difference of the leading contrast."""
    parts_arm: TestedArm | None = None
    """Whose that is."""
    metric: Metric = "accuracy"
    """Of the objective."""
    earlier: tuple[Verdict, ...] = ()
    """Verdicts of the looks before, first look first."""

    @property
    def best_plain(self) -> TestedArm | None:
        """The best plain training that was found, against which finalists are measured."""
        if self.against_plain:
            return self.against_plain[0].against
        return next((arm for arm in self.arms if "baseline" in arm.roles), None)

    @property
    def plain(self) -> tuple[TestedArm, ...]:
        """Arms that were trained without SWA."""
        return tuple(arm for arm in self.arms if arm.kind == "baseline")

    @property
    def finalists(self) -> tuple[TestedArm, ...]:
        return tuple(arm for arm in self.arms if "finalist" in arm.roles)

    @property
    def leading(self) -> Contrast | None:
        """The first finalist of the race; in older journals, that with the best mean on the look's validation
        images."""
        if self.plan is not None or not self.against_plain:
            return self.against_plain[0] if self.against_plain else None
        return max(self.against_plain, key=lambda c: float(np.mean(c.arm.validation)))

    @property
    def agreed(self) -> Outcome | None:
        """The outcome of every finalist, and so of SWA; None where they differ."""
        outcomes = {c.outcome for c in self.against_plain}
        one = len(outcomes) == 1 and len(self.against_plain) == len(self.finalists)
        return outcomes.pop() if one else None


def interval_columns(c: Contrast | None) -> dict[str, Any]:
    """A difference as columns of tables and data frames; nulls without one."""
    at = c.interval if c else None
    return {
        "against": c.against.label if c else None,
        "delta": at.mean if at else None,
        "interval_low": at.low if at else None,
        "interval_high": at.high if at else None,
        "p_value": c.p_value if c else None,
        "verdict": c.outcome if c else None,
    }


def compare_arms(
    arm: TestedArm,
    against: TestedArm,
    predictions: RunPredictions,
    alpha: float,
    metric: Metric = "accuracy",
) -> Contrast | None:
    """Compare two arms by a metric on the seeds that both have; None with fewer than two."""
    runs = {run.seed: run for run in arm.runs}
    pairs = [(runs[other.seed], other) for other in against.runs if other.seed in runs]
    pairs = [(a, b) for a, b in pairs if a.name in predictions and b.name in predictions]
    if len(pairs) < 2:
        return None
    names = [(a.name, b.name) for a, b in pairs]
    table = _tabulate_differences(names, predictions, metric)
    wide = statistics.crossed_interval(table, 1 - alpha)
    other = _tabulate_differences(names, predictions, Objective(metric).other)
    return Contrast(
        arm=arm,
        against=against,
        seeds=tuple(a.seed for a, _ in pairs),
        differences=table,
        paired=statistics.paired_t(table.mean(axis=1), 1 - alpha),
        crossed=wide,
        interval=wide.interval,
        p_value=wide.interval.p_value,
        outcome=None,
        metric=metric,
        beside=statistics.crossed_interval(other, 1 - alpha).interval,
    )


def _tabulate_differences(
    names: Sequence[tuple[str, str]], predictions: RunPredictions, metric: Metric
) -> NDArray[Any]:
    """Subtract the scores of pairs of runs; shape (S, N), positive where the first run did better."""
    pairs = [(predictions[first], predictions[second]) for first, second in names]
    return np.stack([subtract_scores(score_images(a, metric), score_images(b, metric)) for a, b in pairs])


def compare_with_trunks(
    arms: Sequence[TestedArm], predictions: RunPredictions, alpha: float, metric: Metric = "accuracy"
) -> tuple[Contrast, ...]:
    """Compare each finalist with its own settings without SWA, where both were run."""
    plain = {params_key(arm.params): arm for arm in arms if arm.kind == "baseline"}
    pairs = [(arm, plain.get(params_key(_without_swa(arm)))) for arm in arms if "finalist" in arm.roles]
    found = [
        compare_arms(arm, trunk, predictions, alpha, metric) for arm, trunk in pairs if trunk is not None
    ]
    return tuple(c for c in found if c is not None)


def _without_swa(arm: TestedArm) -> Params:
    return {name: value for name, value in arm.params.items() if not is_swa_setting(name)}


def _test_metrics(run: TrialState) -> dict[str, float]:
    assert run.tested is not None
    metrics: dict[str, float] = run.tested.shipped
    return metrics
