"""EMAs by power functions against the numbers of a published implementation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from helpers.golden import GoldenNet, deviation, join_tensors, load_golden, set_weights
from tune_swa.averaging.build_observers import build_observers
from tune_swa.averaging.decays import exponent_of_length, follow_power_function
from tune_swa.averaging.ema import Ema
from tune_swa.averaging.observers import Member, load_member
from tune_swa.averaging.power_ema import POWER_SNAPSHOTS, PowerEma, PowerTracker, solve_coefficients
from tune_swa.averaging.snapshots import Snapshots
from tune_swa.config.averages import PowerEmaAverage

EMA = load_golden("ema")
LENGTHS = [float(length) for length in EMA["power_sigma_rel"]]  # 0.05, 0.1, 0.075


class Vector(nn.Module):
    """A model of one parameter: the weights may be anything."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(size, dtype=torch.float64))


def build_power_emas(lengths: list[float]) -> list[PowerEma]:
    specs = [PowerEmaAverage.model_validate({"method": "power_ema", "length": one}) for one in lengths]
    observers = build_observers(specs, Vector(1), Snapshots(0), steps=50, seed=0, all_draws=True)
    built = [observer for observer in observers if isinstance(observer, PowerEma)]
    assert len(built) == len(lengths)
    return built


def read_average(average: Any) -> Any:
    return join_tensors(next(average.members(final=True)).parameters)


def average_impulses(lengths: list[float], epochs: int, steps: int) -> list[Any]:
    """The part that each step has in each average: that of weights that are unit vectors."""
    averages, model = build_power_emas(lengths), Vector(epochs * steps)
    for weights in torch.eye(epochs * steps, dtype=torch.float64):
        load_member(model, Member([weights]))
        for average in averages:
            average.after_step(model)
        if averages[0].count % steps == 0:
            for average in averages:
                average.after_epoch(model)
    return [read_average(average) for average in averages]


def compute_profile(length: float, steps: int) -> Any:
    """The part of each step by the decays themselves, in closed form."""
    decays = [follow_power_function(exponent_of_length(length))(step) for step in range(1, steps + 1)]
    later = np.append(np.cumprod(decays[:0:-1])[::-1], 1.0)
    return (1 - np.array(decays)) * later


def test_exponents_and_decays() -> None:
    assert deviation([exponent_of_length(length) for length in LENGTHS], EMA["power_gamma"]) <= 1e-12
    for length in LENGTHS:
        decay = follow_power_function(exponent_of_length(length))
        assert deviation([decay(step) for step in range(1, 61)], EMA[f"power_beta_{length}"]) <= 1e-12


def test_averages_of_a_trajectory() -> None:
    model = GoldenNet(EMA).double()
    averages = [Ema("", follow_power_function(exponent_of_length(length))) for length in LENGTHS]
    found = []
    for step, weights in enumerate(EMA["trajectory"], start=1):
        set_weights(model, weights)
        for average in averages:
            average.after_step(model)
        if step in EMA["steps"]:
            found.append([read_average(average) for average in averages])
    assert deviation(found, EMA["power_f64"]) <= 1e-12


@pytest.mark.parametrize("length", [0.05, 0.1])
def test_a_tracked_length_is_taken_directly(length: float) -> None:
    """No snapshot is kept for it, nor is the other average."""
    model, [average] = GoldenNet(EMA).double(), build_power_emas([length])
    for step, weights in enumerate(EMA["trajectory"], start=1):
        set_weights(model, weights)
        average.after_step(model)
        if step % 6 == 0:
            average.after_epoch(model)
    assert deviation(read_average(average), EMA["power_f64"][-1, LENGTHS.index(length)]) <= 1e-12
    state = average.state_dict()
    assert state["snapshots"] == []
    assert len(state["averages"]) == 1


def test_coefficients_of_snapshots() -> None:
    for prefix, snapshots in [("posthoc", "snapshot_steps"), ("profile", "profile_snapshot_steps")]:
        found = solve_coefficients(list(EMA[snapshots]), (0.05, 0.10), 0.075)
        assert deviation(found, EMA[f"{prefix}_coefficients"]) <= 1e-9


