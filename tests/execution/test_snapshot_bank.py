"""Weights that averages look back at are kept once beside a trial's checkpoints, which name them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.resumed_runs import NUMERICS
from tune_swa.config import AveragingSpec, RunSettings, TrainSpec
from tune_swa.data.dataset import Dataset
from tune_swa.execution.trial_checkpoints import restore, save_checkpoint
from tune_swa.storage import FolderStore
from tune_swa.training import checkpoint as checkpoints
from tune_swa.training.run import Run

pytestmark = pytest.mark.usefixtures("narrow_network")
AVERAGES = [
    {"method": "swa"},
    {"method": "lawa", "last": 2},
    {"method": "swag", "rank": 3, "search_samples": 2},
]
SETTINGS = RunSettings.model_validate(
    {
        "lr": 1e-3,
        "swa_start": 0,
        "swa_lr": 1e-3,
        "train": TrainSpec(epochs=7, batch_size=16),
        "averaging": AveragingSpec(score="every"),
        "averages": AVERAGES,
    }
)


def train_epochs(
    data: Dataset, folder: Path, epochs: int, *, keep_all: bool = False, settings: RunSettings = SETTINGS
) -> Run:
    """A run with a checkpoint after every epoch."""
    folder.mkdir(exist_ok=True)
    run = Run(settings, data, NUMERICS)
    for _ in range(epochs):
        run.run_epoch()
        save_checkpoint(run, FolderStore(folder), "trial", keep_all=keep_all)
    return run


def list_epochs(folder: Path, kind: str) -> list[int]:
    return sorted(int(path.name.split("-")[1].removesuffix(".pt")) for path in folder.glob(f"trial/{kind}-*"))


def find_snapshot(folder: Path, epoch: int) -> Path:
    (path,) = folder.glob(f"trial/snapshot-{epoch:05d}-*.pt")
    return path


def describe_scores(run: Run) -> dict[str, tuple[Any, ...]]:
    return {label: (s.members, s.accuracy, s.nll, s.ece) for label, s in run.scores.items()}


def test_only_those_that_kept_checkpoints_name(tiny_data: Dataset, tmp_path: Path) -> None:
    train_epochs(tiny_data, tmp_path, 6)
    assert list_epochs(tmp_path, "epoch") == [4, 5]
    assert list_epochs(tmp_path, "snapshot") == [2, 3, 4, 5]  # three for each, of which two are the same
    train_epochs(tiny_data, tmp_path / "all", 6, keep_all=True)
    assert list_epochs(tmp_path / "all", "snapshot") == [1, 2, 3, 4, 5]


def test_a_checkpoint_names_them_by_their_hash(tiny_data: Dataset, tmp_path: Path) -> None:
    run = train_epochs(tiny_data, tmp_path, 6)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("trial/snapshot-*")}
    save_checkpoint(run, FolderStore(tmp_path), "trial", keep_all=False)
    assert {path: path.stat().st_mtime_ns for path in written} == written  # once
    state = checkpoints.load_checkpoint(tmp_path / "trial" / "epoch-00005.pt")
    named = state["averages"]["snapshots"]
    assert [find_snapshot(tmp_path, s["epoch"]).name for s in named] == [
        f"snapshot-{s['epoch']:05d}-{s['digest']}.pt" for s in named
    ]
    assert all(set(snapshot) == {"epoch", "digest"} for snapshot in named)
    assert state["averages"]["observers"]["lawa-2"] == {"count": 2}
    # of SWAG the mean before its last models, and the squares: two models' worth of weights
    weights = sum(tensor.numel() for tensor in run.model.parameters())
    swag = state["averages"]["observers"]["swag-3"]
    assert sum(tensor.numel() for key in ("base", "squares") for tensor in swag[key]) == 2 * weights


CYCLIC = SETTINGS.model_copy(
    update={
        "averaging": AveragingSpec(tail="cyclic", cycle_epochs=2, score="every"),
        "train": TrainSpec(epochs=8, batch_size=16),
    }
)


@pytest.mark.parametrize(
    ("settings", "stop"),
    [*((SETTINGS, stop) for stop in range(1, 8)), *((CYCLIC, stop) for stop in range(4, 9))],
    ids=[*(f"constant-{stop}" for stop in range(1, 8)), *(f"cyclic-{stop}" for stop in range(4, 9))],
)
def test_a_restored_trial_gives_the_same_bits(
    settings: RunSettings, stop: int, tiny_data: Dataset, tmp_path: Path
) -> None:
    straight = train_epochs(tiny_data, tmp_path / "straight", settings.train.epochs, settings=settings)
    train_epochs(tiny_data, tmp_path, stop, settings=settings)
    run = Run(settings, tiny_data, NUMERICS)
    assert restore(run, FolderStore(tmp_path), "trial", stop).damaged == []
    assert run.epoch == stop
    for _ in run:
        pass
    assert describe_scores(run) == describe_scores(straight)
    said, expected = run.predict_with_averages(), straight.predict_with_averages()
    assert all(torch.equal(said[label].nll, expected[label].nll) for label in expected)


@pytest.mark.parametrize("how", ["torn", "missing", "other"])
def test_a_damaged_one_makes_its_checkpoint_unusable(how: str, tiny_data: Dataset, tmp_path: Path) -> None:
    straight = train_epochs(tiny_data, tmp_path / "straight", 7)
    train_epochs(tiny_data, tmp_path, 5)
    path = find_snapshot(tmp_path, 4)  # the older checkpoint does not name it
    if how == "torn":
        path.write_bytes(path.read_bytes()[:-100])
    elif how == "missing":
        path.unlink()
    else:
        path.write_bytes(find_snapshot(tmp_path, 3).read_bytes())
    run = Run(SETTINGS, tiny_data, NUMERICS)
    restored = restore(run, FolderStore(tmp_path), "trial", 5, recorded=["trial/epoch-00004.pt"])
    assert restored.checkpoint == "trial/epoch-00003.pt"
    (why,) = restored.damaged
    begins = f"epoch-00004.pt: names a snapshot that cannot be used ({path.name}"
    assert why.startswith(begins), why
    reason = {"torn": "cannot be read", "missing": "is missing", "other": "holds other weights"}[how]
    assert reason in why
    assert not path.exists()  # so that it is written again
    for _ in run:
        save_checkpoint(run, FolderStore(tmp_path), "trial", keep_all=False)
    assert describe_scores(run) == describe_scores(straight)
    assert restore(Run(SETTINGS, tiny_data, NUMERICS), FolderStore(tmp_path), "trial", 7).damaged == []


def test_a_checkpoint_that_names_another_file(tiny_data: Dataset, tmp_path: Path) -> None:
    """Of a folder that somebody else has written: it is neither read nor removed."""
    train_epochs(tiny_data, tmp_path, 5)
    path = tmp_path / "trial" / "epoch-00004.pt"
    state = checkpoints.load_checkpoint(path)
    state["averages"]["snapshots"][0]["digest"] = "/../../../other"
    (tmp_path / "other.pt").touch()
    checkpoints.save_checkpoint(state, path)
    restored = restore(Run(SETTINGS, tiny_data, NUMERICS), FolderStore(tmp_path), "trial", 5)
    assert restored.checkpoint == "trial/epoch-00003.pt"
    assert restored.damaged == ["epoch-00004.pt: names something else than a snapshot"]
    assert (tmp_path / "other.pt").exists()


def test_one_that_every_checkpoint_names(tiny_data: Dataset, tmp_path: Path) -> None:
    train_epochs(tiny_data, tmp_path, 5)
    find_snapshot(tmp_path, 3).write_bytes(b"")
    run = Run(SETTINGS, tiny_data, NUMERICS)
    restored = restore(run, FolderStore(tmp_path), "trial", 5)
    assert (restored.checkpoint, run.epoch, len(restored.damaged)) == (None, 0, 2)
    assert describe_scores(train_epochs(tiny_data, tmp_path, 7)) == describe_scores(
        train_epochs(tiny_data, tmp_path / "straight", 7)
    )


def test_one_that_cannot_be_read_now_stays(
    tiny_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_epochs(tiny_data, tmp_path, 5)
    read = FolderStore.local

    def fail(store: FolderStore, name: str) -> Any:
        if "snapshot" in name:
            raise OSError(5, "Input/output error")
        return read(store, name)

    monkeypatch.setattr(FolderStore, "local", fail)
    with pytest.raises(OSError, match="Input/output"):
        restore(Run(SETTINGS, tiny_data, NUMERICS), FolderStore(tmp_path), "trial", 5)
    assert list_epochs(tmp_path, "snapshot") == [1, 2, 3, 4]


def test_leftovers_of_a_kill_go_with_the_next_checkpoint(tiny_data: Dataset, tmp_path: Path) -> None:
    """Snapshots of a checkpoint that was never written, and names that nobody writes."""
    train_epochs(tiny_data, tmp_path, 4)
    run = Run(SETTINGS, tiny_data, NUMERICS)
    restore(run, FolderStore(tmp_path), "trial", 4)
    run.run_epoch()
    for name in ("snapshot-00006-00.pt", "snapshot-.pt", "snapshot-x-y.pt", "snapshot-²-y.pt"):
        (tmp_path / "trial" / name).write_bytes(b"")
    save_checkpoint(run, FolderStore(tmp_path), "trial", keep_all=False)
    assert list_epochs(tmp_path, "snapshot") == [1, 2, 3, 4]
    assert len(list(tmp_path.glob("trial/snapshot-*"))) == 4


def test_a_run_without_such_averages_writes_none(tiny_data: Dataset, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"averages": ()})
    train_epochs(tiny_data, tmp_path, 3, settings=settings)
    assert list_epochs(tmp_path, "snapshot") == []
