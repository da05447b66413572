"""The worker's part: which checkpoint a trial goes on from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tune_swa.data.dataset import Dataset
from tune_swa.search.trainable import Restored, restore, stored
from tune_swa.spec import RunSettings, TrainSpec
from tune_swa.storage import FolderStore
from tune_swa.training import checkpoint as checkpoints
from tune_swa.training.loop import Run
from tune_swa.training.numerics import Numerics

NUMERICS = Numerics("cpu", "fp32", threads=1, channels_last=True, fused=True, compile=False)
SETTINGS = RunSettings(lr=1e-3, swa_start=1, swa_lr=1e-3, train=TrainSpec(epochs=5, batch_size=16))


@pytest.fixture
def folder(tiny_data: Dataset, tmp_path: Path) -> Path:
    """Checkpoints of epochs 0 to 3."""
    run = Run(SETTINGS, tiny_data, NUMERICS)
    for _ in range(4):
        record = run.run_epoch()
        path = tmp_path / "trial" / f"epoch-{record.epoch:05d}.pt"
        path.parent.mkdir(exist_ok=True)
        checkpoints.save(run.state_dict(), path)
    return tmp_path / "trial"


def store(folder: Path) -> FolderStore:
    return FolderStore(folder.parent)


def names(folder: Path) -> list[int]:
    return [int(Path(name).stem.removeprefix("epoch-")) for name in stored(store(folder), "trial")]


@pytest.mark.parametrize(("recorded", "epoch"), [(4, 4), (3, 4), (2, 3), (0, 1)])
def test_the_newest_that_is_at_most_one_epoch_ahead_of_the_journal(
    recorded: int, epoch: int, folder: Path, tiny_data: Dataset
) -> None:
    run = Run(SETTINGS, tiny_data, NUMERICS)
    restored = restore(run, store(folder), "trial", recorded)
    assert restored == Restored(f"trial/epoch-{epoch - 1:05d}.pt", [])
    assert run.epoch == epoch
    assert names(folder) == list(range(epoch))  # later ones would pass for the newest


def test_damaged_ones_are_passed_over(folder: Path, tiny_data: Dataset) -> None:
    (folder / "epoch-00003.pt").write_bytes(b"torn")
    run = Run(SETTINGS, tiny_data, NUMERICS)
    restored = restore(run, store(folder), "trial", 4)
    assert restored.checkpoint == "trial/epoch-00002.pt"
    [why] = restored.damaged
    assert why.startswith("epoch-00003.pt: cannot be read")
    for path in folder.iterdir():
        path.write_bytes(b"")
    run = Run(SETTINGS, tiny_data, NUMERICS)
    restored = restore(run, store(folder), "trial", 4)
    assert restored.checkpoint is None
    assert len(restored.damaged) == 3
    assert run.epoch == 0
    assert names(folder) == []
