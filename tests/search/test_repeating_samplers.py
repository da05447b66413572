"""Samplers that repeat themselves or whose arithmetic fails: the search goes on with what is untried."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest

from tune_swa.config import Experiment, Params, params_key
from tune_swa.search.samplers import SampledSource

RATE = {"log_uniform": [1e-4, 1e-2]}


def read_space(space: dict[str, Any], sampler: str) -> Experiment:
    return Experiment.model_validate(
        {
            "name": "x",
            "space": {"lr": 1e-3, "swa_start": 5, "swa_lr": 1e-3, **space},
            "search": {"sampler": sampler},
        }
    )


def drive_source(source: SampledSource, trials: int, first: int = 0) -> list[Params]:
    """A search in which the largest rate is best, so that a model of it ends at the bound."""
    found: list[Params] = []
    for index in range(first, trials):
        proposal = source.propose_params(index)
        if proposal is None:
            break
        found.append(proposal[0])
        finish_trial(source, index, proposal[0])
    return found


def finish_trial(source: SampledSource, index: int, params: Params) -> None:
    source.finish_trial(index, "completed", sum(math.log(v) for v in params.values() if isinstance(v, float)))


@pytest.mark.parametrize(
    "space", [{"swa_lr": RATE}, {"lr": RATE, "swa_start": {"int": [1, 4]}}], ids=["one", "two"]
)
def test_a_gaussian_process_at_the_bound_of_a_continuous_space(space: dict[str, Any]) -> None:
    spec = read_space(space, "gp")
    found = drive_source(SampledSource("gp", spec.parameters, [], 0, "swa"), 20)
    assert len({params_key(params) for params in found}) == 20
    for params in found:
        assert all(params[p.name] in p.domain for p in spec.parameters)


def test_what_is_drawn_instead_is_drawn_again_after_a_resume() -> None:
    spec = read_space({"swa_lr": RATE}, "gp")
    straight = drive_source(SampledSource("gp", spec.parameters, [], 0, "swa"), 18)
    resumed = SampledSource("gp", spec.parameters, [], 0, "swa")
    for index, params in enumerate(straight[:13]):
        resumed.restore_suggestion(index, params)
        finish_trial(resumed, index, params)
    assert straight[:13] + drive_source(resumed, 18, first=13) == straight


@pytest.mark.parametrize("sampler", ["random", "tpe", "gp", "cmaes", "qmc"])
def test_a_range_of_two_floats_is_used_up(sampler: str) -> None:
    """Two neighbours among the floats, where densities are no numbers any more."""
    spec = read_space({"swa_lr": {"log_uniform": [1e-3, math.nextafter(1e-3, 1)]}}, sampler)
    found = drive_source(SampledSource(sampler, spec.parameters, [], 0, "swa"), 20)
    assert 1 <= len(found) == len({params_key(params) for params in found}) <= 2


def test_a_sampler_whose_arithmetic_fails_is_told_and_replaced(caplog: pytest.LogCaptureFixture) -> None:
    spec = read_space({"lr": {"log_uniform": [1e-3, math.nextafter(1e-3, 1)]}, "swa_lr": RATE}, "tpe")
    with caplog.at_level(logging.WARNING):
        found = drive_source(SampledSource("tpe", spec.parameters, [], 2, "swa"), 20)
    assert len({params_key(params) for params in found}) == 20
    assert "tpe cannot suggest trial" in caplog.text
