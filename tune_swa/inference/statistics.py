"""Intervals and tests of differences between two configurations.

A verdict rests on `crossed_interval`. The rest describes: the paired t interval over seeds alone, a bootstrap
over seeds and images, McNemar's test of single pairs, and the expected best of n trials.

Shapes: S seeds, N images. Accuracies and differences of accuracies are fractions, not points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # loads scipy.stats, which takes half a second, when it is first used
from numpy.typing import ArrayLike, NDArray

from tune_swa.inference.power import LEVEL, VarianceComponents

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A two-sided interval of a mean difference, and the test that it inverts."""

    mean: float
    standard_error: float
    degrees_of_freedom: float
    low: float
    high: float
    p_value: float
    """Two-sided p-value of the hypothesis that the true mean is 0."""
    level: float


def paired_t(differences: ArrayLike, level: float = LEVEL) -> Interval:
    """Compute Student's (1908) interval of the mean of paired differences.

    It is valid for new seeds on the same images. Without any spread the interval is the mean itself,
    and the p-value 1 for a mean of 0, else 0.

    Args:
        differences: shape (S,), S >= 2, one for each seed.
        level: of the interval, such as 0.95.

    Raises:
        ValueError: fewer than two differences, or one that is not finite.
    """
    values = check_finite(differences, 1)
    if len(values) < 2:
        raise ValueError(f"{len(values)} difference, but a spread needs two or more")
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    return _t_interval(float(values.mean()), error, len(values) - 1, level)


@dataclass(frozen=True)
class Crossed:
    """An interval over seeds and images, and where its variance comes from."""

    interval: Interval
    components: VarianceComponents
    """Components as estimated, 0 where the estimate is negative: more seeds average out the first and the
    last one, more test images the second and the last one."""
    mean_squares: tuple[float, float, float]
    """Degrees of freedom of seeds, images and the residual."""


def crossed_interval(differences: ArrayLike, level: float = LEVEL) -> Crossed:
    """Compute the interval of the mean of a seeds x images table, for new seeds *and* new images.

    The table is a two-way random-effects layout with one value in each cell: difference = mean + seed
    + image + residual. The variance of its grand mean is estimated by
    (MS_seed + MS_image - MS_residual) / (S N), with Satterthwaite's (1946) degrees of freedom, as for
    the crossed designs of generalizability theory (Brennan 2001, chapter 6). Where an estimated
    component is negative, the larger of the two mean squares is taken in place of the sum, so that the
    standard error is never smaller than one that ignores the other factor. (With many images the degrees
    of freedom can exceed S - 1, and then the interval may still be shorter than the paired one.)

    Args:
        differences: shape (S, N), S and N >= 2: for two runs on seed s, how much better the first one
            did on image i (for right and wrong: -1, 0 or 1).
        level: of the interval.

    Raises:
        ValueError: a table of another shape, or with a value that is not finite.
    """
    table = check_finite(differences, 2)
    seeds, images = table.shape
    if seeds < 2 or images < 2:
        raise ValueError(f"{seeds} seeds and {images} images, but it needs two or more of each")
    mean = float(table.mean())
    by_seed, by_image = table.mean(axis=1), table.mean(axis=0)
    ms_seed = float(images * by_seed.var(ddof=1))
    ms_image = float(seeds * by_image.var(ddof=1))
    residuals = table - by_seed[:, None] - by_image[None, :] + mean
    ms_residual = float((residuals**2).sum() / ((seeds - 1) * (images - 1)))
    variance, degrees = combine_mean_squares(ms_seed, ms_image, ms_residual, seeds, images)
    return Crossed(
        interval=_t_interval(mean, math.sqrt(variance), float(degrees), level),
        components=VarianceComponents(
            seed=max(0.0, (ms_seed - ms_residual) / images),
            image=max(0.0, (ms_image - ms_residual) / seeds),
            residual=ms_residual,
        ),
        mean_squares=(ms_seed, ms_image, ms_residual),
    )


