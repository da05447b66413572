"""Simulate what planned looks will detect, and how many seeds they will take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy

from tune_swa.inference.looks import spend_alpha
from tune_swa.inference.rule import LEAST_CHANCE, combine_p_values, predict_success
from tune_swa.inference.statistics import combine_mean_squares

STUDIES = 4000
"""Made-up studies; a chance of a half then has a standard error of 0.8 %."""

PARTICULAR, RESIDUAL = 0.025, 0.59
"""Shares of the variance p (1 - p) of a single answer: the part that is particular to a configuration on an
image, and the part that every run draws anew. The rest is how hard an image is, for all alike. Those of the
model of benchmarks/verdict.py, where two runs of one configuration disagree on 11 % of the images at an
accuracy of 90 %."""


@dataclass(frozen=True)
class Foresight:
    """Power and cost of planned looks."""

    chance: float
    """Chance of "better", with the gain that was asked about."""
    mean_seeds: float
    """Seeds until the stop, with that gain."""
    mean_seeds_without: float
    """The same without any gain."""
    most_seeds: int


def foresee_looks(
    gain: float,
    deviation: float,
    images: int,
    looks: Sequence[int],
    *,
    accuracy: float = 0.9,
    plain: int = 2,
    plan: int = 1,
) -> Foresight:
    """Chance that the planned looks find a gain, and the seeds they take, by simulation with a fixed seed.

    Of one finalist, all of whose plain arms are equally good, which is the hardest case.

    Args:
        gain: true difference of accuracies, such as 0.01 for one point.
        deviation: standard deviation of a run's accuracy between seeds, such as 0.006.
        images: test images, two or more.
        looks: numbers of seeds, of `looks.plan_looks`; two or more.
        accuracy: of the plain arms, between 0 and 1.
        plain: plain arms, one or more.
        plan: as in `looks.spend_alpha`.
    """
    chance, seeds = _simulate_studies(gain, deviation, images, looks, accuracy, plain, plan)
    _, without = _simulate_studies(0.0, deviation, images, looks, accuracy, plain, plan)
    return Foresight(chance, seeds, without, looks[-1])


def _simulate_studies(
    gain: float, deviation: float, images: int, looks: Sequence[int], accuracy: float, plain: int, plan: int
) -> tuple[float, float]:
    """Share of studies that end with "better", and mean number of seeds."""
    drawn = np.random.default_rng(0)
    answer = accuracy * (1 - accuracy)
    of_images = math.sqrt(PARTICULAR * answer / images)
    of_runs = math.sqrt(deviation**2 + RESIDUAL * answer / images)
    # test accuracy of each run, the finalist's first: [studies, 1 + plain, seeds]
    runs = drawn.normal(0, of_runs, (STUDIES, 1 + plain, looks[-1]))
    runs += drawn.normal(0, of_images, (STUDIES, 1 + plain, 1))
    runs[:, 0] += gain
    levels = spend_alpha(looks, plan)
    better = np.zeros(STUDIES, dtype=bool)
    ended = np.zeros(STUDIES, dtype=bool)
    seeds = np.full(STUDIES, looks[-1])
    for number, level in zip(looks, levels, strict=True):
        p_value, chance = _look_at(runs[:, :, :number], images, answer, looks[-1], levels[-1])
        hit = ~ended & (p_value <= level)
        stopped = hit | (~ended & (chance < LEAST_CHANCE))
        better |= hit
        seeds[stopped] = number
        ended |= stopped
    return float(better.mean()), float(seeds.mean())


def _look_at(runs: Any, images: int, answer: float, last: int, level: float) -> tuple[Any, Any]:
    """The rule's p-value of each study, and its chance to succeed at the last look.

    Args:
        runs: shape [studies, 1 + plain, seeds], test accuracies, the finalist's first.
        images: that they are of.
        answer: variance of a single answer.
        last, level: number of seeds and level of the last look.
    """
    seeds = runs.shape[2]
    differences = runs[:, :1] - runs[:, 1:]
    means = differences.mean(axis=2)
    ms_seed = images * differences.var(axis=2, ddof=1)
    residual = 2 * RESIDUAL * answer  # of many images: hardly estimated with an error
    variance, degrees = combine_mean_squares(
        ms_seed, residual + seeds * 2 * PARTICULAR * answer, residual, seeds, images
    )
    one_sided = scipy.stats.t.sf(means / np.sqrt(variance), degrees)
    rows, best = np.arange(len(runs)), means.argmin(axis=1)
    first = one_sided[rows, best]
    one_sided[rows, best] = 0.0
    shrinking = np.maximum(ms_seed, residual)[rows, best] / images
    chance = predict_success(means[rows, best], variance[rows, best], shrinking, seeds, last, level)
    return combine_p_values(first, one_sided), chance
