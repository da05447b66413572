"""Warm-up of an EMA's decay against the numbers of published implementations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from helpers.golden import GoldenNet, deviation, join_tensors, load_golden, set_weights
from tune_swa.averaging.build_observers import build_observers
from tune_swa.averaging.decays import Decay, decay_of_horizon, warm_up_by_power, warm_up_by_ramp
from tune_swa.averaging.ema import Ema
from tune_swa.averaging.snapshots import Snapshots
from tune_swa.config import EmaAverage

EMA = load_golden("ema")
PRECISIONS = pytest.mark.parametrize(("dtype", "tolerance"), [("f32", 1e-6), ("f64", 1e-12)])


def average_trajectory(decay: Decay | Ema, dtype: str) -> list[Any]:
    """Weights of an average at the steps of the reference numbers."""
    model = GoldenNet(EMA).to(torch.float64 if dtype == "f64" else torch.float32)
    average, found = decay if isinstance(decay, Ema) else Ema("ema", decay), []
    for step, weights in enumerate(EMA["trajectory"], start=1):
        set_weights(model, weights)
        average.after_step(model)
        if step in EMA["steps"]:
            found.append(join_tensors(next(average.members(final=True)).parameters))
    return found


def build_average(spec: EmaAverage) -> Ema:
    """By its settings, with ten steps an epoch."""
    [average] = build_observers([spec], GoldenNet(EMA), Snapshots(0), steps=10, seed=0, all_draws=True)
    assert isinstance(average, Ema)
    return average


@PRECISIONS
@pytest.mark.parametrize("limit", [0.9, 0.99])
@pytest.mark.parametrize(
    ("name", "settings"),
    [("warmup", {}), ("warmup2", {"gamma": 3.0, "power": 0.75, "start": 5, "lowest": 0.2})],
)
def test_a_decay_that_grows_by_a_power(
    name: str, settings: dict[str, Any], limit: float, dtype: str, tolerance: float
) -> None:
    decay = warm_up_by_power(limit, **settings)
    decays = [decay(step) for step in range(1, 61)]
    assert deviation(decays, EMA[f"{name}_decay_{limit}"]) <= 1e-12
    assert deviation(average_trajectory(decay, dtype), EMA[f"{name}_{limit}_{dtype}"]) <= tolerance


def test_a_half_life_that_grows_with_the_steps() -> None:
    decay = warm_up_by_ramp(0.5 ** (100 / 500), ratio=0.09)  # 100 images a step, half-life 500 images
    assert deviation([decay(step) for step in range(1, 61)], EMA["rampup_decay_f64"]) <= 1e-12
    assert deviation(average_trajectory(decay, "f64"), EMA["rampup_f64"]) <= 1e-12


def test_settings_become_that_decay() -> None:
    """Horizon and start are in epochs, of ten steps here."""
    warmup = {"method": "power", "gamma": 3, "power": 0.75, "start": 0.5, "lowest": 0.2}
    spec = EmaAverage.model_validate({"method": "ema", "horizon": 1, "warmup": warmup})
    average = build_average(spec)
    limit = decay_of_horizon(1, 10)
    decay = warm_up_by_power(limit, gamma=3, power=0.75, start=5, lowest=0.2)
    expected = average_trajectory(decay, "f64")
    np.testing.assert_array_equal(average_trajectory(average, "f64"), expected)
    ramp = EmaAverage.model_validate({"method": "ema", "horizon": 1, "warmup": {"method": "ramp"}})
    average = build_average(ramp)
    expected = average_trajectory(warm_up_by_ramp(limit, ratio=0.05), "f64")
    np.testing.assert_array_equal(average_trajectory(average, "f64"), expected)


def test_a_plain_mean_until_the_horizon_is_reached() -> None:
    """With power and gamma 1 an average is the mean of its models, whatever it began with."""
    found = average_trajectory(warm_up_by_power(0.9999, power=1), "f64")
    means = [EMA["trajectory"][:step].astype(np.float64).mean(axis=0) for step in EMA["steps"]]
    assert deviation(found, means) <= 1e-12
