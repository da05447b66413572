"""A worker process over several trials: one thread, warmed up, without a trace of the trials before."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.local_worker import Worker
from tune_swa.execution import trial_reports
from tune_swa.execution.training_thread import TrainingThread, run_in_training_thread
from tune_swa.training.run import Run


def facts(worker: Worker) -> list[dict[str, Any]]:
    """What the trial reported that does not tell the time."""
    records = [message["record"] for message in worker.messages if message["event"] == "epoch"]
    return [{k: v for k, v in record.items() if "second" not in k} for record in records]


def test_all_trials_of_a_process_are_trained_in_one_thread(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray gives each trial a new thread, and cuDNN's plans are a thread's own."""
    used = []
    train = Run.train_epoch
    monkeypatch.setattr(Run, "train_epoch", lambda run: used.append(threading.get_ident()) or train(run))
    worker.warm_up()
    for name in ("swa-0000", "swa-0001"):
        ray_thread = threading.Thread(target=worker.train, kwargs={"trial": name})
        ray_thread.start()
        ray_thread.join()
    assert len(used) == 6
    assert len(set(used)) == 1
    assert threading.get_ident() not in used
    assert run_in_training_thread(threading.get_ident) == used[0]


def test_the_deviation_of_nll_is_all_that_asking_for_it_adds(worker: Worker) -> None:
    """Also of the last epoch, where it was saved but not reported before a kill."""
    worker.train()
    plain = facts(worker)
    assert all("nll_sd" not in record for record in plain)
    worker.messages.clear()
    worker.train(trial="swa-0001", nll_sd=True)
    spread = facts(worker)
    assert all(record["nll_sd"] > 0 for record in spread)
    assert [{k: v for k, v in record.items() if k != "nll_sd"} for record in spread] == plain
    saved = [message["checkpoint"] for message in worker.messages if message["event"] == "epoch"]
    worker.messages.clear()
    worker.train(trial="swa-0001", nll_sd=True, recorded_epochs=2, checkpoints=saved[:2])
    assert facts(worker) == spread[2:]


@pytest.mark.parametrize(
    "error", [SystemExit(0), SystemExit(3), KeyboardInterrupt(), ValueError("x")], ids=repr
)
def test_what_ends_a_trial_reaches_rays_thread_unchanged(error: BaseException) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        run_in_training_thread(fail)
    assert caught.value is error
    assert run_in_training_thread(lambda: "the thread goes on") == "the thread goes on"


def test_a_trial_that_ray_stops_leaves_nothing_behind(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray raises SystemExit out of the report; neither that nor the thread may keep the network."""
    runs: list[weakref.ref[Run]] = []
    build = Run.__init__

    def build_watched(run: Run, *given: Any, **named: Any) -> None:
        build(run, *given, **named)
        runs.append(weakref.ref(run))

    def stop_second_epoch(result: dict[str, Any]) -> None:
        if '"epoch": 1' in result["payload"]:
            raise SystemExit(0)

    monkeypatch.setattr(Run, "__init__", build_watched)
    monkeypatch.setattr(trial_reports.tune, "report", stop_second_epoch)
    with pytest.raises(SystemExit):
        worker.train()
    gc.collect()
    assert [run() for run in runs] == [None]


def test_the_thread_keeps_neither_functions_nor_results() -> None:
    class Kept:
        pass

    thread = TrainingThread()
    first = Kept()
    dead = weakref.ref(first)
    result = thread.run(lambda kept=first: kept)
    assert result is first
    del first, result
    assert dead() is None


def test_warming_up_changes_no_result_and_no_random_state(worker: Worker) -> None:
    worker.train()
    straight = facts(worker)
    worker.messages.clear()
    before = torch.random.get_rng_state()
    worker.warm_up()
    assert torch.equal(torch.random.get_rng_state(), before)
    worker.train()
    assert facts(worker) == straight
    assert len(straight) == 3


def test_a_search_on_the_cpu_never_asks_for_a_gpu(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a broken driver can still search on its CPU."""

    def refuse(*_: object) -> None:
        raise AssertionError("CUDA was touched")

    monkeypatch.setattr(torch.cuda, "_lazy_init", refuse)
    for name in ("_cuda_emptyCache", "_cuda_init", "_cuda_setMemoryFraction", "_cuda_synchronize"):
        monkeypatch.setattr(torch._C, name, refuse, raising=False)
    worker.warm_up()
    assert worker.train()["event"] == "epoch"


class StaleStore:
    """A store whose listings are as old as the store: what was written since is only found by its name."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def names(self, folder: str) -> list[str]:
        return []


def test_states_are_found_by_name_where_listings_are_old(worker: Worker, tmp_path: Path) -> None:
    """A branch that looked for its trunk's state in a listing trained the trunk again."""
    from dataclasses import replace

    worker.settings = worker.settings.model_copy(update={"swa_start": None, "swa_lr": None})
    worker.train(trial="baseline-0000", publish=[1])
    worker.settings = worker.settings.model_copy(update={"swa_start": 0, "swa_lr": 1e-3})
    worker.train(publish=[1], published=[1], recorded_epochs=1)
    straight = facts(worker)[-2:]

    worker.context = replace(worker.context, store=StaleStore(worker.context.store))
    worker.messages.clear()
    worker.train(trial="swa-0001", published=[1], recorded_epochs=1)
    assert worker.messages[0] | {"node": ""} == {
        "event": "started", "device": "cpu x1", "node": "", "from_epoch": 1, "damaged": [],
    }  # fmt: skip
    assert facts(worker) == straight
    # its own checkpoints, too
    recorded = [m["checkpoint"] for m in worker.messages if m["event"] == "epoch"]
    worker.messages.clear()
    worker.train(trial="swa-0001", checkpoints=recorded[:1], published=[1], recorded_epochs=2)
    assert worker.messages[0]["from_epoch"] == 2
    assert facts(worker)[-1:] == straight[-1:]
