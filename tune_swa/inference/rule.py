"""The rule of the verdict: when a finalist is better, and when no more seeds are needed.

A *finalist* is an SWA configuration that won the race, a *plain* arm one without SWA: a baseline, or a
finalist's own settings. Both are run on the same fresh seeds and judged on the test images, by a score of
each image: right or wrong, or its negative nll.

A finalist is called better where both of these hold:

1. against the plain arm with the best mean score, the lower end of its interval is above 0: a
   one-sided test at the look's level, which adds up to 2.5 % over the looks of a plan;
2. against every other plain arm it is ahead at twice that level. So whichever plain arm is truly the
   best, it had to be beaten at a level that adds up to 5 %: the intersection-union test (Berger 1982)
   keeps that without any correction, whatever the plain arms are like.

The first alone is wrong in 12 % where the best plain arm is the noisiest one; the second alone, at 2.5 %,
finds a third fewer gains of one point where all plain arms are equally good. Each comparison is
a t-test for new seeds and new images (`statistics.crossed_interval`), whose variance is that pair's own, so
arms may vary unequally. Finalists are tested in the order of the race, the next one only after the one before
was better (a fixed sequence, which needs no correction: Maurer et al. 1995).

"Worse" is a claim about the best of several plain arms, which chance favours; so it is made at the look's
level over the number of all comparisons (Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from tune_swa.inference.looks import LEAST_SEEDS
from tune_swa.inference.statistics import Crossed, Interval, crossed_interval

Scores = NDArray[Any]
"""Scores of single test images, higher is better: right or wrong (bool), or for example the negative nll."""
Outcome = Literal["better", "worse", "not distinguishable", "not tested", "too few seeds"]
Stop = Literal["success", "futility", "seeds"]

OTHERS_FACTOR = 2.0
"""Level against the other plain arms, in levels against the best one."""

LEAST_CHANCE = 0.1
"""Least chance that more seeds will show a gain: below it none are trained. Giving up below 5 or 20 % instead
finds 1.6 % more or 3.3 % fewer of the gains of one point, for 1.1 seeds more or 1.4 fewer."""


@dataclass(frozen=True)
class Comparison:
    """A finalist against one plain arm, on the seeds that both have."""

    finalist: str
    against: str
    seeds: tuple[int, ...]
    crossed: Crossed
    """Interval of finalist minus plain arm, for new seeds and new images, at 1 - 2 x the look's level."""
    p_better: float
    """One-sided p-value of the finalist not being better."""
    p_worse: float
    """One-sided p-value of the finalist not being worse."""


@dataclass(frozen=True)
class FinalistJudgement:
    """The outcome of a look for one finalist."""

    finalist: str
    outcome: Outcome
    """"not tested": better by its own figures, but the finalist before it is not."""
    comparison: Comparison | None
    """Against the plain arm with the best mean score: the headline. None: no two common seeds."""
    comparisons: tuple[Comparison, ...]
    """Against every plain arm that can be compared, the best one first."""
    interval: Interval | None
    """Interval of the headline's difference. Its lower end is at the look's level, its upper end allows for
    the best of several plain arms, as "worse" does. `p_value` is `FinalistJudgement.p_value`, doubled."""
    p_value: float
    """One-sided p-value of not being better than every plain arm: at or below the look's level it is
    better."""
    not_beaten: tuple[str, ...]
    """Other plain arms that it is not ahead of at OTHERS_FACTOR x the level."""
    in_turn: bool
    """Whether every finalist before it is better, so that it may be called better."""
    chance: float
    """Chance of "better" at the last planned look, given the present difference and its uncertainty."""


@dataclass(frozen=True)
class Judgement:
    """The outcome of a look."""

    look: int
    """Number of the look within its plan, from 1."""
    looks: tuple[int, ...]
    level: float
    """One-sided level of this look."""
    finalists: tuple[FinalistJudgement, ...]
    """Outcomes in the order of the race, which is that of testing."""
    stop: Stop | None
    """Why no more seeds are trained: a finalist is better ("success"), it has hardly a chance to be found
    so ("futility"), or this was the last planned look ("seeds"); None: the next look follows."""


def judge_look(
    scores: Mapping[str, Mapping[int, Scores]],
    finalists: Sequence[str],
    plain: Sequence[str],
    *,
    look: int,
    looks: Sequence[int],
    levels: Sequence[float],
) -> Judgement:
    """Apply the rule at a look.

    A plain arm that has fewer than two seeds in common with a finalist is not compared with it: it has
    failed as a way to train. A finalist without enough seeds is passed over in the order of testing.

    Args:
        scores: of each arm by seed, shape (N,): the score of each test image, higher is better. Arms and
            seeds may be missing.
        finalists: their names, in the order of the race, best first.
        plain: names of all plain arms that are run on these seeds.
        look: number within the plan, from 1.
        looks: numbers of seeds of the plan (`looks.plan_looks`).
        levels: one-sided level of each look (`looks.spend_alpha`), as recorded before the first one.
    """
    level, tests = levels[look - 1], len(finalists) * len(plain)
    judged: list[FinalistJudgement] = []
    in_turn = True
    for name in finalists:
        compared = [_compare_arms(name, other, scores, level) for other in plain]
        found = _judge_finalist(name, [c for c in compared if c is not None], scores, level, tests)
        found = replace(found, in_turn=in_turn, chance=_predict_chance(found, looks[-1], levels[-1], scores))
        if found.outcome == "better" and not in_turn:
            found = replace(found, outcome="not tested")
        judged.append(found)
        in_turn = in_turn and found.outcome in ("better", "too few seeds")
    return Judgement(look, tuple(looks), level, tuple(judged), _find_stop(judged, last=look == len(looks)))


