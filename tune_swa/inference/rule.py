"""When is a finalist called better than the best plain training, and when has one seen enough?

Interface agreed with the stages that use it; constants are being chosen by benchmarks/verdict.py.

Words: an *arm* is a configuration on fresh seeds; *plain* arms are trained without SWA (baselines and the finalists' own
trunks), *finalists* with it. A *look* is one analysis of the test images at a planned number of seeds; a *level* is the
one-sided chance of a wrong "better" that a single test may take.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tune_swa.inference.statistics import Crossed

Bools = NDArray[np.bool_]
Words = Literal["better", "worse", "not distinguishable", "too few seeds"]
Stop = Literal["success", "futility", "seeds"]

LEAST_SEEDS = 5
"""With fewer there is no verdict: an interval from two or three values is as wide as the question."""


# ------------------------------------------------------------------------------------- the race


@dataclass(frozen=True)
class RaceRound:
    """One round of a race: which seeds are added, and how many arms of each side run in it."""

    seeds: int
    """Seeds that each arm of the round has when it ends, those of the rounds before included."""
    swa: int
    plain: int


def plan_race(swa: int, plain: int, seeds: int, *, finalists: int) -> tuple[RaceRound, ...]:
    """Rounds of a race with so many arms on each side: halving, all rounds known beforehand.

    Args:
        swa, plain: arms that enter.
        seeds: fresh seeds that an arm which stays to the end has seen.
        finalists: SWA arms that are wanted at the end.
    """
    raise NotImplementedError


def halve_race(scores: Mapping[str, Mapping[int, float]], keep: int) -> tuple[str, ...]:
    """The `keep` best arms of one side, best first, by their mean validation accuracy over all race seeds so far.

    Args:
        scores: validation accuracy of each arm (0 to 1) by seed. An arm that lacks a seed another one has comes after
            all that lack none; one without any is left out. Ties keep the order given (the search's ranking).
        keep: how many; fewer are returned where there are fewer.
    """
    raise NotImplementedError


def keep_plain(scores: Mapping[str, Mapping[int, float]], most: int) -> tuple[str, ...]:
    """The plain arms that go on to the test images, best first: `most` at most."""
    raise NotImplementedError


# ------------------------------------------------------------------------------------ the looks


def plan_looks(seeds: int, max_seeds: int) -> tuple[int, ...]:
    """Numbers of seeds at which the test images are looked at: `seeds`, ..., `max_seeds`, fixed beforehand.

    (5, 5) -> (5,); (5, 20) -> (5, 10, 15, 20) or alike.
    """
    raise NotImplementedError


def spend_alpha(looks: Sequence[int], plan: int = 1) -> tuple[float, ...]:
    """One-sided level of each planned look. Those of the first plan together spend ALPHA on a wrong "better".

    Args:
        looks: numbers of seeds of `plan_looks`.
        plan: 1 for the first confirmation of an experiment, 2 for the first `tune-swa confirm` after it, ...: each later
            plan has half of the level of the one before, so all together stay below twice that of the first.
    """
    raise NotImplementedError


@dataclass(frozen=True)
class Comparison:
    """A finalist against one plain arm, on the seeds that both have."""

    finalist: str
    against: str
    seeds: tuple[int, ...]
    crossed: Crossed
    """Interval of finalist minus plain for new seeds and new images; its level is 1 - 2 x the look's one-sided level."""
    p_better: float
    """One-sided, of the plain arm being as good or better."""
    p_worse: float


@dataclass(frozen=True)
class FinalistJudgement:
    """What a look says of one finalist."""

    finalist: str
    words: Words
    comparison: Comparison | None
    """Against the best plain arm: the headline. None where they share fewer than two seeds."""
    comparisons: tuple[Comparison, ...]
    """Against every plain arm that was run, the best one first."""
    p_value: float
    """One-sided, of "better than every plain arm": below the look's level it is called better (if `in_turn`)."""
    in_turn: bool
    """Whether it was tested: finalists are tested in the race's order, the next one only where the one before is better."""


@dataclass(frozen=True)
class Judgement:
    """What a look says."""

    look: int
    """Counts from 1 within its plan."""
    looks: tuple[int, ...]
    level: float
    """One-sided, of this look."""
    finalists: tuple[FinalistJudgement, ...]
    """In the race's order, which is that of testing."""
    stop: Stop | None
    """Why no more seeds are trained: a finalist is better ("success"), none could become it ("futility"), this was the
    last planned look ("seeds"); None: the next look follows."""


def judge_look(
    correct: Mapping[str, Mapping[int, Bools]],
    finalists: Sequence[str],
    plain: Sequence[str],
    validation: Mapping[str, Sequence[float]],
    *,
    look: int,
    looks: Sequence[int],
    levels: Sequence[float],
) -> Judgement:
    """Apply the rule at a look.

    Args:
        correct: arm -> seed -> shape (N,), whether each test image was classified correctly. An arm or seed may be missing.
        finalists: names, in the order of the race (best first).
        plain: names of all plain arms that were run on these seeds.
        validation: arm -> validation accuracies on all fresh seeds, those of the race and of these looks (chooses
            which plain arm is called the best).
        look: number within the plan, from 1.
        looks: planned numbers of seeds (`plan_looks`).
        levels: their one-sided levels (`spend_alpha`), as recorded before the first look.
    """
    raise NotImplementedError


# ---------------------------------------------------------------------------------- before it starts


@dataclass(frozen=True)
class Foresight:
    """What planned looks will find, and at what cost."""

    chance: float
    """Of finding the gain."""
    mean_seeds: float
    """Seeds until the stop, with that gain."""
    mean_seeds_without: float
    """The same without any gain."""
    most_seeds: int


def foresee_looks(
    gain: float, deviation: float, images: int, looks: Sequence[int], *, accuracy: float = 0.9, plain: int = 2
) -> Foresight:
    """Chance that the planned looks find a gain, and the seeds that they take, by simulation with a fixed seed.

    Args:
        gain: true difference of accuracies (0.01 is one point).
        deviation: standard deviation of a run's accuracy between seeds (0.006 is 0.6 points).
        images: test images.
        looks: of `plan_looks`.
        accuracy: of the plain arms.
        plain: arms to beat, all equally good.
    """
    raise NotImplementedError


# ------------------------------------------------------------------------------------- remarks


@dataclass(frozen=True)
class PartsComparison:
    """Mean accuracy on test images minus that on validation images, of the same runs."""

    difference: float
    standard_error: float
    p_value: float
    """Two-sided."""
    differ: bool
    """Whether p_value is below `level`."""
    level: float


def compare_parts(
    validation: ArrayLike, test: ArrayLike, validation_images: int, test_images: int
) -> PartsComparison:
    """Whether validation and test accuracy of an arm's fresh runs differ by more than images and seeds explain.

    Args:
        validation: shape (S,), accuracy of each run on the validation images.
        test: shape (S,), of the same runs on the test images.
        validation_images, test_images: how many.
    """
    raise NotImplementedError


@dataclass(frozen=True)
class OneError:
    """How many are as good as the best."""

    count: int
    """Configurations within one standard error of the best, the best included."""
    standard_error: float
    """Of the best one's accuracy."""


def count_within_one_error(accuracies: ArrayLike, images: int) -> OneError:
    """Configurations whose accuracy is within one standard error of the best (the rule of Breiman et al. 1984)."""
    raise NotImplementedError