def combine_mean_squares(
    ms_seed: ArrayLike, ms_image: ArrayLike, ms_residual: ArrayLike, seeds: int, images: int
) -> tuple[Any, Any]:
    """Variance of the grand mean of `crossed_interval`, and its degrees of freedom, of many tables at once.

    Args:
        ms_seed, ms_image, ms_residual: mean squares, of shapes that go together.
        seeds, images: size of each table.
    """
    squares = [np.asarray(ms, dtype=np.float64) for ms in (ms_seed, ms_image, ms_residual)]
    freedom = (seeds - 1, images - 1, (seeds - 1) * (images - 1))
    by_seed, by_image, rest = squares
    total = by_seed + by_image - rest
    denominator = sum(ms**2 / df for ms, df in zip(squares, freedom, strict=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        degrees = np.where(denominator > 0, total**2 / denominator, freedom[0])
    positive = (by_seed >= rest) & (by_image >= rest)
    larger = np.maximum(by_seed, by_image)
    of_larger = np.where(by_seed >= by_image, freedom[0], freedom[1])
    total = np.where(positive, total, larger)
    return total / (seeds * images), np.where(positive, degrees, of_larger)


def adjust_holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's (1979) adjusted p-values, in the order given.

    With those at or below alpha called significant, any of them is wrong with a chance of at most alpha.
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for done, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - done) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def alpha_of_look(look: int, alpha: float = 1 - LEVEL) -> float:
    """Level of the two-sided test at the first, second, ... look at the same experiment.

    Halved with each look (alpha, alpha / 2, alpha / 4, ...). Each spends half of its level on calling
    something better that is not, so all looks together do that with a chance of at most alpha
    (Bonferroni), however many follow. Calling something worse has as much again.
    """
    return alpha / 2.0 ** (look - 1)


def bootstrap_interval(
    differences: ArrayLike, level: float = LEVEL, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the mean, with seeds and images drawn anew (pigeonhole bootstrap, Owen 2007).

    A description only: with five seeds it is too short (in simulations of this design it left the
    truth out in up to 11 % of the cases instead of 5 %).

    Args:
        differences: shape (S, N).
        level: of the interval.
        resamples: how often to draw.
        seed: of the drawing.
    """
    table = check_finite(differences, 2)
    drawn = np.random.default_rng(seed)
    means = np.empty(resamples)
    seeds, images = table.shape
    for k in range(resamples):
        # a multinomial weight for each image equals drawing images one by one
        weights = drawn.multinomial(images, np.full(images, 1 / images))
        rows = drawn.integers(0, seeds, seeds)
        means[k] = (table[rows].mean(axis=0) @ weights) / images
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class McNemar:
    """Images on which exactly one of two runs is right."""

    gained: int
    """Only the first one is."""
    lost: int
    """Only the second one is."""
    p_value: float
    """Exact two-sided p-value of both being equally likely."""


def mcnemar_test(first: ArrayLike, second: ArrayLike) -> McNemar:
    """Run McNemar's (1947) exact test of one pair of runs on the same images.

    It tests whether these two *runs* differ, not whether the ways to train do: any two runs of the
    same configuration often differ by it.

    Args:
        first: shape (N,), whether each image is right.
        second: the same of the other run.
    """
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"shapes {a.shape} and {b.shape}, expected twice the same (N,)")
    gained, lost = int((a & ~b).sum()), int((b & ~a).sum())
    p = float(scipy.stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    return McNemar(gained, lost, p)


def expected_best(values: ArrayLike) -> Floats:
    """Return the expected highest of n values drawn with replacement, for n = 1 to their number.

    The expected validation performance of Dodge et al. (2019): sum over the sorted values v_i of
    v_i ((i/N)^n - ((i-1)/N)^n). It shows how a search's best grows with its budget alone.

    Args:
        values: shape (N,), of completed trials.

    Returns:
        Shape (N,); empty for no values.
    """
    ordered = np.sort(check_finite(values, 1))
    count = len(ordered)
    if not count:
        return np.empty(0)
    n = np.arange(1, count + 1)[:, None]
    share = np.arange(0, count + 1) / count
    return np.diff(share**n, axis=1) @ ordered


def _t_interval(mean: float, error: float, degrees: float, level: float) -> Interval:
    if error <= 0:
        return Interval(mean, 0.0, degrees, mean, mean, 0.0 if mean else 1.0, level)
    half = float(scipy.stats.t.ppf((1 + level) / 2, degrees)) * error
    p = float(2 * scipy.stats.t.sf(abs(mean) / error, degrees))
    return Interval(mean, error, degrees, mean - half, mean + half, p, level)


def check_finite(values: ArrayLike, dimensions: int) -> Floats:
    """Return an array of floats; ValueError if it has other dimensions or a value that is not finite."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != dimensions:
        raise ValueError(f"{array.ndim} dimensions, expected {dimensions}")
    if not np.isfinite(array).all():
        raise ValueError("a value is not finite")
    return array
