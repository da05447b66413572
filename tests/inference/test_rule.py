"""The rule, against a second implementation of it, and on studies whose truth is known."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from tune_swa.inference.looks import ALPHA, plan_looks, spend_alpha
from tune_swa.inference.rule import (
    LEAST_CHANCE,
    FinalistJudgement,
    Judgement,
    combine_p_values,
    judge_look,
    predict_success,
)

Answers = dict[int, np.ndarray]


def draw_arm(
    drawn: np.random.Generator, hard: np.ndarray, accuracy: float, *, seeds: int = 5, spread: float = 0.0
) -> Answers:
    """An arm of about this accuracy; `spread` is of its runs, in units of an answer's noise."""
    whole = math.sqrt(2 + spread**2)
    level = stats.norm.ppf(accuracy) * whole
    return {
        seed: level + hard + spread * drawn.normal() + drawn.normal(0, 1, len(hard)) > 0
        for seed in range(seeds)
    }


def draw_study(
    seed: int, accuracies: Mapping[str, float], *, images: int = 300, seeds: int = 5, spread: float = 0.0
) -> dict[str, Answers]:
    drawn = np.random.default_rng(seed)
    hard = drawn.normal(0, 1, images)
    return {a: draw_arm(drawn, hard, p, seeds=seeds, spread=spread) for a, p in accuracies.items()}


def judge(
    correct: Mapping[str, Answers], finalists: list[str], plain: list[str], looks: tuple[int, ...] = (5,)
) -> Judgement:
    """The first look of a plan."""
    return judge_look(correct, finalists, plain, look=1, looks=looks, levels=spend_alpha(looks))


def refer_one_sided(first: Answers, second: Answers) -> tuple[float, float, float, float]:
    """Mean difference, its standard error, degrees of freedom and p-value of "better", by regression."""
    table = np.stack([first[s].astype(float) - second[s] for s in first])
    long = pd.DataFrame(table).stack().rename("y").reset_index().set_axis(["seed", "image", "y"], axis=1)
    fitted = anova_lm(ols("y ~ C(seed) + C(image)", data=long).fit())
    squares = (fitted["sum_sq"] / fitted["df"])[["C(seed)", "C(image)", "Residual"]].to_numpy()
    freedom = fitted["df"][["C(seed)", "C(image)", "Residual"]].to_numpy()
    total = squares[0] + squares[1] - squares[2]
    degrees = total**2 / (squares**2 / freedom).sum()
    if min(squares[:2]) < squares[2]:
        total, degrees = squares[:2].max(), freedom[:2][squares[:2].argmax()]
    error = math.sqrt(total / table.size)
    return table.mean(), error, degrees, float(stats.t.sf(table.mean() / error, degrees))


def draw_for_reference(seed: int) -> dict[str, Answers]:
    accuracies = {"swa": 0.80 + 0.03 * (seed % 4), "a": 0.74, "b": 0.70, "c": 0.76}
    return draw_study(seed, accuracies, images=40, spread=0.3 if seed < 4 else 0.0)


@pytest.mark.parametrize("seed", range(8))
def test_it_is_the_rule_as_written(seed: int) -> None:
    """Its two conditions, worked out by another program for one finalist and three plain arms."""
    correct = draw_for_reference(seed)
    found = judge(correct, ["swa"], ["a", "b", "c"]).finalists[0]
    means = {arm: np.mean([x.mean() for x in correct[arm].values()]) for arm in "abc"}
    best = max(means, key=lambda arm: means[arm])
    mean, error, degrees, p_best = refer_one_sided(correct["swa"], correct[best])
    others = {arm: refer_one_sided(correct["swa"], correct[arm])[3] for arm in "abc" if arm != best}
    assert found.comparison is not None
    assert found.interval is not None
    assert found.comparison.against == best
    assert found.comparison.p_better == pytest.approx(p_best, rel=1e-6)
    assert found.interval.mean == pytest.approx(mean)
    assert found.interval.low == pytest.approx(mean - stats.t.isf(ALPHA, degrees) * error)
    assert found.interval.high == pytest.approx(mean + stats.t.isf(ALPHA / 3, degrees) * error)
    better = p_best <= ALPHA and all(p <= 2 * ALPHA for p in others.values())
    assert (found.outcome == "better") == better
    assert set(found.not_beaten) == {arm for arm, p in others.items() if p > 2 * ALPHA}


