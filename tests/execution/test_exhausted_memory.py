"""GPU memory that does not suffice: once more with streamed images, and again with a larger share."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_two_gpus import search  # type: ignore[import-not-found]

from helpers import ray_trials
from helpers.journals import append_event, make_event
from helpers.local_worker import Worker
from tune_swa.config import Experiment
from tune_swa.errors import RequestError
from tune_swa.execution import trainable
from tune_swa.experiment.events import TrialStarted
from tune_swa.experiment.journal import read_events
from tune_swa.experiment.state import ExperimentState
from tune_swa.search.coordinator import Coordinator
from tune_swa.search.planner import Suggestion
from tune_swa.search.resume import replay_events, retry_exhausted
from tune_swa.training.run import Run

# ------------------------------------------------------------------------------- in the worker


def exhaust(monkeypatch: pytest.MonkeyPatch, epoch: int, times: int, error: Exception) -> list[bool]:
    """Have training run out of memory in an epoch, so many times; returns whether each run streams."""
    streamed: list[bool] = []
    build, train = Run.__init__, Run.train_epoch

    def build_watched(run: Run, *given: Any, stream_images: bool = False, **named: Any) -> None:
        streamed.append(stream_images)
        build(run, *given, stream_images=stream_images, **named)

    def train_or_fail(run: Run) -> float:
        if run.epoch == epoch and len(streamed) <= times:
            raise error
        return train(run)

    monkeypatch.setattr(Run, "__init__", build_watched)
    monkeypatch.setattr(Run, "train_epoch", train_or_fail)
    return streamed


def facts(worker: Worker) -> list[dict[str, Any]]:
    records = [message["record"] for message in worker.messages if message["event"] == "epoch"]
    return [{k: v for k, v in record.items() if "second" not in k} for record in records]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    ],
    ids=lambda error: f"{type(error).__name__} {str(error)[:24]}",
)
def test_it_goes_on_once_from_its_last_checkpoint_with_streamed_images(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    worker.train(trial="swa-0009")
    straight = facts(worker)
    worker.messages.clear()
    streamed = exhaust(monkeypatch, epoch=2, times=1, error=error)
    worker.train()
    assert streamed == [False, True]
    started = [m for m in worker.messages if m["event"] == "started"]
    assert [m["from_epoch"] for m in started] == [0, 2]
    assert "retried" not in started[0]
    assert str(error) in started[1]["retried"]
    epochs = facts(worker)
    assert epochs[:2] == straight[:2]
    assert epochs[2:] == [
        straight[1],
        straight[2],
    ]  # the restored epoch is reported again, and changes nothing


def test_the_second_time_it_fails_with_the_share_that_it_had(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    streamed = exhaust(monkeypatch, 1, 2, torch.OutOfMemoryError("CUDA out of memory."))
    last = worker.train(gpus=0.25)
    assert streamed == [False, True]
    assert (last["event"], last["exhausted"]) == ("failed", 0.25)
    assert "with 0.25 of a GPU" in last["error"]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_the_hosts_memory_is_another_matter(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """The process ends, which gives its memory back; nothing says that the trial failed."""

    def leave(status: int) -> None:
        raise SystemExit(status)

    streamed = exhaust(monkeypatch, 1, 2, error)
    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(SystemExit, match=str(trainable.LEAVING_EXIT)):
        worker.train(gpus=0.25)
    assert streamed == [False]
    assert worker.messages[-1]["event"] == "exhausted"


# ------------------------------------------------------------------------------- in the journal

SPACE: dict[str, Any] = {
    "name": "x",
    "train": {"epochs": 4},
    "space": {"lr": {"log_uniform": [1e-3, 1e-1]}, "swa_start": 1, "swa_lr": {"log_uniform": [1e-4, 1e-1]}},
    "search": {"sampler": "tpe", "trials": 30},
    "baseline": {"trials": 1},
    "scheduler": {"asha": False},
}
FACTS: dict[str, Any] = {
    "format": 1, "version": "0", "numerics": {}, "hardware": {}, "versions": {},
    "data": {"fingerprint": "f", "class_names": [], "num_classes": 2, "train": 4, "val": 3, "test": 2},
}  # fmt: skip


class Driver:
    """Runs trials one after another without training any; a session after another on one journal."""

    def __init__(self, folder: Path, sampler: str = "tpe") -> None:
        self.spec = Experiment.model_validate({**SPACE, "search": {**SPACE["search"], "sampler": sampler}})
        journal = folder / "journal.jsonl"
        events = list(read_events(journal)) if journal.exists() else []
        state = ExperimentState.fold(iter(events), journal)
        self.coordinator = Coordinator(self.spec, folder, state)
        if events:
            replay_events(self.coordinator, events)
        else:
            spec = self.spec.model_dump(mode="json", by_alias=True)
            self.coordinator.record_event(
                make_event("created", spec=spec, identity=self.spec.fixed_settings(), **FACTS)
            )

    def begin_session(self, share: float) -> list[str]:
        again = retry_exhausted(self.coordinator, share)
        number = self.coordinator.state.sessions + 1
        self.coordinator.record_event(
            make_event("session", number=number, slots=1, gpus=1, cpus=1, resumed=True)
        )
        return again

    def run(self, name: str, *, exhausted: float | None = None) -> None:
        """To the end, or until memory is exhausted after two epochs."""
        trial = self.coordinator.state.trials[name]
        self.coordinator.record_start(name, device="", node="", from_epoch=trial.next_epoch, damaged=[])
        for epoch in range(trial.next_epoch, 4):
            if epoch == 2 and exhausted is not None:
                self.coordinator.fail_trial(name, "GPU memory is exhausted", exhausted=exhausted)
                return
            accuracy = 0.5 + 0.1 * trial.params["lr"] + 0.01 * epoch
            checkpoint = f"checkpoints/{name}/epoch-{epoch:05d}.pt"
            path = self.coordinator.folder / checkpoint
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            self.coordinator.record_epoch(
                name, {"epoch": epoch, "accuracy": accuracy, "nll": 1.0}, checkpoint
            )

    def suggest(self) -> str:
        suggestion = self.coordinator.planner.next_suggestion()
        assert isinstance(suggestion, Suggestion)
        self.coordinator.add_trial(suggestion)
        return suggestion.trial

    def trial(self, name: str) -> Any:
        return self.coordinator.state.trials[name]


def fail_some(folder: Path, sampler: str = "tpe") -> Driver:
    """Fourteen trials, of which two exhausted a quarter of a GPU."""
    driver = Driver(folder, sampler)
    driver.begin_session(0.25)
    for number in range(14):
        driver.run(driver.suggest(), exhausted=0.25 if number in (3, 8) else None)
    return driver


FAILED = ["swa-0002", "swa-0007"]


def test_a_larger_share_reopens_what_failed_for_memory(tmp_path: Path) -> None:
    before = fail_some(tmp_path)
    assert [t.name for t in before.coordinator.state.trials.values() if t.exhausted == 0.25] == FAILED
    assert len(before.trial(FAILED[0]).checkpoints) == 2
    assert Driver(tmp_path).begin_session(0.25) == []  # no more than it had
    driver = Driver(tmp_path)
    assert driver.coordinator.unfinished_trials() == []
    assert sorted(p.name for p in (tmp_path / "checkpoints" / FAILED[0]).iterdir()) == [
        "epoch-00000.pt", "epoch-00001.pt",
    ]  # fmt: skip
    assert driver.begin_session(0.5) == FAILED
    assert driver.coordinator.unfinished_trials() == FAILED
    trial = driver.trial(FAILED[0])
    assert (trial.status, trial.error, trial.exhausted, trial.next_epoch) == ("interrupted", None, None, 2)
    for name in FAILED:
        driver.run(name)
    assert driver.trial(FAILED[0]).status == "completed"
    assert ExperimentState.read(tmp_path / "journal.jsonl").trials == driver.coordinator.state.trials
    assert Driver(tmp_path).begin_session(1.0) == []


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "qmc", "gp"])
def test_suggestions_after_a_reopening_are_repeated_by_another_resume(sampler: str, tmp_path: Path) -> None:
    fail_some(tmp_path / "a", sampler)
    driver = Driver(tmp_path / "a", sampler)
    driver.begin_session(0.5)
    driver.run(FAILED[1])  # the other one is not run again yet
    driver.run(driver.suggest())
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    expected = [driver.trial(driver.suggest()).params for _ in range(3)]
    again = Driver(tmp_path / "b", sampler)
    again.begin_session(0.5)
    assert [again.trial(again.suggest()).params for _ in range(3)] == expected


def test_the_sampler_learns_from_what_was_reopened(tmp_path: Path) -> None:
    fail_some(tmp_path)
    driver = Driver(tmp_path)
    driver.begin_session(0.5)
    for name in FAILED:
        driver.run(name)
    study = driver.coordinator.planner._sources["swa"].study  # type: ignore[attr-defined]
    told = [(t.state.name, sorted(t.intermediate_values)) for t in study.get_trials()]
    assert told.count(("FAIL", [0, 1])) == 2
    assert told[-2:] == [("COMPLETE", [0, 1, 2, 3])] * 2


def test_a_kill_after_any_line_of_the_reopening_changes_nothing(tmp_path: Path) -> None:
    fail_some(tmp_path / "whole")
    before = (tmp_path / "whole" / "journal.jsonl").read_bytes().splitlines(keepends=True)

    def finish(folder: Path) -> dict[str, Any]:
        driver = Driver(folder)
        driver.begin_session(0.5)
        for name in driver.coordinator.unfinished_trials():
            driver.run(name)
        for _ in range(2):
            driver.run(driver.suggest())
        trials = driver.coordinator.state.trials.values()
        return {t.name: (t.params, t.status, t.records, t.error) for t in trials}

    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    straight = finish(tmp_path / "whole")
    lines = (tmp_path / "whole" / "journal.jsonl").read_bytes().splitlines(keepends=True)
    first = len(before)
    assert [b'"reopened"' in line for line in lines[first : first + 2]] == [True, True]
    for cut in (first + 1, first + 2, first + 3):  # the second is yet to come; the session is; neither is
        folder = tmp_path / f"cut-{cut}"
        shutil.copytree(tmp_path / "killed", folder)
        (folder / "journal.jsonl").write_bytes(b"".join(lines[:cut]))
        assert finish(folder) == straight


def test_runs_on_fresh_seeds_leave_the_search_as_it_was(tmp_path: Path) -> None:
    """The finalists are chosen: a trial that could have become one comes too late."""
    driver = fail_some(tmp_path)
    arms = [{"name": "swa-0000", "kind": "swa", "params": {}, "roles": ["finalist"]}]
    for _ in range(17):
        driver.run(driver.suggest())
    driver.coordinator.record_event(make_event("confirm", look=1, seeds=[1], arms=arms, searched=31))
    assert Driver(tmp_path).begin_session(0.5) == []


@pytest.mark.parametrize("value", ["0.25", True, 1.5, -0.25, [0.25]], ids=repr)
def test_an_odd_share_in_the_journal_is_named(value: object, tmp_path: Path) -> None:
    fail_some(tmp_path)
    events = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    for event in events:
        if event.get("exhausted") is not None:
            event["exhausted"] = value
    (tmp_path / "odd.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    with pytest.raises(
        RequestError, match=r"odd.jsonl:\d+: this line of the journal is damaged \(.*exhausted"
    ):
        ExperimentState.read(tmp_path / "odd.jsonl")


def test_only_what_failed_for_memory_is_reopened(tmp_path: Path) -> None:
    driver = fail_some(tmp_path)
    append_event(driver.coordinator.journal, "reopened", trial="swa-0000")
    with pytest.raises(RequestError, match="swa-0000 did not fail for GPU memory before"):
        ExperimentState.read(tmp_path / "journal.jsonl")


# ------------------------------------------------------------------------------- whole searches


def test_a_search_completes_when_it_is_resumed_with_a_larger_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_ray: None
) -> None:
    """Branches need more than half of a GPU: their averages come on top."""
    space = {"lr": 1e-3, "swa_start": 1, "swa_lr": {"choice": [1e-3, 1e-2]}}
    trial: Callable[..., None] = ray_trials.trial_that_needs_a_whole_gpu
    first = search(tmp_path, monkeypatch, space, trial=trial, search={"sampler": "grid"}, epochs=4, gpus=1)
    assert [t.status for t in first.trials.values()] == ["completed", "failed", "failed"]
    assert [t.exhausted for t in first.trials.values()] == [None, 0.5, 0.5]
    assert "with 0.5 of a GPU" in str(first.trials["swa-0000"].error)
    more = search(
        tmp_path, monkeypatch, space, trial=trial, search={"sampler": "grid"}, epochs=4, gpus=1, resume=True,
        resources={"gpus_per_trial": 1.0},
    )  # fmt: skip
    assert [t.status for t in more.trials.values()] == ["completed"] * 3
    assert [t.error for t in more.trials.values()] == [None] * 3
    events = list(read_events(tmp_path / "two" / "journal.jsonl"))
    assert sorted(e["trial"] for e in events if e["event"] == "reopened") == ["swa-0000", "swa-0001"]
    retried = [e.trial for e in events if isinstance(e, TrialStarted) and e.retried is not None]
    assert sorted(retried) == ["swa-0000", "swa-0001"]
