"""What follows the death of a worker: a shortage of the machine's memory is not the trial's failure."""

from __future__ import annotations

import errno
import mmap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_two_gpus import search  # type: ignore[import-not-found]

from helpers import ray_trials
from helpers.local_worker import Worker
from tune_swa.config import Experiment
from tune_swa.execution import trainable
from tune_swa.execution.ray_adapters.searcher import TrialSearcher
from tune_swa.execution.slots import Placement
from tune_swa.execution.worker_deaths import WorkerDeaths
from tune_swa.experiment.state import ExperimentState
from tune_swa.hardware import shortages
from tune_swa.hardware.shortages import MemoryWatch
from tune_swa.search.coordinator import Coordinator
from tune_swa.search.resume import retry_exhausted

GB = 10**9
MONITOR = (
    "Failure # 1 (occurred at 2026-11-28_04-00-00)\nThe actor died unexpectedly before finishing this task.\n"
    "\tclass_name: ImplicitFunc\n2 worker(s) were killed due to the node running low on memory. Memory on"
)
CRASH = (
    "Failure # 1 (occurred at 2026-11-28_04-00-00)\nThe actor died unexpectedly before finishing this task.\n"
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit "
    "detail: Worker unexpectedly exits with a connection error code 2. End of file."
)


class Search:
    """A search without Ray, on a machine whose memory the test sets."""

    def __init__(self, folder: Path, slots: int = 2, max_failures: int = 2, **more: Any) -> None:
        self.free, self.kills, self.now = 20 * GB, 0, 0.0
        self.folder = folder
        self.messages: list[str] = []
        self.ticks = 0
        space = {"lr": {"choice": [1e-3, 1e-2]}, "swa_start": 1, "swa_lr": 1e-3}
        given = {"name": "x", "space": space, "search": {"sampler": "grid", "share": False}, **more}
        self.experiment = Experiment.model_validate(given)
        self.coordinator = Coordinator(self.experiment, folder, ExperimentState())
        watch = MemoryWatch(lambda: (24 * GB, self.free, False), lambda: self.kills, lambda: self.now)
        self.deaths = WorkerDeaths(self.coordinator, max_failures, watch, slots, self.messages.append)
        placement = Placement(0, slots, slots, 0.0, 1)
        self.searcher = TrialSearcher(self.coordinator, placement, self.deaths, self.tick)
        self.asked = 0

    def tick(self) -> None:
        self.ticks += 1

    def suggest(self) -> tuple[str, dict[str, Any] | str | None]:
        self.asked += 1
        return f"ray-{self.asked}", self.searcher.suggest(f"ray-{self.asked}")

    def begin(self) -> tuple[str, str]:
        """Ray's id of the next trial, and our name for it."""
        ray_id, config = self.suggest()
        assert isinstance(config, dict)
        return ray_id, config["trial"]

    def die(self, ray_id: str, name: str | None, text: str) -> None:
        """The worker dies; Ray says what follows `text`, first to the scheduler and then to the searcher."""
        (self.folder / "error.txt").write_text(text)
        ray_trial = SimpleNamespace(error_file=str(self.folder / "error.txt"), pickled_error_file=None)
        self.deaths.take_death(name, ray_trial)  # type: ignore[arg-type]
        self.searcher.on_trial_complete(ray_id, error=True)

    def status(self, name: str) -> tuple[str, str | None]:
        trial = self.coordinator.state.trials[name]
        return trial.status, trial.error


def test_a_worker_that_memory_ended_costs_its_trial_nothing(tmp_path: Path) -> None:
    """Its trial goes on, after memory is there again, with one trial at a time."""
    run = Search(tmp_path)
    first, second = run.begin(), run.begin()
    run.free = 1 * GB
    run.die(*second, MONITOR)
    assert run.status(second[1]) == ("running", None)
    assert run.suggest()[1] is None  # no memory yet
    assert run.messages == [
        f"memory was exhausted: the worker of {second[1]} ended (killed by Ray's memory monitor). 1 GB of "
        "this machine's 24 GB are free; from here on one trial at a time"
    ]
    run.free, run.now = 10 * GB, 5.0
    assert run.suggest()[1] is None  # the only slot that is left is taken
    run.searcher.stopping = False
    run.coordinator.fail_trial(first[1], "made up")
    run.searcher.on_trial_complete(first[0])
    assert run.begin()[1] == second[1]


def test_three_deaths_within_seconds_are_no_failure(tmp_path: Path) -> None:
    """While others hold the memory, nothing is started; the trials do not fail one after the other."""
    run = Search(tmp_path)
    first, second = run.begin(), run.begin()
    run.free = 1 * GB
    run.die(*first, MONITOR)
    run.die(*second, MONITOR)
    for _ in range(30):
        run.now += 1
        assert run.suggest()[1] is None
    assert run.ticks == 30  # signals and the display are looked after meanwhile: Ray calls nothing else
    assert {run.status(name) for _, name in (first, second)} == {("running", None)}
    run.free = 10 * GB
    run.now += 1
    assert run.begin()[1] == second[1]


def test_memory_that_does_not_come_back_stops_the_search_to_be_resumed(tmp_path: Path) -> None:
    run = Search(tmp_path, slots=1)
    trial = run.begin()
    run.free = 1 * GB
    run.die(*trial, MONITOR)
    run.now = shortages.PATIENCE_SECONDS - 1
    assert run.suggest()[1] is None
    run.now += 1
    assert run.suggest()[1] == "FINISHED"
    assert run.coordinator.halt_reason == (
        "for 10 minutes there was too little memory to start a worker (1 GB of this machine's 24 GB are "
        "free; Ray kills workers where more than 95% are used)"
    )
    assert run.status(trial[1]) == ("running", None)