def test_the_rule_says_both_words_in_the_test_above() -> None:
    """Else it would prove nothing."""
    judged = [judge(draw_for_reference(s), ["swa"], ["a", "b", "c"]).finalists[0] for s in range(8)]
    assert {j.outcome for j in judged} >= {"better", "not distinguishable"}
    assert {bool(j.not_beaten) for j in judged} == {True, False}


def test_a_clear_gain_is_better_and_ends_the_looks() -> None:
    found = judge(draw_study(0, {"swa": 0.9, "a": 0.7, "b": 0.6}), ["swa"], ["a", "b"], (5, 10))
    assert found.finalists[0].outcome == "better"
    assert found.stop == "success"
    assert found.level == pytest.approx(ALPHA / 4)


def test_the_headline_is_against_the_best_mean_wherever_it_is_listed() -> None:
    correct = draw_study(1, {"swa": 0.9, "a": 0.6, "b": 0.8, "c": 0.7})
    for plain in (["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"]):
        one = judge(correct, ["swa"], plain).finalists[0]
        assert [c.against for c in one.comparisons] == ["b", "c", "a"]


def test_a_noisy_plain_arm_that_may_be_the_best_stands_in_the_way() -> None:
    """The plain arm with the best mean is clearly beaten, another one with wild seeds is not."""
    images = 400
    right = np.arange(images)
    correct = {
        "swa": {s: right < 360 + s % 2 for s in range(5)},
        "calm": {s: right < 340 + s % 2 for s in range(5)},
        "wild": {s: right < (395, 395, 395, 255, 250)[s] for s in range(5)},
    }
    found = judge(correct, ["swa"], ["calm", "wild"]).finalists[0]
    assert found.comparison is not None
    assert found.comparison.against == "calm"
    assert found.comparison.p_better < ALPHA
    assert found.not_beaten == ("wild",)
    assert found.outcome == "not distinguishable"
    assert judge(correct, ["swa"], ["calm"]).finalists[0].outcome == "better"


def test_the_next_finalist_is_tested_only_after_a_better_one() -> None:
    correct = draw_study(2, {"first": 0.7, "second": 0.9, "a": 0.7})
    found = judge(correct, ["first", "second"], ["a"])
    assert [j.outcome for j in found.finalists] == ["not distinguishable", "not tested"]
    assert [j.in_turn for j in found.finalists] == [True, False]
    found = judge(correct, ["second", "first"], ["a"])
    assert [j.outcome for j in found.finalists] == ["better", "not distinguishable"]
    assert [j.in_turn for j in found.finalists] == [True, True]


def test_a_finalist_that_failed_is_passed_over() -> None:
    correct = draw_study(3, {"second": 0.9, "a": 0.7})
    found = judge(correct, ["failed", "second"], ["a"])
    assert [j.outcome for j in found.finalists] == ["too few seeds", "better"]
    assert found.finalists[0].comparison is None
    assert found.finalists[0].interval is None


def test_a_plain_arm_that_failed_is_left_out() -> None:
    correct = draw_study(4, {"swa": 0.9, "a": 0.7})
    correct["b"] = {0: np.ones(300, dtype=bool)}
    found = judge(correct, ["swa"], ["a", "b", "never ran"]).finalists[0]
    assert [c.against for c in found.comparisons] == ["a"]
    assert found.outcome == "better"


def test_only_common_seeds_are_compared() -> None:
    correct = draw_study(5, {"swa": 0.9, "a": 0.7}, seeds=7)
    del correct["a"][1], correct["swa"][6]
    found = judge(correct, ["swa"], ["a"]).finalists[0]
    assert found.comparison is not None
    assert found.comparison.seeds == (0, 2, 3, 4, 5)


def test_four_seeds_are_too_few() -> None:
    correct = draw_study(6, {"swa": 0.95, "a": 0.6}, seeds=4)
    assert judge(correct, ["swa"], ["a"], (4,)).finalists[0].outcome == "too few seeds"


