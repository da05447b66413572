"""Looks and their levels, against published boundaries, the multivariate normal and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tune_swa.inference.looks import (
    ALPHA,
    LEAST_SEEDS,
    MOST_LOOKS,
    plan_looks,
    spend_alpha,
    spend_levels,
)


@pytest.mark.parametrize(
    ("seeds", "max_seeds", "looks"),
    [
        (5, 5, (5,)),
        (5, 20, (5, 10, 15, 20)),
        (5, 10, (5, 10)),
        (5, 7, (5, 7)),
        (10, 40, (10, 20, 30, 40)),
        (5, 100, (5, 37, 69, 100)),
        (3, 20, (5, 10, 15, 20)),
        (3, 4, (4,)),
        (1, 1, (1,)),
    ],
)
def test_planned_looks(seeds: int, max_seeds: int, looks: tuple[int, ...]) -> None:
    assert plan_looks(seeds, max_seeds) == looks


@given(st.integers(1, 60), st.integers(0, 300))
def test_looks_rise_to_the_most_seeds(seeds: int, more: int) -> None:
    looks = plan_looks(seeds, seeds + more)
    assert looks[-1] == seeds + more
    assert looks[0] == min(max(seeds, LEAST_SEEDS), seeds + more)
    assert list(looks) == sorted(set(looks))
    assert len(looks) <= MOST_LOOKS


@pytest.mark.parametrize(("seeds", "max_seeds"), [(0, 5), (6, 5)])
def test_impossible_plans_are_refused(seeds: int, max_seeds: int) -> None:
    with pytest.raises(ValueError, match="one or more"):
        plan_looks(seeds, max_seeds)


QUARTERS = (0.25, 0.5, 0.75, 1.0)


def of_o_brien_fleming(alpha: float) -> tuple[float, ...]:
    return tuple(2 * stats.norm.sf(stats.norm.isf(alpha / 2) / math.sqrt(t)) for t in QUARTERS)


def of_pocock(alpha: float) -> tuple[float, ...]:
    return tuple(alpha * math.log(1 + (math.e - 1) * t) for t in QUARTERS)


@pytest.mark.parametrize(
    ("spent", "boundaries"),
    [
        # the boundaries that DeMets and Lan (1994) print for four looks, each side at 0.025
        (of_o_brien_fleming(0.025), (4.333, 2.963, 2.359, 2.014)),
        (of_pocock(0.025), (2.368, 2.368, 2.358, 2.350)),
    ],
)
def test_published_boundaries(spent: tuple[float, ...], boundaries: tuple[float, ...]) -> None:
    found = stats.norm.isf(spend_levels(QUARTERS, spent))
    assert found == pytest.approx(boundaries, abs=6e-4)


@pytest.mark.parametrize("looks", [(5, 20), (5, 10, 20), (5, 10, 15, 20), (30, 31, 32)])
def test_the_levels_spend_what_the_multivariate_normal_says(looks: tuple[int, ...]) -> None:
    """Chance to cross none of the boundaries: 1 - ALPHA."""
    t = np.array(looks) / looks[-1]
    correlation = np.sqrt(np.minimum.outer(t, t) / np.maximum.outer(t, t))
    boundaries = stats.norm.isf(spend_alpha(looks))
    stays = stats.multivariate_normal.cdf(boundaries, cov=correlation, rng=0, abseps=1e-7, maxpts=2_000_000)
    assert 1 - stays == pytest.approx(ALPHA, abs=2e-5)


def test_a_plan_of_one_look_has_the_whole_level() -> None:
    assert spend_alpha((5,)) == pytest.approx((ALPHA,))


def test_the_first_look_spends_its_share_squared() -> None:
    assert spend_alpha((5, 10, 20))[0] == pytest.approx(ALPHA / 16)


def test_all_plans_together_spend_at_most_twice_the_first() -> None:
    assert sum(spend_alpha((10,), plan)[0] for plan in range(1, 40)) <= 2 * ALPHA + 1e-12
    assert spend_alpha((5, 20), 2)[0] == pytest.approx(ALPHA / 2 / 16)


def test_t_tests_with_few_seeds_keep_the_level_too() -> None:
    """40,000 studies of normal differences: 0.0031 is four standard errors."""
    looks = plan_looks(5, 20)
    values = np.random.default_rng(3).normal(0, 1, (40_000, 20))
    crossed = np.zeros(len(values), dtype=bool)
    for number, level in zip(looks, spend_alpha(looks), strict=True):
        now = values[:, :number]
        t = now.mean(1) / (now.std(1, ddof=1) / math.sqrt(number))
        crossed |= stats.t.sf(t, number - 1) <= level
    assert crossed.mean() == pytest.approx(ALPHA, abs=0.0031)