def test_the_systems_own_kill_is_told_from_a_crash(tmp_path: Path) -> None:
    """Ray says the same of both; the kernel counts those that it killed because memory was exhausted."""
    run = Search(tmp_path, max_failures=0)
    first, second = run.begin(), run.begin()
    run.kills = 1
    run.die(*first, CRASH)
    assert run.status(first[1]) == ("running", None)
    assert "killed by the system" in run.messages[0]
    run.die(*second, CRASH)
    status, error = run.status(second[1])
    assert status == "failed"
    assert str(error).startswith("its worker process died (1 time): Worker unexpectedly exits with a conn")


def test_a_trial_too_large_for_the_machine_fails_and_a_resume_runs_it_again(tmp_path: Path) -> None:
    """Memory is free whenever it begins, and it dies with nothing beside it: others go on."""
    run = Search(tmp_path, slots=2, max_failures=1)
    ray_id, name = run.begin()
    for expected in ("running", "running", "failed"):
        run.die(ray_id, name, MONITOR)
        assert run.status(name)[0] == expected
        run.now += 2
        if expected == "running":
            ray_id, again = run.begin()
            assert again == name
    assert str(run.status(name)[1]).startswith(
        "memory was exhausted 2 times with no other trial beside it (killed by Ray's memory monitor; 20 GB "
    )
    assert run.begin()[1] != name
    assert retry_exhausted(run.coordinator, 0.0) == [name]
    assert run.status(name) == ("interrupted", None)


def test_a_crash_fails_its_trial_once_too_often(tmp_path: Path) -> None:
    run = Search(tmp_path, slots=1, max_failures=2)
    ray_id, name = run.begin()
    for left in (2, 1):
        run.die(ray_id, name, CRASH)
        assert run.status(name) == ("running", None), left
        ray_id, again = run.begin()
        assert again == name
    run.die(ray_id, name, CRASH)
    assert str(run.status(name)[1]).startswith("its worker process died (3 times): ")
    assert run.messages == []


def test_nothing_is_finished_while_a_trial_may_have_to_begin_again(tmp_path: Path) -> None:
    """Ray asks a searcher that has finished for nothing more."""
    run = Search(tmp_path, slots=9)
    out = [run.begin() for _ in range(4)]  # two baselines, two SWA trials: all there are
    assert run.suggest()[1] is None
    for ray_id, name in out[1:]:
        run.coordinator.fail_trial(name, "made up")
        run.searcher.on_trial_complete(ray_id)
    run.die(*out[0], CRASH)
    assert run.begin()[1] == out[0][1]


def test_memory_of_other_machines_is_waited_for_by_the_clock(tmp_path: Path) -> None:
    now = [0.0]
    watch = MemoryWatch(read=None, clock=lambda: now[0])
    assert not watch.has_killed()
    watch.begin_waiting()
    watch.restart_patience()
    now[0] = shortages.PAUSE_SECONDS - 1
    assert watch.is_waiting()
    now[0] += 1
    assert not watch.is_waiting()


# ------------------------------------------------------------------------------- in the worker


@pytest.mark.parametrize(
    ("error", "event"),
    [
        (MemoryError(), "exhausted"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:133] DefaultCPUAllocator: can't allocate"),
            "exhausted",
        ),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "exhausted"),
        (OSError(errno.EMFILE, "Too many open files"), "halted"),
        (OSError(errno.EIO, "Input/output error", "/images/a"), "halted"),
        (RuntimeError("can't start new thread"), "halted"),
        (FileNotFoundError(errno.ENOENT, "No such file", "gcc"), "failed"),
    ],
    ids=repr,
)
def test_a_shortage_of_the_machine_is_told_from_a_fault_of_the_trial(
    error: Exception, event: str, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Exited(BaseException):
        """In place of the end of the tests' own process."""

    def fail(*_: object) -> None:
        raise error

    def leave(status: int) -> None:
        raise Exited

    monkeypatch.setattr(trainable.Run, "begin_epoch", fail)
    monkeypatch.setattr(trainable.os, "_exit", leave)
    if event == "exhausted":
        with pytest.raises(Exited):
            worker.train()
    else:
        worker.train()
    assert worker.messages[-1]["event"] == event


# ------------------------------------------------------------------------------- through Ray

SPACE = {"lr": 1e-2, "swa_start": 1, "swa_lr": {"choice": [1e-3, 1e-2]}}
GRID = {"sampler": "grid", "max_failures": 1}


def test_memory_errors_of_a_worker_cost_a_search_no_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_ray: None
) -> None:
    state = search(
        tmp_path, monkeypatch, SPACE, trial=ray_trials.trial_without_memory_at_first, epochs=3, gpus=1,
        search=GRID,
    )  # fmt: skip
    assert {t.status for t in state.trials.values()} == {"completed"}
    assert (tmp_path / "two" / "baseline-0000 had no memory").exists()


def test_pages_that_processes_share_are_no_workers_own(tmp_path: Path) -> None:
    """Decoded images are mapped: all workers have the same pages, which the system may drop."""
    file = tmp_path / "images"
    file.write_bytes(bytes(300_000_000))
    before = max(shortages._worker_sizes())
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as images:
        assert sum(images[::4096]) == 0
        assert max(shortages._worker_sizes()) < before + 100_000_000
    own = bytearray(b"1") * 300_000_000
    assert max(shortages._worker_sizes()) > before + 200_000_000, len(own)