def test_worse_is_said_at_the_level_over_all_comparisons() -> None:
    correct = draw_study(7, {"swa": 0.70, "a": 0.80, "b": 0.5, "c": 0.5})
    found = judge(correct, ["swa"], ["a", "b", "c"]).finalists[0]
    assert found.outcome == "worse"
    assert found.interval is not None
    assert found.interval.high < 0
    # a difference that would be worse against one plain arm is not against the best of many
    assert found.comparison is not None
    mild = next(
        one
        for seed in range(200)
        if (one := judge(draw_study(seed, {"swa": 0.77, "a": 0.8}), ["swa"], ["a"]).finalists[0]).comparison
        and ALPHA / 8 < one.comparison.p_worse < ALPHA / 2
    )
    assert mild.outcome == "worse"
    assert mild.comparison is not None
    seed = next(s for s in range(200) if _p_worse(s) == mild.comparison.p_worse)
    many = draw_study(seed, {"swa": 0.77, "a": 0.8, **dict.fromkeys("bcdefgh", 0.3)})
    found = judge(many, ["swa"], list("abcdefgh")).finalists[0]
    assert found.comparison is not None
    assert found.comparison.p_worse == mild.comparison.p_worse
    assert found.outcome == "not distinguishable"


def _p_worse(seed: int) -> float:
    found = judge(draw_study(seed, {"swa": 0.77, "a": 0.8}), ["swa"], ["a"]).finalists[0].comparison
    return found.p_worse if found else math.nan


def test_equal_answers_are_not_distinguishable() -> None:
    same = draw_study(8, {"a": 0.8})["a"]
    found = judge({"swa": same, "a": same}, ["swa"], ["a"], (5, 10))
    assert found.finalists[0].outcome == "not distinguishable"
    assert found.stop == "futility"


def test_the_looks_end_for_a_reason() -> None:
    """Hopeless at the first of two looks: futility. Promising: go on. At the last look: no more seeds."""
    looks = (5, 20)
    levels = spend_alpha(looks)
    behind = draw_study(9, {"swa": 0.70, "a": 0.75})
    promising = draw_study(18, {"swa": 0.77, "a": 0.75})
    assert judge(behind, ["swa"], ["a"], looks).stop == "futility"
    found = judge(promising, ["swa"], ["a"], looks)
    assert found.stop is None
    assert LEAST_CHANCE < found.finalists[0].chance < 1
    last = judge_look(behind, ["swa"], ["a"], look=2, looks=looks, levels=levels)
    assert last.stop == "seeds"
    assert last.level == levels[1]


def test_the_first_finalist_decides_whether_there_is_hope() -> None:
    """The second one cannot be called better before the first one is."""
    correct = draw_study(11, {"first": 0.6, "second": 0.76, "a": 0.75})
    assert judge(correct, ["first", "second"], ["a"], (5, 20)).stop == "futility"
    assert judge(correct, ["second", "first"], ["a"], (5, 20)).stop is None


def test_finalists_that_fail_on_every_seed_are_given_up() -> None:
    plain = draw_study(13, {"a": 0.75})
    assert judge(plain, ["failed", "too"], ["a"], (5, 20)).stop == "futility"
    # one run is missing: too few for a word, but not without hope
    short = draw_study(13, {"swa": 0.9, "a": 0.7})
    del short["swa"][0]
    assert judge(short, ["swa"], ["a"], (5, 20)).stop is None


def test_without_plain_arms_nothing_is_said() -> None:
    found = judge(draw_study(12, {"swa": 0.9}), ["swa"], [])
    assert found.finalists[0].outcome == "too few seeds"
    assert found.stop == "seeds"


# -------------------------------------------------------------------------------- its parts


def test_one_p_value_for_both_conditions() -> None:
    assert combine_p_values(0.01, [0.03, 0.0]) == pytest.approx(0.015)
    assert combine_p_values(0.02, [0.03, 0.0]) == pytest.approx(0.02)
    assert combine_p_values([0.02, 0.3], np.empty((2, 0))) == pytest.approx([0.02, 0.3])


