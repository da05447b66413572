"""SWAG and MultiSWAG against the numbers of published implementations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from helpers.golden import (
    Arrays,
    GoldenNet,
    deviation,
    join_tensors,
    load_golden,
    predict_probabilities,
    refresh_statistics,
    set_weights,
    split_vector,
)
from tune_swa.averaging.observers import Member, load_member
from tune_swa.averaging.snapshots import Snapshots
from tune_swa.averaging.swag import LEAST_VARIANCE, Moments, Noise, Swag, draw_noise, draw_weights

SWAG, MULTI = load_golden("swag"), load_golden("multiswag")
RANK = 20
DTYPES = {"f32": torch.float32, "f64": torch.float64}
COUNTS = (1, 3, 12, 20, 24)


def observe_models(arrays: Arrays, trajectory: Any, dtype: torch.dtype, rank: int = RANK) -> dict[int, Swag]:
    """SWAG after every number of models, each observing the first so many."""
    found = {}
    for count in COUNTS:
        model = GoldenNet(arrays).to(dtype)
        snapshots = Snapshots(rank)
        swag = Swag("swag", model, snapshots, rank=rank, samples=3, scale=0.5, seed=0)
        for epoch, weights in enumerate(trajectory[:count]):
            set_weights(model, weights)
            snapshots.add_model(model, epoch)
            swag.after_epoch(model)
        found[count] = swag
    return found


def join_rows(rows: Sequence[Any]) -> Any:
    return np.stack([join_tensors(row) for row in rows])


def read_moments(model: nn.Module, arrays: Arrays, prefix: str) -> Moments:
    rows = [split_vector(model, row) for row in arrays[f"{prefix}dev"]]
    mean, variance = (split_vector(model, arrays[f"{prefix}{name}"]) for name in ("mean", "var"))
    return Moments(mean, variance, rows)


@pytest.mark.parametrize("dtype", DTYPES)
def test_moments(dtype: str) -> None:
    exact = dtype == "f64"
    for count, swag in observe_models(SWAG, SWAG["trajectory"], DTYPES[dtype]).items():
        stored = f"n{count:02}_{dtype}_"
        found = swag.compute_moments()
        assert deviation(join_tensors(found.mean), SWAG[stored + "mean"]) <= (1e-12 if exact else 1e-6)
        rows, expected = join_rows(found.deviations), SWAG[stored + "dev"]
        assert rows.shape == expected.shape == (min(count, RANK), len(SWAG["trajectory"][0]))
        scale = max(np.abs(expected).max(), np.abs(SWAG[stored + "mean"]).max() if count == 1 else 0)
        assert np.abs(rows - expected).max() <= (1e-12 if exact else 5e-6) * scale
        variance, expected = join_tensors(found.variance), SWAG[stored + "var"]
        if exact:  # the stored difference of squares has lost digits where weights move little
            assert np.abs(variance - expected).max() <= 1e-12 * SWAG[stored + "sq"].max()
            np.testing.assert_allclose(variance, expected, rtol=1e-6)
        assert (np.abs(variance - expected) <= 3e-6 * SWAG[stored + "sq"]).all()
        assert variance.min() >= 0.999999 * LEAST_VARIANCE


def test_the_variance_in_single_precision_keeps_its_digits() -> None:
    """The published difference of squares does not: here it is off by a hundred times as much."""
    swag = observe_models(SWAG, SWAG["trajectory"], torch.float32)[24]
    expected = SWAG["n24_f64_var"]
    np.testing.assert_allclose(join_tensors(swag.compute_moments().variance), expected, rtol=2e-5)
    assert np.abs(SWAG["n24_f32_var"] / expected - 1).max() > 2e-4


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", ["0.5", "1.0"])
@pytest.mark.parametrize("kind", ["lowrank", "diag"])
@pytest.mark.parametrize("count", [12, 24])
def test_samples_of_given_noise(count: int, kind: str, scale: str, dtype: str) -> None:
    model = GoldenNet(SWAG).to(DTYPES[dtype])
    stored = f"n{count:02}_{dtype}_"
    moments = read_moments(model, SWAG, stored)
    if kind == "diag":
        moments = Moments(moments.mean, moments.variance, [])
    for draw, expected in enumerate(SWAG[f"{stored}sample_scale{scale}_{kind}"]):
        noise = Noise(split_vector(model, SWAG["z1"][draw]), SWAG["z2"][draw].tolist())
        found = join_tensors(draw_weights(moments, noise, float(scale), divisor=RANK - 1))
        assert deviation(found, expected) <= (1e-9 if dtype == "f64" else 1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_predictions(dtype: str) -> None:
    model = GoldenNet(SWAG).to(DTYPES[dtype])
    tolerance = 1e-8 if dtype == "f64" else 1e-5
    found = []
    for draw, weights in enumerate(SWAG[f"n24_{dtype}_sample_scale0.5_lowrank"]):
        set_weights(model, weights)
        refresh_statistics(model, SWAG)
        statistics = (SWAG[f"pred_{dtype}_bn_{name}"][draw] for name in ("mean", "var"))
        check_statistics(model, *statistics, tolerance)
        found.append(predict_probabilities(model, SWAG))
        assert deviation(found[-1], SWAG[f"pred_{dtype}_probs"][draw]) <= tolerance
    mean = np.mean(found, axis=0)
    assert deviation(mean, SWAG[f"pred_{dtype}_mean_probs"]) <= tolerance
    nll = -np.log(mean[np.arange(len(mean)), SWAG["labels"]])
    assert nll.sum() == pytest.approx(float(SWAG[f"pred_{dtype}_nll_sum"]), rel=tolerance)
    assert nll.mean() == pytest.approx(float(SWAG[f"pred_{dtype}_nll_mean"]), rel=tolerance)


def check_statistics(model: GoldenNet, means: Any, variances: Any, tolerance: float) -> None:
    assert deviation(join_tensors([model.bn1.running_mean, model.bn2.running_mean]), means) <= tolerance
    assert deviation(join_tensors([model.bn1.running_var, model.bn2.running_var]), variances) <= tolerance


@pytest.mark.parametrize("run", [0, 1])
def test_moments_of_several_runs(run: int) -> None:
    """Their authors' code has another least variance, and the divisor is the number of rows less one."""
    swag = observe_models(MULTI, MULTI["trajectory"][run], torch.float32)[24]
    found = swag.compute_moments(least_variance=1e-6)
    mean, variance = MULTI["mean"][run], MULTI["var"][run]
    assert deviation(join_tensors(found.mean), mean) <= 1e-6
    assert (np.abs(join_tensors(found.variance) - variance) <= 3e-6 * (mean**2 + variance)).all()
    assert deviation(join_rows(found.deviations), MULTI["dev"][run]) <= 5e-6
    factor = join_rows(found.deviations) / np.sqrt(len(found.deviations) - 1)
    assert deviation(factor, MULTI["factor"][run]) <= 5e-6


