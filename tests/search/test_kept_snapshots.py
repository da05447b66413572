"""Weights that a kept checkpoint names are kept with it, and go with the trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.journals import make_event
from tune_swa.config import Experiment
from tune_swa.experiment.events import FORMAT
from tune_swa.experiment.journal import read_events
from tune_swa.experiment.layout import CHECKPOINTS, select_snapshots
from tune_swa.experiment.state import ExperimentState
from tune_swa.search.coordinator import Coordinator
from tune_swa.search.planner import Suggestion
from tune_swa.search.resume import replay_events

EPOCHS = 10


def begin(folder: Path, **changes: Any) -> Coordinator:
    spec = Experiment.model_validate(
        {
            "name": "x",
            "train": {"epochs": EPOCHS},
            "averages": [{"method": "swa"}, {"method": "lawa", "last": 2}, {"method": "swag", "rank": 3}],
            "space": {"lr": 1e-3, "swa_start": {"choice": [1, 2]}, "swa_lr": 1e-3},
            "search": {"sampler": "grid"},
            "scheduler": {"asha": False},
            "confirm": {"top": 1},
            **changes,
        }
    )
    coordinator = Coordinator(spec, folder, ExperimentState())
    facts: dict[str, Any] = {
        "version": "0", "numerics": {}, "hardware": {}, "versions": {},
        "data": {"fingerprint": "f", "class_names": [], "num_classes": 2, "train": 4, "val": 3, "test": 2},
    }  # fmt: skip
    dumped = spec.model_dump(mode="json", by_alias=True)
    coordinator.record_event(
        make_event("created", format=FORMAT, spec=dumped, identity=spec.fixed_settings(), **facts)
    )
    coordinator.record_event(make_event("session", number=1, slots=1, gpus=0, cpus=1, resumed=False))
    return coordinator


def play(coordinator: Coordinator, accuracy: float) -> str:
    """A trial with a checkpoint and the weights of every epoch, to its end; returns its name."""
    suggestion = coordinator.planner.next_suggestion()
    assert isinstance(suggestion, Suggestion)
    coordinator.add_trial(suggestion)
    name = suggestion.trial
    coordinator.record_start(name, device="cpu", node="here", from_epoch=0, damaged=[])
    folder = coordinator.folder / CHECKPOINTS / name
    folder.mkdir(parents=True)
    for epoch in range(EPOCHS):
        for file in (f"epoch-{epoch:05d}.pt", f"snapshot-{epoch:05d}-ab.pt", "snapshot-x.pt"):
            (folder / file).write_bytes(b"weights")
        record = {"epoch": epoch, "accuracy": accuracy, "nll": 1 - accuracy}
        coordinator.record_epoch(name, record, f"{CHECKPOINTS}/{name}/epoch-{epoch:05d}.pt")
    return name


def list_files(folder: Path, name: str) -> list[str]:
    return sorted(path.name for path in (folder / CHECKPOINTS / name).glob("*"))


@pytest.mark.parametrize(("cycle", "first"), [(1, 7), (2, 4)])
def test_of_the_best_trial_the_last_ones_are_kept(cycle: int, first: int, tmp_path: Path) -> None:
    averaging = {"averaging": {"tail": "cyclic", "cycle_epochs": 2}} if cycle > 1 else {}
    coordinator = begin(tmp_path, **averaging)
    baseline, worse, best = (play(coordinator, accuracy) for accuracy in (0.5, 0.6, 0.7))
    assert list_files(tmp_path, baseline) == ["epoch-00009.pt"]  # it looks back at none
    assert list_files(tmp_path, worse) == []
    snapshots = [f"snapshot-{epoch:05d}-ab.pt" for epoch in range(first, EPOCHS)]
    assert list_files(tmp_path, best) == ["epoch-00009.pt", *snapshots]


def test_a_resume_finishes_what_a_kill_cut_off(tmp_path: Path) -> None:
    coordinator = begin(tmp_path)
    names = [play(coordinator, accuracy) for accuracy in (0.5, 0.6, 0.7)]
    expected = [list_files(tmp_path, name) for name in names]
    for name in names:
        folder = tmp_path / CHECKPOINTS / name
        folder.mkdir(exist_ok=True)
        for file in ("snapshot-00003-ab.pt", "snapshot-.pt", ".snapshot-00009-ab.pt.tmp", "epoch-00003.pt"):
            (folder / file).write_bytes(b"left over")
    events = list(read_events(tmp_path / "journal.jsonl"))
    again = Coordinator(coordinator.experiment, tmp_path, ExperimentState.fold(events, tmp_path))
    replay_events(again, events)
    assert [list_files(tmp_path, name) for name in names] == expected


def test_names_that_nobody_writes_are_not_needed() -> None:
    names = ["snapshot-00004-a.pt", "snapshot-00004-b.pt", "snapshot-00002-a.pt", "snapshot-00006-a.pt"]
    odd = [
        "snapshot-",
        "snapshot--1-a.pt",
        "snapshot-x-a.pt",
        "snapshots",
        "epoch-00004.pt",
        "snapshot-²-a.pt",
    ]
    assert select_snapshots([*names, *odd], ["epoch-00005.pt"], 2) == set(names[:2])
    assert select_snapshots(names, [], 2) == set()
