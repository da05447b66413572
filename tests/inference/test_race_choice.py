"""Who stays in the race, against scipy and made-up races whose truth is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tune_swa.inference.race import (
    DROP_LEVEL,
    MOST_PLAIN,
    RaceRound,
    find_clearly_worse,
    halve_race,
    keep_plain,
    plan_race,
)


def test_rounds_of_a_race() -> None:
    assert plan_race(8, 3, 5, finalists=2) == (RaceRound(2, 8, 3), RaceRound(5, 4, 3))
    assert plan_race(2, 3, 5, finalists=2) == (RaceRound(5, 2, 3),)
    assert plan_race(16, 30, 6, finalists=2) == (
        RaceRound(2, 16, 30),
        RaceRound(4, 8, 15),
        RaceRound(6, 4, MOST_PLAIN),
    )
    assert plan_race(1, 1, 1, finalists=2) == (RaceRound(1, 1, 1),)


@given(st.integers(1, 100), st.integers(0, 40), st.integers(1, 20), st.integers(1, 5))
def test_every_race_ends_with_all_its_seeds_and_enough_finalists(
    swa: int, plain: int, seeds: int, finalists: int
) -> None:
    rounds = plan_race(swa, plain, seeds, finalists=finalists)
    assert rounds[0].swa == swa
    assert rounds[0].plain == plain
    assert rounds[-1].seeds == seeds
    assert rounds[-1].swa >= min(swa, finalists)
    for before, after in itertools.pairwise(rounds):
        assert before.seeds < after.seeds
        assert after.swa == max(min(finalists, before.swa), (before.swa + 1) // 2)
        assert after.plain >= min(before.plain, MOST_PLAIN)


@pytest.mark.parametrize(("seeds", "finalists"), [(0, 2), (3, 0)])
def test_a_race_without_seeds_or_finalists_is_refused(seeds: int, finalists: int) -> None:
    with pytest.raises(ValueError, match="one or more of each"):
        plan_race(4, 2, seeds, finalists=finalists)


def test_the_best_means_stay_in_order() -> None:
    scores = {"a": {1: 0.8, 2: 0.9}, "b": {1: 0.9, 2: 0.9}, "c": {1: 0.7, 2: 0.9}}
    assert halve_race(scores, 2) == ("b", "a")
    assert halve_race(scores, 9) == ("b", "a", "c")
    assert halve_race({}, 2) == ()


def test_equal_means_keep_the_order_of_the_search() -> None:
    assert halve_race({"z": {1: 0.8}, "a": {1: 0.8}, "m": {1: 0.9}}, 3) == ("m", "z", "a")


def test_an_arm_that_lacks_seeds_comes_last_and_one_without_any_is_out() -> None:
    scores = {"lucky": {1: 0.99}, "whole": {1: 0.8, 2: 0.8}, "failed": {}}
    assert halve_race(scores, 3) == ("whole", "lucky")


@pytest.mark.parametrize("seed", range(30))
def test_with_endless_images_it_is_welchs_test(seed: int) -> None:
    """One-sided, Bonferroni over the arms other than the best."""
    drawn = np.random.default_rng(seed)
    runs = drawn.normal([[0.9], [0.88], [0.86], [0.8]], drawn.uniform(0.001, 0.03, (4, 1)), (4, 5))
    found = find_clearly_worse(runs.mean(1), runs.var(1, ddof=1), 5, 10**15)
    best = runs[runs.mean(1).argmax()]
    p = [stats.ttest_ind(best, r, equal_var=False, alternative="greater").pvalue for r in runs]
    assert list(found) == [value < DROP_LEVEL / 3 for value in p]


def test_with_equal_seeds_it_is_the_binomial_variance_that_counts() -> None:
    """Two arms, no spread between seeds: the normal test of two independent shares."""
    p, q, images = 0.9, 0.86, 300
    error = np.sqrt((p * (1 - p) + q * (1 - q)) / images)
    for number in (300, 1000):
        clear = (p - q) / (error * np.sqrt(images / number)) > stats.norm.isf(DROP_LEVEL)
        assert list(find_clearly_worse([p, q], [0.0, 0.0], 5, number)) == [False, clear]


def test_many_races_at_once_are_many_races() -> None:
    drawn = np.random.default_rng(1)
    races = drawn.normal([[0.9], [0.87], [0.8]], 0.01, (50, 3, 4))
    together = find_clearly_worse(races.mean(2), races.var(2, ddof=1), 4, 2000)
    for race, dropped in zip(races, together, strict=True):
        kept = keep_plain({str(a): dict(enumerate(runs)) for a, runs in enumerate(race)}, 3, 2000)
        assert {str(a) for a in range(3) if not dropped[a]} == set(kept)
    assert 0 < together.mean() < 1


def test_arms_that_do_not_take_part_change_nothing() -> None:
    with_others = find_clearly_worse([0.9, -np.inf, 0.5, -np.inf], [1e-4, np.nan, 1e-4, np.nan], 5, 500)
    assert list(with_others) == [False, False, True, False]


def test_the_truly_best_arm_is_hardly_ever_dropped() -> None:
    """Eight equal arms that err on images of their own, the worst case. Welch's test is approximate as far
    out as an eighth of a percent, so of 4,000 races 1.5 % may drop a given arm."""
    drawn = np.random.default_rng(2)
    runs = 0.9 + drawn.normal(0, 0.01, (4000, 8, 5)) + drawn.normal(0, np.sqrt(0.09 / 400), (4000, 8, 1))
    dropped = find_clearly_worse(runs.mean(2), runs.var(2, ddof=1), 5, 400)
    assert dropped[:, 0].mean() <= 1.5 * DROP_LEVEL


@pytest.mark.parametrize(("shape", "scale"), [(0.3, 0.4), (0.1, 1.0)])
def test_the_arm_of_the_lowest_nll_is_hardly_ever_dropped(shape: float, scale: float) -> None:
    """As above with losses of images: most are near 0, a few are large."""
    drawn = np.random.default_rng(3)
    images = drawn.gamma(shape, scale, (1000, 8, 300))
    runs = drawn.normal(images.mean(2, keepdims=True), 0.01, (1000, 8, 5))
    dropped = find_clearly_worse(-runs.mean(2), runs.var(2, ddof=1), 5, 300, images.var(2, ddof=1))
    assert dropped.mean() <= 1.5 * DROP_LEVEL


def test_what_differs_between_images_decides_what_is_clear() -> None:
    """Two arms, no spread between seeds: the normal test of two independent means."""
    runs = {"a": {1: -0.2, 2: -0.2}, "b": {1: -0.5, 2: -0.5}}
    error = 0.3 / stats.norm.isf(DROP_LEVEL)  # of the difference, at which it is just clear
    for factor, kept in ((0.99, ("a",)), (1.01, ("a", "b"))):
        variance = 100 * (factor * error) ** 2 / 2
        assert keep_plain(runs, 8, 100, {"a": variance, "b": variance}) == kept
    assert keep_plain(runs, 8, 100, {"a": 0.0, "b": np.nan}) == ("a", "b")
    assert keep_plain(runs, 8, 100, {"a": np.nan, "b": 0.0}) == ("a", "b")


def test_hopeless_arms_are_dropped_and_close_ones_are_kept() -> None:
    scores = {
        "best": {1: 0.90, 2: 0.91, 3: 0.90},
        "close": {1: 0.88, 2: 0.89, 3: 0.90},
        "hopeless": {1: 0.50, 2: 0.52, 3: 0.51},
        "unknown spread": {1: 0.4},
    }
    assert keep_plain(scores, 8, 337) == ("best", "close", "unknown spread")
    assert keep_plain(scores, 2, 337) == ("best", "close")
    assert keep_plain(scores, 8) == ("best", "close", "hopeless", "unknown spread")
    assert keep_plain({"only": {1: 0.3}}, 8, 337) == ("only",)
    assert keep_plain({}, 8, 337) == ()


def test_perfect_arms_are_both_kept() -> None:
    assert keep_plain({"a": {1: 1.0, 2: 1.0}, "b": {1: 1.0, 2: 1.0}}, 8, 100) == ("a", "b")