def subtract_scores(first: Scores, second: Scores) -> Scores:
    """Subtract scores image by image; for right and wrong: 1, 0 or -1, in a byte each."""
    difference: Scores = np.subtract(first, second, dtype=np.int8 if first.dtype == np.bool_ else None)
    return difference


def _find_stop(judged: Sequence[FinalistJudgement], *, last: bool) -> Stop | None:
    """Futility does not bind: the level holds, too, where someone goes on in spite of it."""
    if any(j.outcome == "better" for j in judged):
        return "success"
    if last:
        return "seeds"
    if all(j.comparison is None for j in judged):  # they, or all plain arms, fail on nearly every seed
        return "futility"
    decisive = next((j for j in judged if j.in_turn and j.outcome != "too few seeds"), None)
    return "futility" if decisive is not None and decisive.chance < LEAST_CHANCE else None


def _compare_arms(
    finalist: str, against: str, scores: Mapping[str, Mapping[int, Scores]], level: float
) -> Comparison | None:
    first, second = scores.get(finalist, {}), scores.get(against, {})
    seeds = tuple(sorted(first.keys() & second.keys()))
    if len(seeds) < 2:
        return None
    table = np.stack([subtract_scores(first[seed], second[seed]) for seed in seeds])
    found = crossed_interval(table, 1 - 2 * level)
    one_sided = found.interval.p_value / 2
    ahead = found.interval.mean > 0
    return Comparison(
        finalist=finalist,
        against=against,
        seeds=seeds,
        crossed=found,
        p_better=one_sided if ahead else 1 - one_sided,
        p_worse=1 - one_sided if ahead else one_sided,
    )


def _judge_finalist(
    name: str,
    compared: list[Comparison],
    scores: Mapping[str, Mapping[int, Scores]],
    level: float,
    tests: int,
) -> FinalistJudgement:
    """Judge a finalist as if it were in turn; the caller fills in whether it is, and its chance."""
    compared.sort(key=lambda c: -_mean_score(scores[c.against]))  # stable: equal means keep the order
    if not compared:
        return FinalistJudgement(name, "too few seeds", None, (), None, 1.0, (), True, 0.0)
    best, others = compared[0], compared[1:]
    p_value = float(combine_p_values(best.p_better, [[c.p_better for c in others]])[0])
    wide = best.crossed.interval
    high = wide.mean
    if wide.standard_error > 0:
        high += wide.standard_error * float(scipy.stats.t.isf(level / tests, wide.degrees_of_freedom))
    outcome: Outcome = "not distinguishable"
    if len(best.seeds) < LEAST_SEEDS:
        outcome = "too few seeds"
    elif p_value <= level and wide.mean > 0:
        outcome = "better"
    elif best.p_worse * tests <= level and wide.mean < 0:
        outcome = "worse"
    return FinalistJudgement(
        finalist=name,
        outcome=outcome,
        comparison=best,
        comparisons=tuple(compared),
        interval=replace(wide, high=high, p_value=min(1.0, 2 * p_value)),
        p_value=p_value,
        not_beaten=tuple(c.against for c in others if c.p_better > OTHERS_FACTOR * level),
        in_turn=True,
        chance=0.0,
    )


def combine_p_values(best: ArrayLike, others: ArrayLike) -> Any:
    """One-sided p-value of "better than every plain arm": at or below a level where the rule finds it better.

    Args:
        best: shape (...,), p-value against the plain arm of the best mean.
        others: shape (..., P), against the others; may be empty.
    """
    rest = np.max(np.asarray(others, dtype=np.float64), axis=-1, initial=0.0) / OTHERS_FACTOR
    return np.maximum(np.asarray(best, dtype=np.float64), rest)


def _predict_chance(
    found: FinalistJudgement, last: int, level: float, scores: Mapping[str, Mapping[int, Scores]]
) -> float:
    """Return the chance that the finalist beats its best plain arm at the last look (`predict_success`)."""
    if found.comparison is None:
        return 0.0
    at, seeds = found.comparison.crossed, len(found.comparison.seeds)
    images = len(next(iter(scores[found.finalist].values())))
    ms_seed, _, ms_residual = at.mean_squares
    shrinking = max(ms_seed, ms_residual) / images
    wide = at.interval
    return float(predict_success(wide.mean, wide.standard_error**2, shrinking, seeds, last, level))


def predict_success(
    mean: ArrayLike, variance: ArrayLike, shrinking: ArrayLike, seeds: int, last: int, level: float
) -> Any:
    """Return the chance that the test against one plain arm succeeds at the last look: its predictive power.

    With a flat prior the estimate at the last look is normal around that of now, and its variance is
    what more seeds take off the variance (Spiegelhalter et al. 1986). The images stay as they are.

    Args:
        mean: difference by now, of any shape.
        variance: of `mean`.
        shrinking: the part of it that more seeds divide, times the seeds: variance of the seeds plus that
            of the residual over the images.
        seeds: by now.
        last: at the last look.
        level: one-sided, of the last look.
    """
    now, taken = np.asarray(variance, dtype=np.float64), np.asarray(shrinking) * (1 / seeds - 1 / last)
    error = np.sqrt(np.maximum(now - taken, 0.0))
    over = np.asarray(mean) - error * scipy.stats.t.isf(level, max(1, last - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        chance = scipy.stats.norm.cdf(over / np.sqrt(np.minimum(taken, now)))
    return np.where(taken > 0, chance, np.where(over > 0, 1.0, 0.0))


def _mean_score(by_seed: Mapping[int, Scores]) -> float:
    return math.fsum(float(of_images.mean()) for of_images in by_seed.values()) / len(by_seed)
