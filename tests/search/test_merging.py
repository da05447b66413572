"""Which merges are computed, and when; their candidates' weights stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from helpers.journals import experiment
from helpers.simulated_ray import Driver
from tune_swa.config import Experiment
from tune_swa.execution.dry_run import _checkpoint_bytes
from tune_swa.experiment.layout import CHECKPOINTS
from tune_swa.experiment.trial_state import TrialState
from tune_swa.results.api import load_results
from tune_swa.results.report.page import build_report
from tune_swa.results.summary import summary_text
from tune_swa.search.merging import MergeJob

SPACE: dict[str, Any] = {
    "lr": {"choice": [1e-3, 3e-3]},
    "swa_start": {"choice": [0, 1]},
    "swa_lr": 1e-3,
}
SOUP = {"method": "soup"}


def plan(**changes: Any) -> Experiment:
    given = {"space": SPACE, "search": {"sampler": "grid"}, "scheduler": {"asha": False}, "merge": [SOUP]}
    return experiment(**{**given, **changes})


def accuracy(trial: TrialState) -> float:
    return 0.5 + 0.1 * (trial.fork_epoch or 0)


def play(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Run every trial, each with a checkpoint; returns the merges that were handed out meanwhile."""
    record = driver.coordinator.record_epoch

    def with_checkpoint(name: str, values: dict[str, Any], checkpoint: None, **more: Any) -> Any:
        return record(name, values, f"{CHECKPOINTS}/{name}/epoch-{values['epoch']:05d}.pt", **more)

    monkeypatch.setattr(driver.coordinator, "record_epoch", with_checkpoint)
    merges = []
    while isinstance(answer := driver.searcher.suggest(f"ray-{driver._asked}"), dict):
        driver._asked += 1
        if "merge" in answer:
            merges.append(answer)
            if len(merges) == 1:  # a merge that is out holds nothing up but what follows the search
                assert all(t.ended for t in driver.coordinator.state.trials.values())
            driver.coordinator.merging.take_report(MergeJob(**answer["job"]), report(answer["job"]))
            driver.searcher.on_trial_complete(f"ray-{driver._asked - 1}")
        else:
            driver._ids[answer["trial"]] = f"ray-{driver._asked - 1}"
            driver.coordinator.record_start(answer["trial"], device="", node="", from_epoch=0, damaged=[])
            driver.run(answer)
    return merges


def report(job: dict[str, Any]) -> dict[str, Any]:
    """The second candidate makes it better, the others do not."""
    score = {"accuracy": 0.75, "nll": 0.5, "ece": 0.1}
    tried = [{"trial": name, **score, "kept": i == 0} for i, name in enumerate(job["candidates"][1:])]
    return {"event": "merged", "tried": tried}


def test_each_trunk_is_merged_once_before_the_fresh_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(plan(), tmp_path, slots=2, accuracy=accuracy)
    merges = play(driver, monkeypatch)
    state = driver.coordinator.state
    assert [merge["merge"]["candidates"] for merge in merges] == [
        tuple(sorted((t.name for t in state.trials.values() if t.kind == "swa" and t.trunk == trunk),
                     key=lambda name: -(state.trials[name].fork_epoch or 0)))
        for trunk in state.trunks
    ]  # fmt: skip
    for merge in merges:
        assert merge["merge"]["checkpoints"] == [
            state.trials[name].checkpoints[-1] for name in merge["merge"]["candidates"]
        ]
        assert merge["merge"]["first"]["accuracy"] == 0.7
    assert driver.coordinator.merging.take_job() is None
    again = Driver.resume(plan(), tmp_path, 2)
    assert again.coordinator.merging.take_job() is None  # recorded
    assert "Best greedy soup: 2 of 2 trials of one trunk, 75.00 %, +5.00 points against" in summary_text(
        state
    )
    assert "Means of the averages of several trials" in build_report(state, tmp_path)
    soups = load_results(tmp_path).soups
    assert list(soups.kept) == [True] * 4
    assert list(soups["size"]) == [1, 2, 1, 2]
    assert list(soups.accuracy) == [0.7, 0.75] * 2


def test_a_merge_whose_worker_dies_is_handed_out_again_and_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(plan(), tmp_path, slots=1, accuracy=accuracy)
    merging = driver.coordinator.merging
    monkeypatch.setattr(merging, "take_job", lambda: None)
    play(driver, monkeypatch)
    monkeypatch.undo()
    first = merging.take_job()
    assert first is not None
    other = merging.take_job()
    assert other is not None
    assert other != first
    for _ in range(driver.coordinator.experiment.search.max_failures):
        merging.return_job(first)
        assert merging.take_job() == first
    merging.return_job(first)
    assert merging.take_job() is None
    merging.take_report(other, {"event": "unmerged", "error": "CheckpointError: gone"})
    merging.return_job(other)
    assert merging.take_job() is None
    lines = merging.describe_failures()
    assert "its worker process died" in lines[0]
    assert "CheckpointError: gone" in lines[1]
    assert Driver.resume(plan(), tmp_path, 1).coordinator.merging.take_job() == first


def test_the_plan_counts_what_is_kept() -> None:
    plain, merging = (_checkpoint_bytes(spec, 1, 10, confirm=False) for spec in (plan(merge=[]), plan()))
    weights = 4 * (11_176_512 + 5130)
    assert merging - plain == (2 * 2 + 2) * weights  # two trials beyond the finalists, and two soups


def test_without_soups_nothing_says_so() -> None:
    assert "merge" not in plan(merge=[]).fixed_settings()
    assert plan().fixed_settings()["merge"] == [{"method": "soup", "rule": "greedy"}]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"space": {**SPACE, "lr": {"log_uniform": [1e-4, 1e-2]}}, "search": {}},
            "give a choice of values or a step, or leave merge out",
        ),
        ({"search": {"trials": 1}}, "give 2 or more"),
        ({"merge": [SOUP, SOUP]}, "greedy soup is listed twice; leave one out"),
        ({"merge": [{"method": "stew"}]}, "soup"),
    ],
)
def test_soups_that_cannot_be_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        plan(**changes)
    assert said in str(caught.value)
