"""A resumed search goes on in the order of the space that it began with, whatever the file has now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.journals import make_event
from tune_swa.config import Experiment, enumerate_space, params_key
from tune_swa.experiment.events import FORMAT
from tune_swa.experiment.folder import load_earlier_events, recall_order
from tune_swa.experiment.state import ExperimentState
from tune_swa.search.coordinator import Coordinator
from tune_swa.search.planner import Suggestion
from tune_swa.search.resume import replay_events
from tune_swa.search.samplers import FixedSource

DATA = {"fingerprint": "f", "class_names": [], "num_classes": 2, "train": 4, "val": 3, "test": 2}
GRID: dict[str, Any] = {
    "lr": {"choice": [1e-3, 3e-3]}, "swa_start": {"choice": [0, 1]}, "swa_lr": {"choice": [1e-3, 1e-4]},
}  # fmt: skip
CONTINUOUS: dict[str, Any] = {
    "lr": {"log_uniform": [1e-4, 1e-2]}, "swa_start": {"int": [0, 1]},
    "swa_lr": {"log_uniform": [1e-5, 1e-2]}, "train.weight_decay": {"uniform": [0, 0.1]},
}  # fmt: skip


def experiment(space: dict[str, Any], sampler: str, order: int = 1) -> Experiment:
    search = {"sampler": sampler, **({} if sampler == "grid" else {"trials": 8})}
    written = dict(list(space.items())[::order])
    train = {"epochs": 3, "batch_size": 32}
    return Experiment.model_validate({"name": "x", "space": written, "train": train, "search": search})


def suggest(coordinator: Coordinator, number: int | None = None) -> list[tuple[str, dict[str, Any]]]:
    """The next trials, or all of them, with their parameters; each ends at once."""
    found: list[tuple[str, dict[str, Any]]] = []
    while number is None or len(found) < number:
        suggestion = coordinator.planner.next_suggestion()
        if not isinstance(suggestion, Suggestion):
            return found
        name = suggestion.trial
        coordinator.add_trial(suggestion)
        found.append((name, dict(coordinator.state.trials[name].params)))
        coordinator.record_start(name, device="cpu", node="here", from_epoch=0, damaged=[])
        coordinator.end_trial(coordinator.state.trials[name], "failed")
    return found


def begin(spec: Experiment, folder: Path) -> Coordinator:
    coordinator = Coordinator(spec, folder, ExperimentState())
    created = make_event(
        "created", format=FORMAT, spec=spec.model_dump(mode="json", by_alias=True), version="0", data=DATA,
        identity=spec.fixed_settings(), numerics={}, hardware={}, versions={},
    )  # fmt: skip
    coordinator.record_event(created)
    coordinator.record_event(make_event("session", number=1, slots=1, gpus=0, cpus=1, resumed=False))
    return coordinator


@pytest.mark.parametrize(
    ("space", "sampler"),
    [(GRID, "grid"), *((CONTINUOUS, sampler) for sampler in ("qmc", "random", "tpe", "cmaes"))],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_recorded_order_is_gone_on_with(space: dict[str, Any], sampler: str, tmp_path: Path) -> None:
    straight = suggest(begin(experiment(space, sampler), tmp_path / "straight"))
    first = begin(experiment(space, sampler), tmp_path / "cut")
    cut = suggest(first, 4)
    first.close()

    given = experiment(space, sampler, order=-1)
    assert list(given.space) != list(space)
    events, state = load_earlier_events(tmp_path / "cut", given, resume=True)
    recalled = recall_order(given, state.header)
    assert list(recalled.space) == list(space)
    assert recalled == experiment(space, sampler)
    again = Coordinator(recalled, tmp_path / "cut", state)
    replay_events(again, events)
    assert cut + suggest(again) == straight


def test_a_new_search_keeps_the_order_of_its_file() -> None:
    given = experiment(GRID, "grid", order=-1)
    assert recall_order(given, None) is given


def test_a_grid_that_an_earlier_version_resumed_in_another_order_runs_each_configuration() -> None:
    """Three in one order, two in the other under the numbers that follow: two of them the same."""
    before = list(enumerate_space(experiment(GRID, "grid").parameters))
    after = list(enumerate_space(experiment(GRID, "grid", order=-1).parameters))
    source = FixedSource(before, "grid")
    ran = [*enumerate(before[:3]), *list(enumerate(after))[3:6]]
    for index, params in ran:
        source.restore_suggestion(index, params)
    found = []
    while (suggestion := source.first_accepted(lambda _: True)) is not None:
        found.append(suggestion[:2])
        source.confirm_suggestion(suggestion[0])
    assert {params_key(p) for _, p in [*ran, *found]} == {params_key(p) for p in before}
    numbers = [index for index, _ in [*ran, *found]]
    assert len(set(numbers)) == len(numbers)
    assert not {params_key(p) for _, p in found} & {params_key(p) for _, p in ran}


def test_numbers_of_an_earlier_version_are_the_same_but_for_their_last_bits() -> None:
    source = FixedSource([{"lr": 0.3}, {"lr": 0.4}], "grid")
    source.restore_suggestion(0, {"lr": 0.1 + 0.2})
    assert list(source.left.items()) == [(1, {"lr": 0.4})]
