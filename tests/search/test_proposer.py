"""What is suggested, in which order, and that a resumed search suggests the same."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.journals import make_event
from tune_swa.config import Choices, Experiment, Parameter, Params, Range, params_key
from tune_swa.config.optuna_distributions import encode_value, to_distribution
from tune_swa.experiment.events import EpochReported, Event, TrialSuggested, params_of
from tune_swa.search.planner import Suggestion
from tune_swa.search.proposer import Proposer
from tune_swa.search.samplers import SampledSource
from tune_swa.search.sobol_points import sobol_point

SAMPLERS = ("grid", "random", "tpe", "qmc", "gp", "cmaes")
FINITE = {
    "lr": {"choice": [3e-4, 1e-3, 3e-3]},
    "swa_start": {"int": [5, 15], "step": 5},
    "swa_lr": {"choice": [1e-4, 1e-3]},
}
CONTINUOUS = {
    "lr": {"log_uniform": [1e-4, 1e-2]},
    "swa_start": {"int": [5, 15]},
    "swa_lr": {"log_uniform": [1e-5, 1e-1]},
    "train.augment": {"choice": [[], ["hflip"], ["hflip", "crop"]]},
}


def experiment(sampler: str, space: dict[str, Any] = FINITE, **changes: Any) -> Experiment:
    search = {"sampler": sampler, "trials": 14, "seed": 3, **changes.pop("search", {})}
    return Experiment.model_validate({"name": "x", "space": space, "search": search, **changes})


def quality(params: Params) -> float:
    """A made-up objective with one optimum inside the space."""
    swa_lr = params.get("swa_lr", 1e-3)
    assert isinstance(params["lr"], float)
    assert isinstance(swa_lr, float)
    return 1 - abs(params["lr"] - 1e-3) - abs(swa_lr - 1e-3)


def drive(proposer: Proposer, limit: int | None = None) -> list[Event]:
    """A serial search with a made-up objective: every third trial is pruned, every seventh fails."""
    events: list[Event] = []
    while limit is None or len(events) < 4 * limit:
        suggestion = proposer.next_suggestion()
        if suggestion is None:
            break
        value, index = quality(suggestion.params), suggestion.index
        status = "failed" if index % 7 == 6 else "pruned" if index % 3 == 2 else "completed"
        for event in (
            suggested_event(suggestion),
            epoch_event(suggestion.trial, 0, value / 2),
            epoch_event(suggestion.trial, 1, value),
            make_event("ended", time=0.0, trial=suggestion.trial, status=status, value=value, error=None),
        ):  # fmt: skip
            proposer.apply_event(event)
            events.append(event)
    return events


def epoch_event(trial: str, epoch: int, accuracy: float) -> Event:
    record = {"epoch": epoch, "accuracy": accuracy}
    return EpochReported(
        time=0.0, trial=trial, record=record, decision="continue", rung=None, checkpoint=None
    )


def suggested_event(suggestion: Suggestion) -> TrialSuggested:
    return TrialSuggested(
        time=0.0, trial=suggestion.trial, kind=suggestion.kind, stage="search", params=suggestion.params,
        seed=0, source=suggestion.source, index=suggestion.index, trunk="t", first_average=None,
    )  # fmt: skip


def suggested(events: list[Event], kind: str = "swa") -> list[Params]:
    return [params_of(e) for e in events if isinstance(e, TrialSuggested) and e.kind == kind]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("space", [FINITE, CONTINUOUS], ids=["finite", "continuous"])
def test_a_resumed_search_suggests_what_it_would_have(sampler: str, space: dict[str, Any]) -> None:
    if sampler == "grid" and space is CONTINUOUS:
        pytest.skip("a grid takes no continuous space")
    spec = experiment(sampler, space)
    straight = drive(Proposer(spec))
    for cut in (0, 3, 7, 12):
        resumed = Proposer(spec)
        for event in straight[: 4 * cut]:
            resumed.apply_event(event)
        assert straight[: 4 * cut] + drive(resumed) == straight


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_trial_that_was_running_at_the_kill_is_known_on_the_resume(sampler: str) -> None:
    """Killed between two epochs: the events so far, then the rest of that trial, then the search."""
    spec = experiment(sampler)
    straight = drive(Proposer(spec))
    for cut in range(21, 24):
        resumed = Proposer(spec)
        for event in straight[:cut]:
            resumed.apply_event(event)
        for event in straight[cut:24]:
            resumed.apply_event(event)
        assert straight[:24] + drive(resumed) == straight


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_configuration_is_repeated(sampler: str) -> None:
    spec = experiment(sampler, search={"trials": 18})
    found = suggested(drive(Proposer(spec)))
    assert len(found) == len({params_key(p) for p in found}) == 18  # the whole space


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_finite_space_ends_the_search(sampler: str) -> None:
    proposer = Proposer(experiment(sampler, search={"trials": 500}))
    assert len(suggested(drive(proposer))) == 18
    assert proposer.next_suggestion() is None


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_suggestions_lie_in_the_space(sampler: str) -> None:
    spec = experiment(sampler, FINITE if sampler == "grid" else CONTINUOUS)
    for params in suggested(drive(Proposer(spec))):
        assert list(params) == [p.name for p in spec.parameters]
        for parameter in spec.parameters:
            assert params[parameter.name] in parameter.domain
        assert type(params["swa_start"]) is int
        spec.run_settings("swa", params)


def test_baselines_first_then_points_then_the_sampler() -> None:
    points = [{"lr": 1e-3, "swa_start": 10, "swa_lr": 1e-3}, {"lr": 3e-3, "swa_start": 5, "swa_lr": 1e-4}]
    for sampler in SAMPLERS:
        proposer = Proposer(experiment(sampler, points=points))
        names = []
        while (suggestion := proposer.next_suggestion()) is not None:
            names.append((suggestion.trial, suggestion.source, suggestion.params))
            proposer.apply_event(suggested_event(suggestion))
        assert [n[0] for n in names[:4]] == ["baseline-0000", "baseline-0001", "baseline-0002", "swa-0000"]
        assert [n[2] for n in names[3:5]] == points
        assert {n[1] for n in names[:3]} == {"baseline"}
        assert len(names) == 3 + 14


def test_a_grid_enumerates_every_combination_once_points_first() -> None:
    points = [{"lr": 3e-3, "swa_start": 15, "swa_lr": 1e-3}]
    found = suggested(drive(Proposer(experiment("grid", points=points, search={"trials": None}))))
    assert found[0] == points[0]
    assert len({params_key(p) for p in found}) == len(found) == 18


def test_a_sampled_baseline_has_no_swa_settings() -> None:
    proposer = Proposer(experiment("tpe", CONTINUOUS, search={"trials": 12}))
    found = suggested(drive(proposer), "baseline")
    assert len(found) == 3
    assert all(list(p) == ["lr", "train.augment"] for p in found)


def test_a_suggestion_that_never_became_a_trial_is_made_again() -> None:
    """Killed between asking and the journal's line."""
    for sampler in SAMPLERS:
        spec = experiment(sampler)
        lost = Proposer(spec)
        first = [drive(lost, 5), lost.next_suggestion()]
        again = Proposer(spec)
        for event in first[0]:  # type: ignore[union-attr]
            again.apply_event(event)
        assert again.next_suggestion() == first[1]


