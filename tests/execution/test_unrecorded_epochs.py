"""A worker dies between saving an epoch and its record: what the epoch brought is recorded afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.journals import make_event
from helpers.local_worker import Worker
from tune_swa.config import Experiment, TrainSpec
from tune_swa.execution import trial_reports
from tune_swa.experiment.state import ExperimentState
from tune_swa.search.coordinator import Coordinator
from tune_swa.storage import FolderStore

FORK = 2
"""Of the worker's trial."""


@pytest.fixture(autouse=True)
def _longer(worker: Worker) -> None:
    worker.settings = worker.settings.model_copy(update={"train": TrainSpec(epochs=4, batch_size=16)})


def die_before_report(worker: Worker, monkeypatch: pytest.MonkeyPatch, epoch: int, **config: Any) -> None:
    """Train the trial until an epoch is saved, and not reported."""
    report = trial_reports.tune.report

    def die(result: dict[str, Any]) -> None:
        report(result)
        if worker.messages[-1]["event"] == "epoch" and worker.messages[-1]["record"]["epoch"] == epoch:
            raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(trial_reports.tune, "report", die)
        with pytest.raises(SystemExit):
            worker.train(**config)
    del worker.messages[-1]


def find_epoch(worker: Worker, epoch: int) -> dict[str, Any]:
    """What was reported of an epoch, but for the times."""
    (found,) = (m for m in worker.messages if m["event"] == "epoch" and m["record"]["epoch"] == epoch)
    kept = dict(found)
    for key in ("record", "published"):
        if kept[key] is not None:
            kept[key] = {name: value for name, value in kept[key].items() if "second" not in name}
    return kept


@pytest.mark.parametrize(("epoch", "baseline"), [(0, False), (FORK, False), (1, True)])
def test_a_published_state_is_not_forgotten(
    epoch: int, baseline: bool, worker: Worker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where the state does for a checkpoint, at the fork, and beside a checkpoint with averages."""
    if baseline:
        fields = {**worker.settings.model_dump(), "swa_start": None, "swa_lr": None}
        fields["averages"] = [{"method": "ema", "horizon": 1}]
        worker.settings = type(worker.settings).model_validate(fields)
    worker.train(publish=[epoch])
    straight = find_epoch(worker, epoch)
    assert straight["published"] is not None
    for file in tmp_path.rglob("epoch-*.pt"):
        file.unlink()
    worker.messages.clear()
    die_before_report(worker, monkeypatch, epoch, publish=[epoch])
    saved = [m["checkpoint"] for m in worker.messages if m["event"] == "epoch"]
    state = tmp_path / "trunks" / "t" / f"epoch-{epoch:05d}.pt"
    written = state.stat().st_mtime_ns
    worker.train(recorded_epochs=epoch, checkpoints=[s for s in saved if s][-2:], publish=[epoch])
    assert find_epoch(worker, epoch) == straight
    started = [m["from_epoch"] for m in worker.messages if m["event"] == "started"]
    assert started == [0, epoch + 1]  # it was not trained again
    assert state.stat().st_mtime_ns == written


def test_a_state_that_is_gone_is_not_reported(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    die_before_report(worker, monkeypatch, FORK, publish=[FORK])
    (tmp_path / "trunks" / "t" / f"epoch-{FORK:05d}.pt").write_bytes(b"torn")
    worker.train(recorded_epochs=FORK, publish=[FORK])
    assert find_epoch(worker, FORK)["published"] is None


def test_who_trained_the_fork_is_not_forgotten(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    worker.train(trial="swa-0001", publish=[FORK])
    worker.messages.clear()
    config: dict[str, Any] = {"recorded_epochs": FORK, "publish": [FORK], "published": [FORK]}
    worker.train(**config)
    straight = find_epoch(worker, FORK)
    assert straight["taken_over"]
    assert straight["published"] is None
    for file in tmp_path.glob("checkpoints/swa-0000/*"):
        file.unlink()
    worker.messages.clear()
    die_before_report(worker, monkeypatch, FORK, **config)
    worker.train(**config)
    assert find_epoch(worker, FORK) == straight


def begin_search(folder: Path) -> Coordinator:
    spec = Experiment.model_validate(
        {
            "name": "x",
            "train": {"epochs": 6},
            "space": {"lr": 1e-3, "swa_start": {"choice": [1, 2]}, "swa_lr": 1e-3},
            "search": {"sampler": "grid"},
            "scheduler": {"asha": False},
        }
    )
    coordinator = Coordinator(spec, folder, ExperimentState())
    coordinator.record_event(make_event("session", number=1, slots=1, gpus=0, cpus=1, resumed=False))
    return coordinator


def test_a_state_ahead_of_the_journal_stays_for_its_trial(tmp_path: Path) -> None:
    coordinator = begin_search(tmp_path)
    name = coordinator.next_trial([], 1)
    assert isinstance(name, str)
    for epoch in range(2):
        coordinator.record_epoch(name, {"epoch": epoch, "accuracy": 0.5, "nll": 0.5}, None)
    store, trunk = FolderStore(tmp_path), f"trunks/{coordinator.state.trials[name].trunk}"
    for epoch in (0, 2, 3):
        store.write(f"{trunk}/epoch-{epoch:05d}.pt", lambda path: path.write_bytes(b"state"))
    coordinator.retention.remove_leftovers()
    assert store.names(trunk) == ["epoch-00002.pt"]
    coordinator.fail_trial(name, "it failed")
    coordinator.retention.remove_stray_states()
    assert not (tmp_path / "trunks").exists()


def test_a_trial_that_took_over_a_trunk_which_diverges_fails_at_once(tmp_path: Path) -> None:
    """Also if the kill came between the record of what it took over and that of its end."""
    coordinator = begin_search(tmp_path)
    first = coordinator.next_trial([], 1)
    assert isinstance(first, str)
    coordinator.record_start(first, device="cpu", node="here", from_epoch=0, damaged=[])
    record = {"epoch": 0, "phase": "trunk", "accuracy": 0.5, "nll": 0.5}
    coordinator.record_epoch(first, record, None, published=record)
    coordinator.fail_trial(first, "the training loss is nan in epoch 1", trunk_epoch=1)
    second = coordinator.planner.next_suggestion()
    assert second is not None
    coordinator.add_trial(second)  # type: ignore[arg-type]
    trial = coordinator.state.trials[second.trial]  # type: ignore[union-attr]
    coordinator.record_event(make_event("shared", trial=trial.name, epochs=1, rungs={}))
    assert not coordinator.take_over_trunk(trial.name)
    assert trial.status == "failed"
    assert f"found by {first}" in (trial.error or "")
    kinds = [line.split('"event":"')[1].split('"')[0] for line in (tmp_path / "journal.jsonl").open()]
    assert kinds.count("shared") == 1
