"""EMA and LAWA against the numbers of published implementations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.golden import (
    GoldenNet,
    deviation,
    join_tensors,
    load_golden,
    predict_probabilities,
    refresh_statistics,
    set_statistics,
    set_weights,
)
from tune_swa.averaging.ema import Ema
from tune_swa.averaging.lawa import Lawa
from tune_swa.averaging.observers import list_parameters, load_member
from tune_swa.averaging.snapshots import Snapshots

EMA, LAWA = load_golden("ema"), load_golden("lawa")


@pytest.mark.parametrize("start", ["first", "start"])
@pytest.mark.parametrize("decay", [0.9, 0.99, 0.999])
@pytest.mark.parametrize(("dtype", "tolerance"), [("f32", 1e-6), ("f64", 1e-12)])
def test_a_constant_decay(start: str, decay: float, dtype: str, tolerance: float) -> None:
    model = GoldenNet(EMA).to(torch.float64 if dtype == "f64" else torch.float32)
    average = Ema("ema", decay)
    if start == "start":
        set_weights(model, EMA["start"])
        average.after_epoch(model)  # begun at the end of an epoch
    found = []
    for step, weights in enumerate(EMA["trajectory"], start=1):
        set_weights(model, weights)
        average.after_step(model)
        if step in EMA["steps"]:
            found.append(join_tensors(next(average.members(final=True)).parameters))
    assert deviation(found, EMA[f"ema_{start}_{decay}_{dtype}"]) <= tolerance


def test_averaged_statistics_of_an_ema() -> None:
    model = GoldenNet(EMA)
    average = Ema("ema", 0.99, averages_statistics=True)
    for weights, statistics in zip(EMA["trajectory"], EMA["buffers"], strict=True):
        set_weights(model, weights)
        set_statistics(model, statistics)
        average.after_step(model)
    member = next(average.members(final=True))
    assert member.statistics is not None
    assert deviation(join_tensors(member.statistics), EMA["buffers_averaged_0.99"]) <= 1e-6


@pytest.mark.parametrize("averages_statistics", [False, True])
def test_the_mean_of_the_last_models(averages_statistics: bool) -> None:
    model = GoldenNet(LAWA)
    snapshots = Snapshots(int(LAWA["k"]))
    average = Lawa("lawa", int(LAWA["k"]), snapshots, averages_statistics=averages_statistics)
    for epoch, (weights, statistics) in enumerate(
        zip(LAWA["trajectory"], LAWA["buffers"], strict=True), start=1
    ):
        set_weights(model, weights)
        set_statistics(model, statistics)
        snapshots.add_model(model, epoch)
        average.after_epoch(model)
        if f"epoch{epoch:02}_weights" in LAWA:
            member = next(average.members(final=True))
            assert deviation(join_tensors(member.parameters), LAWA[f"epoch{epoch:02}_weights"]) <= 1e-6
            if member.statistics is not None:
                found = join_tensors(member.statistics)
                assert deviation(found, LAWA[f"epoch{epoch:02}_buffers"]) <= 1e-6
    member = next(average.members(final=True))
    load_member(model, member)
    kind = "averaged_buffers"
    if not averages_statistics:
        kind = "refreshed"
        refresh_statistics(model, LAWA)
        means = [model.bn1.running_mean, model.bn2.running_mean]
        assert deviation(join_tensors(means), LAWA["refreshed_bn_mean"]) <= 1e-5
        variances = [model.bn1.running_var, model.bn2.running_var]
        assert deviation(join_tensors(variances), LAWA["refreshed_bn_var"]) <= 1e-5
    probabilities = predict_probabilities(model, LAWA)
    assert deviation(probabilities, LAWA[f"probs_{kind}"]) <= 1e-5
    nll = -np.log(probabilities[np.arange(len(probabilities)), LAWA["labels"]]).mean()
    assert nll == pytest.approx(float(LAWA[f"nll_{kind}"]), rel=1e-5)


def test_what_is_observed_is_copied() -> None:
    """An average whose tensors were the model's would move with it."""
    model = GoldenNet(LAWA)
    snapshots = Snapshots(3)
    averages = [Ema("ema", 0.5), Lawa("lawa", 3, snapshots)]
    set_weights(model, LAWA["trajectory"][0])
    snapshots.add_model(model, 0)
    for average in averages:
        set_weights(model, LAWA["trajectory"][0])
        average.after_epoch(model)
        before = join_tensors(next(average.members(final=True)).parameters)
        set_weights(model, LAWA["trajectory"][1])
        np.testing.assert_array_equal(join_tensors(next(average.members(final=True)).parameters), before)
        assert not np.array_equal(join_tensors(list_parameters(model)), before)