def test_a_length_is_solved_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the ten snapshots of the reference."""
    monkeypatch.setattr("tune_swa.averaging.power_ema.POWER_SNAPSHOTS", 10)
    model, [average] = GoldenNet(EMA).double(), build_power_emas([0.075])
    monkeypatch.setattr("tune_swa.averaging.power_ema.OLDEST", 1000)
    for step, weights in enumerate(EMA["trajectory"], start=1):
        set_weights(model, weights)
        average.after_step(model)
        if step in EMA["snapshot_steps"]:
            average.after_epoch(model)
    snapshots = [
        [join_tensors(weights) for weights in averages] for averages in average.state_dict()["snapshots"]
    ]
    assert deviation(snapshots, EMA["snapshots_f64"]) <= 1e-12
    assert deviation(read_average(average), EMA["posthoc_f64"]) <= 1e-9


def test_profiles(monkeypatch: pytest.MonkeyPatch) -> None:
    for length, expected in zip(LENGTHS, EMA["profile"], strict=True):
        assert deviation(compute_profile(length, 1000), expected) <= 1e-12
    for profile, width in zip(EMA["profile"], EMA["profile_width"], strict=True):
        steps = np.arange(1, 1001) / 1000
        assert np.sqrt(profile @ steps**2 - (profile @ steps) ** 2) == pytest.approx(float(width), rel=1e-9)
    monkeypatch.setattr("tune_swa.averaging.power_ema.POWER_SNAPSHOTS", 10)
    direct, other, solved = average_impulses(LENGTHS, epochs=10, steps=100)
    assert deviation([direct, other], EMA["profile"][:2]) <= 1e-12
    assert deviation(solved, EMA["profile_reconstructed"]) <= 1e-9
    error = np.linalg.norm(solved - EMA["profile"][2]) / np.linalg.norm(EMA["profile"][2])
    assert error == pytest.approx(float(EMA["profile_relative_error"]), rel=1e-6)


@pytest.mark.parametrize("epochs", [10, 23, 60])
@pytest.mark.parametrize(("length", "most"), [(0.04, 0.031), (0.06, 0.012), (0.12, 0.012), (0.15, 0.031)])
def test_few_snapshots_are_close_enough(epochs: int, length: float, most: float) -> None:
    """Also after many epochs, whose snapshots are thinned out."""
    [found] = average_impulses([length], epochs, steps=10)
    expected = compute_profile(length, epochs * 10)
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) <= most


def test_between_snapshots_the_present_averages_count_too() -> None:
    """Within a cycle of epochs, no snapshot is taken."""
    [average], model = build_power_emas([0.08]), Vector(200)
    for weights in torch.eye(200, dtype=torch.float64):
        load_member(model, Member([weights]))
        average.after_step(model)
        if average.count in range(20, 200, 20):
            average.after_epoch(model)
    expected = compute_profile(0.08, 200)
    found = read_average(average)
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) <= 0.012
    average.after_epoch(model)
    np.testing.assert_allclose(read_average(average), found, atol=1e-4)


def test_the_number_of_snapshots_is_bounded() -> None:
    tracker, model = PowerTracker([0.075]), Vector(1)
    for _ in range(100):
        tracker.after_step(model)
        tracker.after_epoch(model)
        assert len(tracker.steps) <= POWER_SNAPSHOTS
        assert tracker.steps[-1] == tracker.count
    assert tracker.steps[0] * 2 >= 100


def test_observers_share_the_averages() -> None:
    """Each length's is the same whether it is listed alone or with others."""
    [first] = average_impulses([0.12], epochs=6, steps=5)
    np.testing.assert_array_equal(average_impulses([0.05, 0.12, 0.1], epochs=6, steps=5)[1], first)
    averages = build_power_emas([0.12, 0.05])
    assert averages[1].state_dict() == {}
