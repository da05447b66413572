"""Plan the looks at the test images, and the level of each, before the first one.

Looking several times with one level each is wrong too often (5, 10, 15 and 20 seeds with a plain t-test:
6.4 instead of 5 %). So a plan has an error to spend, and a function says how much of it is spent by each
look (Lan and DeMets 1983); its levels follow from the joint normal distribution of the estimates at the
looks (Armitage, McPherson and Rowe 1969). They are applied to p-values of the t distribution, which is
accurate enough with five seeds and more (Jennison and Turnbull 2000, section 3.8;
checked by simulation, benchmarks/RESULTS.md).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

ALPHA = 0.025
"""One-sided level against the best plain arm, of the first plan: the better half of a 95 % interval."""

LEAST_SEEDS = 5
"""Least number of seeds of a verdict: an interval from two or three values is as wide as the question."""

MOST_LOOKS = 4
"""More of them hardly save seeds and cost power."""

SPENDING_POWER = 2.0
"""Share of the error that is spent when a share t of the seeds has run: t to this power (Kim and DeMets
1987). Of gains of one point it found 42 % with 12.1 seeds on average; spending evenly found 39 % with
11.2, and a first look that is as good as none (O'Brien-Fleming) 44 % with 12.9."""

QUADRATURE_NODES = 200


def plan_looks(seeds: int, max_seeds: int) -> tuple[int, ...]:
    """Choose the numbers of seeds at which the test images are looked at: at most four, evenly spread.

    They are about five seeds or more apart: (5, 5) gives (5,), (5, 20) gives (5, 10, 15, 20). There is no
    look before LEAST_SEEDS unless there will never be as many.

    Args:
        seeds: before the first look, one or more.
        max_seeds: when it ends.

    Raises:
        ValueError: no seeds, or fewer at most than at least.
    """
    if not 1 <= seeds <= max_seeds:
        raise ValueError(f"from {seeds} to {max_seeds} seeds: it takes one or more, and the least first")
    first = min(max(seeds, LEAST_SEEDS), max_seeds)
    more = max_seeds - first
    if not more:
        return (first,)
    later = min(MOST_LOOKS - 1, max(1, round(more / LEAST_SEEDS)))
    return (first, *(first + math.ceil(more * k / later) for k in range(1, later + 1)))


def spend_alpha(looks: Sequence[int], plan: int = 1) -> tuple[float, ...]:
    """Return the one-sided level of each look of a plan.

    Args:
        looks: numbers of seeds, of `plan_looks`.
        plan: 1 for the first confirmation of an experiment, 2 for the first `tune-swa confirm` after it,
            and so on. Each has half of the error of the one before, so that all of them, however many
            follow, spend at most twice that of the first (Bonferroni).
    """
    shares = np.array(looks, dtype=np.float64) / looks[-1]
    return spend_levels(tuple(shares), tuple(ALPHA / 2.0 ** (plan - 1) * shares**SPENDING_POWER))


@functools.lru_cache
def spend_levels(shares: tuple[float, ...], spent: tuple[float, ...]) -> tuple[float, ...]:
    """Return the one-sided levels of looks that spend an error as given.

    The estimates at the looks are those of a Brownian motion: at the share t of the information it is
    normal with variance t. With images that all seeds have in common the looks depend more on each other
    than that, and the error is smaller.

    Args:
        shares: of the information at each look, rising, the last one 1.
        spent: error spent up to each look, rising.

    Returns:
        Level of each look: the chance that a standard normal variable exceeds its boundary.
    """
    levels: list[float] = []
    going_on = _Nodes(np.zeros(1), np.ones(1))  # before the first look, all of it is at 0
    before, spent_before = 0.0, 0.0
    for share, error in zip(shares, spent, strict=True):
        step = math.sqrt(share - before)
        boundary = _solve_boundary(going_on, step, error - spent_before)
        levels.append(float(scipy.stats.norm.sf(boundary / math.sqrt(share))))
        going_on = _go_on(going_on, step, -10 * math.sqrt(share), boundary)
        before, spent_before = share, error
    return tuple(levels)


@dataclass(frozen=True)
class _Nodes:
    """Distribution of a process that goes on after a look: chance `mass` at each place `at`."""

    at: NDArray[np.float64]
    mass: NDArray[np.float64]


def _solve_boundary(start: _Nodes, step: float, error: float) -> float:
    """Return the boundary that is exceeded after a normal step with a chance of `error`."""

    def excess_error(boundary: float) -> float:
        return float(start.mass @ scipy.stats.norm.sf((boundary - start.at) / step)) - error

    return float(scipy.optimize.brentq(excess_error, -10.0, 40.0, xtol=1e-12))


def _go_on(start: _Nodes, step: float, low: float, boundary: float) -> _Nodes:
    """Return the process after a normal step that stays below the boundary (Gauss-Legendre quadrature)."""
    unit, weights = np.polynomial.legendre.leggauss(QUADRATURE_NODES)
    at = low + (boundary - low) * (unit + 1) / 2
    density = scipy.stats.norm.pdf(at[:, None], start.at, step) @ start.mass
    return _Nodes(at, weights * (boundary - low) / 2 * density)
