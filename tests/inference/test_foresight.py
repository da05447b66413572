"""What looks will find, against the power of a single test and against made-up answers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tune_swa.inference.foresight import PARTICULAR, RESIDUAL, foresee_looks
from tune_swa.inference.looks import ALPHA
from tune_swa.inference.power import VarianceComponents


@pytest.mark.parametrize(("gain", "deviation", "images"), [(0.01, 0.005, 1000), (0.02, 0.01, 3000)])
def test_of_one_look_at_one_plain_arm_it_is_the_power_of_the_test(
    gain: float, deviation: float, images: int
) -> None:
    """4,000 studies: 3.2 points are four standard errors."""
    answer = 0.9 * 0.1
    parts = VarianceComponents(2 * deviation**2, 2 * PARTICULAR * answer, 2 * RESIDUAL * answer)
    expected = parts.compute_power(gain, 5, images, 2 * ALPHA)
    found = foresee_looks(gain, deviation, images, (5,), plain=1)
    assert found.chance == pytest.approx(expected, abs=0.032)
    assert found.mean_seeds == found.mean_seeds_without == found.most_seeds == 5


def test_without_a_gain_it_is_at_most_the_level() -> None:
    found = foresee_looks(0.0, 0.005, 1000, (5, 10, 15, 20), plain=1)
    assert found.chance <= ALPHA + 4 * math.sqrt(ALPHA / 4000)


def test_more_looks_find_more_and_end_when_it_is_clear() -> None:
    fixed = foresee_looks(0.01, 0.006, 1000, (5,))
    looks = foresee_looks(0.01, 0.006, 1000, (5, 10, 15, 20))
    large = foresee_looks(0.05, 0.006, 1000, (5, 10, 15, 20))
    assert looks.chance > fixed.chance + 0.2
    assert 5 < looks.mean_seeds_without < looks.mean_seeds < 20
    assert large.chance > 0.99
    assert large.mean_seeds < looks.mean_seeds


def test_more_plain_arms_are_harder_to_beat_and_a_later_plan_has_less_to_spend() -> None:
    chances = [foresee_looks(0.01, 0.005, 3000, (5,), plain=n).chance for n in (1, 3, 8)]
    assert chances == sorted(chances, reverse=True)
    assert chances[0] > chances[-1] + 0.05
    later = foresee_looks(0.01, 0.005, 3000, (5,), plain=1, plan=2)
    assert later.chance < chances[0] - 0.05


def test_it_says_the_same_twice() -> None:
    assert foresee_looks(0.01, 0.006, 500, (5, 10)) == foresee_looks(0.01, 0.006, 500, (5, 10))


def test_two_runs_disagree_as_often_as_is_said() -> None:
    """A share of the images at an accuracy of 90 %: twice the residual of a single answer."""
    assert pytest.approx(0.106, abs=0.001) == 2 * RESIDUAL * 0.09
    drawn = np.random.default_rng(0)
    image, own = drawn.normal(0, 1.5, 200_000), drawn.normal(0, 0.3, (2, 200_000))
    level = 1.2815515655446004 * math.sqrt(1 + 1.5**2 + 0.3**2)
    same = [level + image + own[0] + drawn.normal(0, 1, 200_000) > 0 for _ in range(2)]
    other = level + image + own[1] + drawn.normal(0, 1, 200_000) > 0
    assert (same[0] != same[1]).mean() == pytest.approx(2 * RESIDUAL * 0.09, abs=0.003)
    assert (same[0] != other).mean() == pytest.approx(2 * (RESIDUAL + PARTICULAR) * 0.09, abs=0.003)
