"""Every statistic against an independent reference: scipy, statsmodels, or a closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from tune_swa.inference.calibration import bin_reliability
from tune_swa.inference.power import VarianceComponents, paired_power, seeds_needed
from tune_swa.inference.statistics import (
    adjust_holm,
    alpha_of_look,
    bootstrap_interval,
    crossed_interval,
    expected_best,
    mcnemar_test,
    paired_t,
)


def draw(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# ------------------------------------------------------------------------------------ intervals


@pytest.mark.parametrize("count", [2, 5, 40])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.975])
def test_paired_t_is_scipys(count: int, level: float) -> None:
    values = draw(count).normal(0.3, 1.0, count)
    found = paired_t(values, level)
    expected = stats.ttest_1samp(values, 0.0)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-12)
    interval = expected.confidence_interval(level)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-12)
    assert found.degrees_of_freedom == count - 1


def test_differences_without_a_spread() -> None:
    assert paired_t([0.0, 0.0, 0.0]).p_value == 1.0
    same = paired_t([0.5, 0.5])
    assert (same.low, same.high, same.p_value) == (0.5, 0.5, 0.0)


@pytest.mark.parametrize(
    ("values", "message"), [([1.0], "two or more"), ([1.0, math.nan], "finite"), ([[1.0]], "dimensions")]
)
def test_differences_that_say_nothing_are_refused(values: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paired_t(values)


def anova(table: np.ndarray) -> tuple[float, float, float]:
    """Mean squares of rows, columns and residual, by statsmodels' regression."""
    import pandas as pd
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    long = pd.DataFrame(table).stack().rename("y").reset_index().set_axis(["row", "column", "y"], axis=1)
    fitted = anova_lm(ols("y ~ C(row) + C(column)", data=long).fit())
    squares = fitted["sum_sq"] / fitted["df"]
    return squares["C(row)"], squares["C(column)"], squares["Residual"]


def table_of(seed: int, rows: int, columns: int, sd: tuple[float, float, float]) -> np.ndarray:
    drawn = draw(seed)
    by_row, by_column = drawn.normal(0, sd[0], (rows, 1)), drawn.normal(0, sd[1], (1, columns))
    return 0.1 + by_row + by_column + drawn.normal(0, sd[2], (rows, columns))  # type: ignore[no-any-return]


def test_the_crossed_variance_is_that_of_an_analysis_of_variance() -> None:
    table = table_of(1, 5, 30, (1.0, 1.0, 0.5))
    rows, columns, residual = anova(table)
    found = crossed_interval(table)
    assert found.components.seed == pytest.approx((rows - residual) / 30, rel=1e-9)
    assert found.components.image == pytest.approx((columns - residual) / 5, rel=1e-9)
    assert found.components.residual == pytest.approx(residual, rel=1e-9)
    variance = (rows + columns - residual) / (5 * 30)
    assert found.interval.standard_error == pytest.approx(math.sqrt(variance), rel=1e-9)
    degrees = (rows + columns - residual) ** 2 / (rows**2 / 4 + columns**2 / 29 + residual**2 / (4 * 29))
    assert found.interval.degrees_of_freedom == pytest.approx(degrees, rel=1e-9)
    half = stats.t.ppf(0.975, degrees) * math.sqrt(variance)
    assert found.interval.high - found.interval.mean == pytest.approx(half, rel=1e-9)


def test_where_images_do_not_differ_the_crossed_interval_is_the_paired_one() -> None:
    by_seed = draw(2).normal(0.2, 1.0, 6)
    table = np.repeat(by_seed[:, None], 50, axis=1)
    wide, plain = crossed_interval(table).interval, paired_t(by_seed)
    assert (wide.low, wide.high, wide.p_value) == pytest.approx((plain.low, plain.high, plain.p_value))


@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(2, 30))
def test_the_crossed_interval_is_never_that_of_too_little_variance(
    seed: int, rows: int, columns: int
) -> None:
    """Whatever the components are estimated to be."""
    drawn = draw(seed)
    table = table_of(seed, rows, columns, tuple(drawn.choice([0.0, 0.3, 2.0], 3)))
    found = crossed_interval(table).interval
    by_seed, by_image = table.mean(axis=1), table.mean(axis=0)
    for part in (by_seed, by_image):
        assert found.standard_error >= part.std(ddof=1) / math.sqrt(len(part)) * (1 - 1e-9)


@pytest.mark.parametrize("sd", [(0.0, 1.0, 1.0), (1.0, 0.0, 1.0), (1.0, 1.0, 1.0), (0.0, 0.0, 1.0)])
def test_the_crossed_interval_covers(sd: tuple[float, float, float]) -> None:
    """Over both factors drawn anew. 1,000 tables: 92 % is three standard errors and more below 95 %."""
    inside = 0
    for seed in range(1000):
        found = crossed_interval(table_of(seed, 5, 40, sd)).interval
        inside += found.low <= 0.1 <= found.high
    assert inside >= 920