@pytest.mark.parametrize(("mean", "images"), [(0.004, 0.0), (0.01, 0.0), (0.01, 4e-5), (-0.002, 1e-5)])
def test_the_chance_of_success_is_what_simulation_finds(mean: float, images: float) -> None:
    """True effects as uncertain as after five seeds (flat prior), fifteen more seeds each, then a test with
    the variance known. 200,000 studies: 0.5 points are four standard errors and more."""
    sd, seeds, last, level = 0.02, 5, 20, 0.018
    drawn = np.random.default_rng(13)
    # the part of the images is the same now and later: what it hides stays hidden
    future = mean + drawn.normal(0, sd / math.sqrt(seeds), 200_000)
    future += drawn.normal(0, sd / math.sqrt(last - seeds), 200_000)
    at_last = (seeds * mean + (last - seeds) * future) / last
    error = math.sqrt(sd**2 / last + images)
    expected = (at_last > stats.t.isf(level, last - 1) * error).mean()
    found = predict_success(mean, sd**2 / seeds + images, sd**2, seeds, last, level)
    assert float(found) == pytest.approx(expected, abs=0.005)


def test_without_any_variance_the_chance_is_nothing_or_all() -> None:
    assert float(predict_success(0.01, 0.0, 0.0, 5, 20, 0.02)) == 1.0
    assert float(predict_success(-0.01, 0.0, 0.0, 5, 20, 0.02)) == 0.0
    assert float(predict_success(0.0, 0.0, 0.0, 5, 20, 0.02)) == 0.0


# ------------------------------------------------------------------------ how often it is wrong


def judge_studies(
    plain: Mapping[str, tuple[float, float]], swa: tuple[float, float], studies: int = 400
) -> list[FinalistJudgement]:
    """Of made-up studies with 120 images; arms are (accuracy, spread of runs)."""
    found: list[FinalistJudgement] = []
    for seed in range(studies):
        drawn = np.random.default_rng([14, seed])
        hard = drawn.normal(0, 1, 120)
        correct = {
            name: draw_arm(drawn, hard, accuracy, spread=spread)
            for name, (accuracy, spread) in (("swa", swa), *plain.items())
        }
        found.append(judge(correct, ["swa"], list(plain)).finalists[0])
    return found


def share_of_better(found: list[FinalistJudgement]) -> float:
    return sum(j.outcome == "better" for j in found) / len(found)


@pytest.mark.parametrize(
    "plain",
    [
        {"a": (0.85, 0.0), "b": (0.60, 0.0)},
        {"a": (0.85, 0.2), "b": (0.82, 0.2), "c": (0.79, 0.2)},
    ],
)
def test_without_an_effect_it_is_rarely_better(plain: dict[str, tuple[float, float]]) -> None:
    """SWA equals the best plain arm. Of 400 studies 5 % and two standard errors, 7.2 %, at most."""
    assert share_of_better(judge_studies(plain, (0.85, 0.1))) <= 0.072


def test_nor_where_the_best_plain_arm_is_the_noisiest() -> None:
    """Where the first condition alone is wrong more often than that: the second one is what keeps it."""
    plain = {"a": (0.85, 1.5), "b": (0.80, 0.0)}
    found = judge_studies(plain, (0.85, 0.0))
    assert share_of_better(found) <= 0.072
    first_alone = [j.comparison is not None and j.comparison.p_better <= ALPHA for j in found]
    assert np.mean(first_alone) > 0.1


def test_a_gain_is_found_as_often_as_the_noncentral_t_says() -> None:
    """One plain arm, hardly any image effect: 400 studies, three standard errors."""
    share = share_of_better(judge_studies({"a": (0.80, 0.0)}, (0.86, 0.0)))
    drawn = np.random.default_rng(15)
    by_seed = []
    for _ in range(400):
        hard = drawn.normal(0, 1, 120)
        first, second = (draw_arm(drawn, hard, p, seeds=1)[0] for p in (0.86, 0.80))
        by_seed.append(first.mean() - second.mean())
    shift = np.mean(by_seed) / (np.std(by_seed) / math.sqrt(5))
    # degrees of freedom lie between those of five seeds and those of the residual
    low, high = (stats.nct.sf(stats.t.isf(ALPHA, df), df, shift) for df in (4, 476))
    assert low - 0.08 <= share <= high + 0.08


def test_the_plan_is_what_the_looks_say() -> None:
    looks = plan_looks(5, 20)
    found = judge(draw_study(16, {"swa": 0.8, "a": 0.8}), ["swa"], ["a"], looks)
    assert (found.look, found.looks) == (1, (5, 10, 15, 20))
