"""The worker's part: which checkpoint a trial goes on from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tune_swa.data.dataset import Dataset
from tune_swa.search.trainable import restore, stored
from tune_swa.spec import RunSettings, TrainSpec
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
        checkpoints.save(run.state_dict(), tmp_path / f"epoch-{record.epoch:05d}.pt")
    return tmp_path


def names(folder: Path) -> list[int]:
    return [int(path.stem.removeprefix("epoch-")) for path in stored(folder)]


@pytest.mark.parametrize(("recorded", "epoch"), [(4, 4), (3, 4), (2, 3), (0, 1)])
def test_the_newest_that_is_at_most_one_epoch_ahead_of_the_journal(
    recorded: int, epoch: int, folder: Path, tiny_data: Dataset
) -> None:
    run = Run(SETTINGS, tiny_data, NUMERICS)
    assert restore(run, folder, recorded) == folder / f"epoch-{epoch - 1:05d}.pt"
    assert run.epoch == epoch
    assert names(folder) == list(range(epoch))  # later ones would pass for the newest


def test_damaged_ones_are_passed_over(folder: Path, tiny_data: Dataset) -> None:
    (folder / "epoch-00003.pt").write_bytes(b"torn")
    run = Run(SETTINGS, tiny_data, NUMERICS)
    assert restore(run, folder, 4) == folder / "epoch-00002.pt"
    for path in stored(folder):
        path.write_bytes(b"")
    run = Run(SETTINGS, tiny_data, NUMERICS)
    assert restore(run, folder, 4) is None
    assert run.epoch == 0
    assert names(folder) == []