def test_holm_is_statsmodels() -> None:
    for seed in range(20):
        p = draw(seed).uniform(0, 0.2, 1 + seed % 6)
        assert adjust_holm(list(p)) == pytest.approx(multipletests(p, method="holm")[1])
    assert adjust_holm([]) == []


# ---------------------------------------------------------------------------------------- power


@pytest.mark.parametrize(("effect", "sd"), [(0.5, 1.0), (1.0, 0.9), (-1.0, 0.9), (1.5, 0.9)])
@pytest.mark.parametrize("seeds", [2, 5, 20])
@pytest.mark.parametrize("alpha", [0.05, 0.025])
def test_power_is_statsmodels(effect: float, sd: float, seeds: int, alpha: float) -> None:
    expected = TTestPower().power(effect / sd, seeds, alpha, alternative="two-sided")
    assert paired_power(effect, sd, seeds, alpha) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("sd", [(1.0, 0.0, 0.0), (0.5, 2.0, 1.0), (0.3, 0.0, 2.0)])
def test_the_power_over_seeds_and_images_is_what_simulation_finds(sd: tuple[float, float, float]) -> None:
    """2,000 tables: 0.035 is three standard errors."""
    effect, found = 0.6, 0
    for seed in range(2000):
        table = table_of(seed, 5, 60, sd) - 0.1 + effect
        found += crossed_interval(table).interval.p_value <= 0.05
    promised = VarianceComponents(*(s**2 for s in sd)).compute_power(effect, 5, 60)
    assert found / 2000 == pytest.approx(promised, abs=0.035)


def test_without_image_variance_it_is_the_power_of_the_paired_test() -> None:
    only_seeds = VarianceComponents(0.81, 0.0, 0.0)
    assert only_seeds.compute_power(1.0, 5, 100) == pytest.approx(paired_power(1.0, 0.9, 5))
    assert only_seeds.seeds_needed(1.0, 100) == seeds_needed(1.0, 0.9)
    assert paired_power(only_seeds.detectable_difference(5, 100), 0.9, 5) == pytest.approx(0.8, abs=1e-6)
    images_limit = VarianceComponents(0.0, 100.0, 0.0)
    assert images_limit.seeds_needed(0.1, 50) is None
    assert images_limit.seeds_needed(0.0, 50) is None


def test_power_without_an_effect_is_the_level() -> None:
    assert paired_power(0.0, 1.0, 5, 0.05) == pytest.approx(0.05)
    assert paired_power(1.0, 0.0, 5) == 1.0
    assert paired_power(100.0, 0.1, 5) == 1.0


def test_the_figures_of_the_design() -> None:
    """0.9 points between seeds, five seeds, two finalists, a gain of one point."""
    assert paired_power(1.0, 0.9, 5, 0.05 / 2) == pytest.approx(0.31, abs=0.005)


@pytest.mark.parametrize(("effect", "sd"), [(0.5, 1.0), (1.0, 0.9), (0.3, 1.0)])
def test_as_many_seeds_as_are_needed_and_no_more(effect: float, sd: float) -> None:
    seeds = seeds_needed(effect, sd)
    assert seeds == math.ceil(TTestPower().solve_power(effect / sd, power=0.8, alpha=0.05))
    assert seeds is not None
    assert paired_power(effect, sd, seeds - 1) < 0.8 <= paired_power(effect, sd, seeds)


def test_no_number_of_seeds_finds_nothing() -> None:
    assert seeds_needed(0.0, 1.0) is None
    assert seeds_needed(1e-4, 1.0) is None
    assert seeds_needed(1.0, 0.0) == 2


@pytest.mark.parametrize("seeds", [2, 5, 30])
def test_what_is_detectable_is_detected(seeds: int) -> None:
    parts = VarianceComponents(0.3, 20.0, 50.0)
    assert parts.compute_power(parts.detectable_difference(seeds, 300), seeds, 300) == pytest.approx(
        0.8, abs=1e-6
    )
    assert VarianceComponents(0.0, 0.0, 0.0).detectable_difference(seeds, 300) == 0.0


def test_all_looks_together_call_too_much_better_within_the_level() -> None:
    assert alpha_of_look(1) == pytest.approx(0.05)
    assert sum(alpha_of_look(k) / 2 for k in range(1, 50)) <= 0.05 + 1e-12


# ----------------------------------------------------------------------------------- description


