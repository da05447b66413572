"""Settings of averages: names that tell them apart, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from tune_swa.config import Experiment, count_tracked, count_weights
from tune_swa.config.yaml_file import parse_experiment
from tune_swa.errors import RequestError

SPACE = "name: x\ntrain: {epochs: 8}\nspace: {lr: 1e-3, swa_start: {int: [4, 6]}, swa_lr: 1e-3}\n"


def read(*averages: str, key: str = "averages") -> Experiment:
    listed = ", ".join(f"{{{average}}}" for average in averages)
    section = f"averages: [{listed}]" if key == "averages" else f"baseline: {{averages: [{listed}]}}"
    return parse_experiment(f"{SPACE}{section}\n", "f.yaml")


def refuse(*averages: str, key: str = "averages") -> str:
    with pytest.raises(RequestError) as raised:
        read(*averages, key=key)
    [line] = str(raised.value).splitlines()
    return line.removeprefix("f.yaml:4: ")


def test_names_tell_averages_apart() -> None:
    experiment = read(
        "method: ema, horizon: 10",
        "method: ema, horizon: 10, warmup: {method: power}",
        "method: ema, horizon: 10, warmup: {method: power, power: 1, start: 2.5}",
        "method: ema, horizon: 10, statistics: average, warmup: {method: ramp, ratio: 0.09}",
        "method: power_ema",
        "method: power_ema, length: 0.075",
        "method: swad",
        key="baseline",
    )
    assert [average.label for average in experiment.baseline.averages] == [
        "ema-10",
        "ema-10-warmup-power",
        "ema-10-warmup-power-power-1-start-2.5",
        "ema-10-averaged-bn-warmup-ramp-ratio-0.09",
        "power_ema-0.1",
        "power_ema-0.075",
        "swad-3-6-0.3",
    ]


@pytest.mark.parametrize(
    ("average", "said"),
    [
        ("method: power_ema, length: 0.2", "a number of at most 0.15"),
        ("method: power_ema, length: 0", "a number of at least 0.04"),
        ("method: power_ema, lenght: 0.1", "unknown key. Did you mean length? Allowed: method, length"),
        ("method: swad, converge: 1", "a number of at least 2"),
        ("method: swad, tolerance: 0", "a number of at least 1"),
        ("method: swad, ratio: 0", "a number greater than 0"),
        ("method: ema, warmup: power", "settings of its own"),
        ("method: ema, warmup: {method: linear}", "expected one of 'power', 'ramp' as 'method'"),
        ("method: ema, warmup: {power: 1}", "expected 'method' among its settings"),
        ("method: ema, warmup: {method: power, power: 1.5}", "a number of at most 1"),
        ("method: ema, warmup: {method: power, ratio: 0.1}", "Allowed: method, power, gamma, start, lowest"),
        ("method: ema, warmup: {method: ramp, ratio: 0}", "a number greater than 0"),
    ],
)
def test_bad_values_are_refused(average: str, said: str) -> None:
    assert said in refuse(average)


def test_the_same_length_twice_is_refused() -> None:
    assert "power_ema-0.1 is listed twice" in refuse("method: power_ema", "method: power_ema, length: 0.1")


def test_a_window_that_cannot_begin_is_refused() -> None:
    assert refuse("method: swa", "method: swad, converge: 3") == (
        "averages.1.converge: 3: converge needs 3 models, but with swa_start 6 of 8 epochs 1 is averaged; "
        "give an swa_start of at most 4"
    )
    message = refuse("method: swad, converge: 9", key="baseline")
    assert "converge needs 9 models, but a baseline has 8 (train.epochs); give converge 8 or less" in message
    read("method: swad, converge: 8", key="baseline")


def test_checkpoints_are_as_large_as_their_averages() -> None:
    """In sets of weights: power-function averages share two, and eight snapshots of each."""
    lists = {
        ("method: power_ema",): 1,
        ("method: power_ema", "method: power_ema, length: 0.05"): 2,
        ("method: power_ema, length: 0.06", "method: power_ema, length: 0.07", "method: ema"): 2 + 2 * 8 + 1,
        ("method: swad, converge: 2", "method: ema"): 8 + 1,
    }
    for listed, expected in lists.items():
        averages = read(*listed, key="baseline").baseline.averages
        assert count_weights(averages) == expected
    assert count_tracked(read("method: power_ema", "method: power_ema, length: 0.06").averages) == 2


def test_an_experiment_is_the_same_as_before_there_was_a_warmup() -> None:
    plain = read("method: ema, horizon: 10").fixed_settings()
    assert plain["averages"] == [{"method": "ema", "horizon": 10.0, "statistics": "refresh"}]
    warmed: dict[str, Any] = read("method: ema, warmup: {method: ramp}").fixed_settings()
    assert warmed["averages"][0]["warmup"] == {"method": "ramp", "ratio": 0.05}