def test_tpe_learns_and_pruned_trials_are_told_as_pruned() -> None:
    spec = experiment("tpe", CONTINUOUS, search={"trials": 40})
    proposer = Proposer(spec)
    found = suggested(drive(proposer))
    early, late = found[:10], found[-10:]
    assert sum(map(quality, late)) > sum(map(quality, early))
    source = proposer._sources["swa"]
    assert isinstance(source, SampledSource)
    trials = source.study.get_trials()
    pruned = [t for t in trials if t.state.name == "PRUNED"]
    assert pruned
    assert all(set(t.intermediate_values) == {0, 1} for t in pruned)
    assert any(t.state.name == "FAIL" for t in trials)
    assert all(t.value is not None for t in trials if t.state.name == "COMPLETE")


def test_the_seed_changes_the_suggestions() -> None:
    for sampler in ("random", "tpe", "qmc", "gp", "cmaes"):
        one = suggested(drive(Proposer(experiment(sampler, CONTINUOUS))))
        other = suggested(drive(Proposer(experiment(sampler, CONTINUOUS, search={"seed": 4}))))
        assert one != other


def test_more_trials_extend_the_same_sequence() -> None:
    for sampler in SAMPLERS:
        short = drive(Proposer(experiment(sampler, search={"trials": 6})))
        extended = Proposer(experiment(sampler, search={"trials": 12}))
        for event in short:
            extended.apply_event(event)
        drive_on = drive(extended)
        whole = drive(Proposer(experiment(sampler, search={"trials": 12})))
        assert short + drive_on == whole


@settings(max_examples=100, deadline=None)
@given(index=st.integers(0, 300), seed=st.integers(0, 2**62))
def test_sobol_points_lie_in_the_space(index: int, seed: int) -> None:
    parameters = (
        Parameter("a", Range(1e-5, 1e-1, None, log=True, integer=False), swa=False),
        Parameter("b", Range(3, 9, 2, log=False, integer=True), swa=False),
        Parameter("c", Range(1, 64, None, log=True, integer=True), swa=False),
        Parameter("d", Choices(("x", True, 3)), swa=False),
        Parameter("e", Range(0.1, 0.5, 0.1, log=False, integer=False), swa=False),
    )
    point = sobol_point(parameters, index, seed)
    for parameter in parameters:
        assert point[parameter.name] in parameter.domain
    assert point == sobol_point(parameters, index, seed)


def test_optunas_form_of_a_domain_includes_both_bounds() -> None:
    whole = to_distribution(Parameter("a", Range(3, 9, 2, log=False, integer=True), swa=False))
    assert whole._contains(3)
    assert whole._contains(9)
    assert not whole._contains(10)
    real = to_distribution(Parameter("a", Range(0.1, 0.5, None, log=True, integer=False), swa=False))
    assert real._contains(0.5)
    choice = Parameter("a", Choices(((), ("hflip", "crop"))), swa=False)
    assert [encode_value(v) for v in choice.domain.values] == ["none", "hflip+crop"]  # type: ignore[union-attr]
