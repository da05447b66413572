"""Checks besides the verdict, against statsmodels, by hand and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from statsmodels.stats.proportion import proportions_ztest

from tune_swa.inference.checks import PARTS_LEVEL, compare_parts, count_within_one_error


@pytest.mark.parametrize(("right", "images"), [((300, 800), (337, 1000)), ((10, 50), (40, 60))])
def test_of_one_run_it_is_the_score_test_of_two_shares(
    right: tuple[int, int], images: tuple[int, int]
) -> None:
    statistic, p = proportions_ztest(right, images)
    found = compare_parts([right[0] / images[0]], [right[1] / images[1]], *images)
    assert found.p_value == pytest.approx(p)
    assert found.difference / found.standard_error == pytest.approx(-statistic)


def test_a_leak_is_found_and_the_level_is_said() -> None:
    found = compare_parts([0.78, 0.77, 0.79], [0.46, 0.45, 0.47], 200, 200)
    assert found.differ
    assert found.difference == pytest.approx(-0.32)
    assert found.level == PARTS_LEVEL


def test_more_seeds_of_the_same_images_prove_no_more() -> None:
    few = compare_parts([0.90] * 2, [0.86] * 2, 300, 300)
    many = compare_parts([0.90] * 200, [0.86] * 200, 300, 300)
    assert few.standard_error == pytest.approx(many.standard_error)


def test_runs_that_vary_apart_make_it_less_sure() -> None:
    calm = compare_parts([0.9, 0.9, 0.9, 0.9], [0.85] * 4, 1000, 1000)
    wild = compare_parts([0.8, 1.0, 0.8, 1.0], [0.85] * 4, 1000, 1000)
    assert calm.differ
    assert not wild.differ
    extra = np.var([0.05, -0.15, 0.05, -0.15], ddof=1) / 4
    assert wild.standard_error**2 == pytest.approx(calm.standard_error**2 + extra)


@pytest.mark.parametrize("shared", [0.0, 0.9])
def test_parts_that_are_drawn_alike_are_rarely_called_different(shared: float) -> None:
    """Of 2,000 made-up experiments with five runs: 1 % and three standard errors, at most."""
    drawn, called = np.random.default_rng(5), 0
    for _ in range(2000):
        run = drawn.normal(0, 0.3, (5, 1))
        parts = []
        for images in (300, 500):
            hard = drawn.normal(0, 1, images) * math.sqrt(shared)
            noise = drawn.normal(0, 1, (5, images)) * math.sqrt(1 - shared)
            parts.append((1.0 + run + hard + noise > 0).mean(1))
        called += compare_parts(*parts, 300, 500).differ
    assert called / 2000 <= PARTS_LEVEL + 3 * math.sqrt(PARTS_LEVEL / 2000)


def test_parts_without_any_mistake_do_not_differ() -> None:
    assert compare_parts([1.0, 1.0], [1.0, 1.0], 10, 10).p_value == 1.0


@pytest.mark.parametrize(
    ("validation", "test", "images"),
    [([], [], (10, 10)), ([0.5], [0.5, 0.5], (10, 10)), ([0.5], [0.5], (0, 10))],
)
def test_parts_that_cannot_be_compared_are_refused(
    validation: list[float], test: list[float], images: tuple[int, int]
) -> None:
    with pytest.raises(ValueError, match="expected|images"):
        compare_parts(validation, test, *images)


def test_configurations_within_one_standard_error() -> None:
    """0.9 of 100 images: 0.03."""
    found = count_within_one_error([0.90, 0.87, 0.86, 0.90, 0.5], 100)
    assert found.standard_error == pytest.approx(0.03)
    assert found.count == 3
    assert count_within_one_error([1.0, 1.0, 0.99], 100).count == 2


def test_no_configurations_are_refused() -> None:
    with pytest.raises(ValueError, match="N > 0"):
        count_within_one_error([], 100)