def test_an_ensemble_of_several_runs() -> None:
    model = GoldenNet(MULTI)
    total, count, running = np.zeros(MULTI["mean_probs"].shape), 0, []
    images = np.arange(len(total))
    for run in range(2):
        vectors = {name: MULTI[name][run] for name in ("mean", "var", "dev")}
        moments = read_moments(model, vectors, "")
        for draw in range(3):
            diagonal = split_vector(model, MULTI["z_diag"][run, draw])
            noise = Noise(diagonal, MULTI["z_lowrank"][run, draw].tolist())
            weights = draw_weights(moments, noise, 0.5, divisor=len(moments.deviations) - 1)
            assert deviation(join_tensors(weights), MULTI["sample"][run, draw]) <= 1e-6
            set_weights(model, MULTI["sample"][run, draw])
            refresh_statistics(model, MULTI)
            check_statistics(model, MULTI["bn_mean"][run, draw], MULTI["bn_var"][run, draw], 1e-5)
            probabilities = predict_probabilities(model, MULTI)
            assert deviation(probabilities, MULTI["probs"][run, draw]) <= 1e-5
            nll = -np.log(probabilities[images, MULTI["labels"]]).sum()
            assert nll == pytest.approx(MULTI["nll_draw"][run, draw], rel=1e-5)
            total, count = total + probabilities, count + 1
            running.append(-np.log(total[images, MULTI["labels"]] / count).sum())
    assert deviation(total / count, MULTI["mean_probs"]) <= 1e-5
    np.testing.assert_allclose(running, MULTI["nll_running"].ravel(), rtol=1e-5)
    assert running[-1] / len(images) == pytest.approx(float(MULTI["nll_mean"]), rel=1e-5)


def test_scale_zero_is_the_mean() -> None:
    model = GoldenNet(SWAG)
    moments = read_moments(model, SWAG, "n24_f32_")
    drawn = draw_weights(moments, draw_noise(moments.mean, RANK, seed=3), 0.0, divisor=RANK - 1)
    assert all(map(torch.equal, drawn, moments.mean))


def test_draws_depend_on_the_seed_and_their_number_alone() -> None:
    swag = observe_models(SWAG, SWAG["trajectory"], torch.float32)[24]
    state = torch.get_rng_state()
    first = join_rows([member.parameters for member in swag.members(final=True)])
    torch.randn(5)
    next(swag.members(final=True))  # begun, and not ended
    assert np.array_equal(join_rows([member.parameters for member in swag.members(final=True)]), first)
    assert len(first) == 3
    assert not np.array_equal(first[0], first[1])
    torch.set_rng_state(state)
    list(swag.members(final=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_spread_of_many_draws() -> None:
    """Their covariance is half the diagonal and half the low-rank part."""
    model = GoldenNet(SWAG)
    moments = read_moments(model, SWAG, "n24_f32_")
    drawn = join_rows([
        draw_weights(moments, draw_noise(moments.mean, RANK, seed), 0.5, divisor=RANK - 1)
        for seed in range(2000)
    ])  # fmt: skip
    rows = SWAG["n24_f32_dev"].astype(np.float64)
    expected = 0.5 * (SWAG["n24_f32_var"] + (rows**2).sum(axis=0) / (RANK - 1))
    assert np.abs(drawn.var(axis=0) / expected - 1).max() < 0.2
    pair = np.argsort(-np.abs(rows).sum(axis=0))[:2]
    covariance = 0.5 * rows[:, pair[0]] @ rows[:, pair[1]] / (RANK - 1)
    spread = np.sqrt(expected[pair[0]] * expected[pair[1]])
    assert abs(np.cov(drawn[:, pair].T)[0, 1] - covariance) < 0.1 * spread


def test_what_is_observed_is_copied() -> None:
    model = GoldenNet(SWAG)
    snapshots = Snapshots(2)
    swag = Swag("swag", model, snapshots, rank=2, samples=1, scale=0.5, seed=0)
    for epoch in range(3):
        set_weights(model, SWAG["trajectory"][epoch])
        snapshots.add_model(model, epoch)
        swag.after_epoch(model)
    before = join_tensors(next(swag.members(final=True)).parameters)
    load_member(model, Member(split_vector(model, SWAG["trajectory"][9])))
    assert np.array_equal(join_tensors(next(swag.members(final=True)).parameters), before)
