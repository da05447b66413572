"""Values of ranges with a step: the decimal numbers that one would write, wherever they come from."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tune_swa.config import Experiment, Range, enumerate_space, params_key
from tune_swa.config.optuna_distributions import decode_value, to_distribution
from tune_swa.search.samplers import SampledSource

NAME = "train.label_smoothing"


def read_space(domain: dict[str, Any], sampler: str = "grid", **settings: Any) -> Experiment:
    space = {"lr": 1e-3, "swa_start": 5, "swa_lr": 1e-3, NAME: domain}
    return Experiment.model_validate(
        {"name": "x", "space": space, "search": {"sampler": sampler, "trials": 30}, **settings}
    )


def test_a_grid_has_the_numbers_that_one_would_write() -> None:
    found = [p[NAME] for p in enumerate_space(read_space({"uniform": [0.1, 0.7], "step": 0.1}).parameters)]
    assert found == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]


@settings(max_examples=200, deadline=None)
@given(
    low=st.integers(0, 10**6), step=st.integers(1, 10**4), count=st.integers(1, 30), digits=st.integers(0, 9)
)
def test_every_value_is_the_shortest_decimal(low: int, step: int, count: int, digits: int) -> None:
    """In decimal there is nothing to round: whole numbers, moved by some digits."""
    unit = Decimal(1).scaleb(-digits)
    written = [float((low + i * step) * unit) for i in range(count + 1)]
    domain = Range(written[0], written[-1], float(step * unit), log=False, integer=False)
    assert domain.list_values() == tuple(written)
    for i, value in enumerate(written):
        summed = written[0] + i * float(step * unit)  # as floats add up
        assert value in domain
        assert summed in domain
        assert domain.round_value(summed) == value


@pytest.mark.parametrize("sampler", ["random", "tpe", "qmc", "gp", "cmaes"])
def test_a_point_is_not_drawn_again_and_every_value_is_tried(sampler: str) -> None:
    spec = read_space({"uniform": [0.1, 0.7], "step": 0.1}, sampler, points=[{NAME: 0.3}])
    source = SampledSource(sampler, spec.parameters, list(spec.swa_points), 0, "swa")
    found = []
    while (proposal := source.propose_params(len(found))) is not None:
        found.append(proposal[0][NAME])
    assert found[0] == 0.3
    assert sorted(found) == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]  # type: ignore[type-var]


def test_a_baseline_at_a_point_is_the_baseline_of_the_trial_there() -> None:
    spec = read_space({"uniform": [0.1, 0.7], "step": 0.1}, baseline={"points": [{NAME: 0.3}]})
    assert spec.baseline_points is not None
    swa = {params_key(params) for params in enumerate_space(spec.parameters)}
    assert {params_key(params) for params in spec.baseline_points} <= swa


def test_a_step_that_is_written_with_few_digits() -> None:
    """A third of the range, say: its last value is within the tolerance of the bound, and Optuna agrees."""
    spec = read_space({"uniform": [0, 0.9], "step": 0.29999999}, "tpe", points=[{NAME: 0.9}])
    (parameter,) = spec.parameters
    values = parameter.domain.list_values()
    assert values == (0.0, 0.29999999, 0.59999998, 0.89999997)
    assert spec.swa_points == ({NAME: 0.89999997},)
    for value in values:
        assert decode_value(parameter, value) == value
        assert to_distribution(parameter)._contains(value)


def test_the_advice_of_a_step_that_misses_the_bound_can_be_followed() -> None:
    with pytest.raises(
        ValidationError, match=r"0\.35 is not reached from 0 in steps of 0\.1; write 0\.3 "
    ) as error:
        read_space({"uniform": [0, 0.35], "step": 0.1})
    assert "0.3000" not in str(error.value)
    assert read_space({"uniform": [0, 0.3], "step": 0.1}).swa_trials == 4


@pytest.mark.parametrize("value", [0.05, 0.75, 0.34, 1e-9, 0.7 + 1e-4])
def test_a_point_beside_the_steps_is_refused(value: float) -> None:
    with pytest.raises(ValidationError, match="is outside the space"):
        read_space({"uniform": [0.1, 0.7], "step": 0.1}, points=[{NAME: value}])


@pytest.mark.parametrize("sampler", ["random", "tpe", "qmc", "cmaes"])
def test_a_journal_with_sums_of_floats_goes_on(sampler: str) -> None:
    """What earlier versions wrote down is the same configuration, and not tried again."""
    spec = read_space({"uniform": [0.1, 0.7], "step": 0.1}, sampler)
    before = SampledSource(sampler, spec.parameters, [], 0, "swa")
    after = SampledSource(sampler, spec.parameters, [], 0, "swa")
    for index in range(7):
        proposal = before.propose_params(index)
        assert proposal is not None
        value = proposal[0][NAME]
        assert isinstance(value, float)
        after.restore_suggestion(index, {NAME: 0.1 + round((value - 0.1) / 0.1) * 0.1})
    assert after.propose_params(7) is None