@pytest.mark.parametrize("sd", [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (1.0, 1.0, 0.5)])
def test_the_bootstrap_draws_seeds_and_images(sd: tuple[float, float, float]) -> None:
    """Its variance is that of a mean over both, drawn with replacement: by hand, one by one."""
    table = table_of(11, 40, 50, sd)
    low, high = bootstrap_interval(table, resamples=4000)
    drawn = draw(12)
    means = [table[drawn.integers(0, 40, 40)][:, drawn.integers(0, 50, 50)].mean() for _ in range(4000)]
    expected = np.quantile(means, [0.025, 0.975])
    assert (low, high) == pytest.approx(tuple(expected), abs=0.12 * (expected[1] - expected[0]))


def test_the_bootstrap_has_the_mean_and_spread_of_its_table() -> None:
    """Without image and residual variance it is the bootstrap of a mean over seeds: sd / sqrt(S)."""
    by_seed = draw(3).normal(0, 1, 200)
    low, high = bootstrap_interval(np.repeat(by_seed[:, None], 10, axis=1), resamples=4000)
    error = by_seed.std() / math.sqrt(200)
    assert (low + high) / 2 == pytest.approx(by_seed.mean(), abs=0.2 * error)
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.06)
    assert bootstrap_interval(np.ones((3, 4))) == (1.0, 1.0)
    reference = stats.bootstrap((by_seed,), np.mean, method="percentile", rng=draw(4)).confidence_interval
    assert (low, high) == pytest.approx((reference.low, reference.high), abs=0.3 * error)


@given(st.integers(0, 500), st.integers(1, 200))
def test_mcnemar_is_statsmodels(seed: int, images: int) -> None:
    first, second = draw(seed).random((2, images)) < 0.8
    found = mcnemar_test(first, second)
    cells = [[int((first & second).sum()), int((first & ~second).sum())],
             [int((~first & second).sum()), int((~first & ~second).sum())]]  # fmt: skip
    assert (found.gained, found.lost) == (cells[0][1], cells[1][0])
    assert found.p_value == pytest.approx(reference_mcnemar(cells, exact=True).pvalue)


def test_expected_best_is_the_mean_over_all_draws() -> None:
    values = [0.2, 0.5, 0.9]
    for n, found in enumerate(expected_best(values), start=1):
        draws = np.stack(np.meshgrid(*[values] * n), axis=-1).reshape(-1, n)
        assert found == pytest.approx(draws.max(axis=1).mean())
    assert len(expected_best([])) == 0


# ---------------------------------------------------------------------------------- calibration


@pytest.mark.parametrize("equal_mass", [False, True])
def test_every_image_is_in_one_bin(equal_mass: bool) -> None:
    confidence = np.concatenate([[0.0, 1.0, 1 / 15, 2 / 15], draw(6).random(100)])
    right = draw(7).random(104) < confidence
    found = bin_reliability(confidence, right, equal_mass=equal_mass)
    assert found.images.sum() == 104
    assert (found.confidence * found.images).sum() == pytest.approx(confidence.sum())
    assert (found.accuracy * found.images).sum() == pytest.approx(right.sum())
    assert (found.low <= found.confidence + 1e-12).all()
    assert (found.confidence <= found.high + 1e-12).all()


@pytest.mark.parametrize("edges", [False, True])
def test_ece_is_the_one_that_training_records(edges: bool) -> None:
    import torch

    from tune_swa.training.metrics import expected_calibration_error

    confidence = np.arange(16) / 15 if edges else draw(6).random(400).astype(np.float32)
    right = draw(7).random(len(confidence)) < 0.5
    recorded = expected_calibration_error(torch.from_numpy(confidence), torch.from_numpy(right))
    assert bin_reliability(confidence, right).ece == pytest.approx(recorded, abs=1e-12)


def test_ece_by_hand() -> None:
    """Two bins of 0.5: (0.4 right 1 of 2) and (0.9 right 1 of 2)."""
    found = bin_reliability([0.4, 0.4, 0.9, 0.9], [True, False, True, False], bins=2)
    assert found.ece == pytest.approx((2 * 0.1 + 2 * 0.4) / 4)
    equal = bin_reliability([0.4, 0.4, 0.9, 0.9], [True, False, True, False], bins=2, equal_mass=True)
    assert equal.ece == pytest.approx(found.ece)


def test_ece_is_that_of_calibration_curves() -> None:
    """Equal-mass bins against scikit-learn's quantile strategy, on distinct confidences."""
    from sklearn.calibration import calibration_curve

    confidence = draw(8).random(150)
    right = draw(9).random(150) < confidence
    found = bin_reliability(confidence, right, bins=10, equal_mass=True)
    accuracy, mean = calibration_curve(right, confidence, n_bins=10, strategy="quantile")
    assert found.accuracy == pytest.approx(accuracy)
    assert found.confidence == pytest.approx(mean)


def test_confidences_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        bin_reliability([1.2], [True])
    with pytest.raises(ValueError, match="N > 0"):
        bin_reliability([], [])
