"""The worker's part: which checkpoint a trial goes on from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helpers.resumed_runs import NUMERICS, facts
from tune_swa.config import RunSettings, TrainSpec
from tune_swa.data.dataset import Dataset
from tune_swa.execution.trial_checkpoints import CheckpointSchedule, Restored, restore, stored
from tune_swa.storage import FolderStore
from tune_swa.training import checkpoint as checkpoints
from tune_swa.training.run import Run

pytestmark = pytest.mark.usefixtures("narrow_network")
SETTINGS = RunSettings(lr=1e-3, swa_start=1, swa_lr=1e-3, train=TrainSpec(epochs=5, batch_size=16))


@pytest.fixture
def folder(tiny_data: Dataset, tmp_path: Path) -> Path:
    """Checkpoints of epochs 0 to 3."""
    run = Run(SETTINGS, tiny_data, NUMERICS)
    for _ in range(4):
        record = run.run_epoch()
        path = tmp_path / "trial" / f"epoch-{record.epoch:05d}.pt"
        path.parent.mkdir(exist_ok=True)
        checkpoints.save_checkpoint(run.state_dict(), path)
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


def test_those_that_are_gone_are_told(folder: Path, tiny_data: Dataset) -> None:
    recorded = [f"trial/epoch-0000{i}.pt" for i in range(4)]

    def told() -> tuple[str | None, list[str]]:
        found = restore(Run(SETTINGS, tiny_data, NUMERICS), store(folder), "trial", 4, recorded=recorded)
        return found.checkpoint, found.damaged

    (folder / "epoch-00001.pt").unlink()  # an older one than the one it goes on from
    assert told() == (recorded[3], [])
    (folder / "epoch-00003.pt").unlink()
    assert told() == (recorded[2], [f"epoch-00003.pt is not in {folder} any more"])
    (folder / "epoch-00002.pt").unlink()
    assert told() == (recorded[0], [
        f"epoch-00001.pt and epoch-00003.pt and 1 between them are not in {folder} any more"
    ])  # fmt: skip
    (folder / "epoch-00000.pt").write_bytes(b"torn")
    assert told()[1][0].startswith("epoch-00000.pt: cannot be read")


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), MemoryError()], ids=repr)
@pytest.mark.parametrize("how", ["local", "load"])
def test_one_that_cannot_be_read_now_stays(
    how: str, error: Exception, folder: Path, tiny_data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three epochs would be lost for a network that stutters."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(
        *((FolderStore, "local") if how == "local" else (checkpoints, "load_checkpoint")), fail
    )
    with pytest.raises(type(error)):
        restore(Run(SETTINGS, tiny_data, NUMERICS), store(folder), "trial", 4)
    assert names(folder) == [0, 1, 2, 3]


def test_checkpoints_take_a_fiftieth_of_the_time() -> None:
    now = 0.0
    schedule = CheckpointSchedule("auto", clock=lambda: now)
    saved = []
    for epoch in range(1, 41):
        now += 3.0  # an epoch
        if schedule.is_due(epoch):
            with schedule.time_saving():
                now += 0.5
            saved.append(epoch)
    assert saved == [4, 13, 22, 31, 40]  # 0.2 s in 10 s at first; then 0.5 s in 25 s or a little more


def test_checkpoints_every_third_epoch() -> None:
    schedule = CheckpointSchedule(3)
    assert [epoch for epoch in range(1, 8) if schedule.is_due(epoch)] == [3, 6]


# ---------------------------------------------------------------------------- what a trunk gives


def published(tiny_data: Dataset, tmp_path: Path, swa_start: int, epochs: list[int]) -> Run:
    """Train a trunk with other SWA settings, publish some of its states; returns the run at its end."""
    run = Run(SETTINGS.model_copy(update={"swa_start": swa_start, "swa_lr": 0.3}), tiny_data, NUMERICS)
    (tmp_path / "trunk").mkdir()
    while not run.done:
        run.begin_epoch()
        if run.epoch in epochs:
            checkpoints.save_checkpoint(run.trunk_state(), tmp_path / "trunk" / f"epoch-{run.epoch:05d}.pt")
        run.finish_epoch()
    return run


@pytest.mark.parametrize(("epochs", "begins"), [([2], 2), ([1], 2), ([0, 1, 2], 2), ([0], 1), ([], 0)])
def test_a_branch_is_bit_for_bit_what_it_would_have_been(
    epochs: list[int], begins: int, tiny_data: Dataset, tmp_path: Path
) -> None:
    alone = Run(SETTINGS, tiny_data, NUMERICS)
    expected = [facts(record) for record in alone]
    published(tiny_data, tmp_path, 3, [0, 1, 2, 3])
    run = Run(SETTINGS, tiny_data, NUMERICS)
    restored = restore(run, FolderStore(tmp_path), "trial", 2, "trunk", epochs)
    assert run.epoch == begins
    assert restored.checkpoint == (f"trunk/epoch-{max(epochs):05d}.pt" if epochs else None)
    assert (run.live_record is not None) == (2 in epochs)  # trained already, to be averaged
    assert [facts(record) for record in run] == expected[begins:]
    for name, tensor in alone.shipped_model.state_dict().items():
        assert torch.equal(run.shipped_model.state_dict()[name], tensor), name


def test_a_state_beyond_the_fork_is_refused(tiny_data: Dataset, tmp_path: Path) -> None:
    published(tiny_data, tmp_path, 3, [3])
    state = checkpoints.load_checkpoint(tmp_path / "trunk" / "epoch-00003.pt")
    with pytest.raises(ValueError, match="epoch 3 of a trunk that was left at 2"):
        Run(SETTINGS, tiny_data, NUMERICS).load_state_dict(state)


def test_a_damaged_trunk_costs_only_training_it_again(tiny_data: Dataset, tmp_path: Path) -> None:
    published(tiny_data, tmp_path, 3, [0, 2])
    (tmp_path / "trunk" / "epoch-00002.pt").write_bytes(b"torn")
    run = Run(SETTINGS, tiny_data, NUMERICS)
    restored = restore(run, FolderStore(tmp_path), "trial", 2, "trunk", [0, 2])
    assert restored.checkpoint == "trunk/epoch-00000.pt"
    assert len(restored.damaged) == 1
    assert run.epoch == 1


def test_of_two_states_after_the_same_epoch_the_trials_own_has_its_average(
    tiny_data: Dataset, tmp_path: Path
) -> None:
    published(tiny_data, tmp_path, 3, [2])
    own = Run(SETTINGS, tiny_data, NUMERICS)
    for _ in range(3):
        own.run_epoch()
    (tmp_path / "trial").mkdir()
    checkpoints.save_checkpoint(own.state_dict(), tmp_path / "trial" / "epoch-00002.pt")
    run = Run(SETTINGS, tiny_data, NUMERICS)
    assert restore(run, FolderStore(tmp_path), "trial", 3, "trunk", [2]).checkpoint == "trial/epoch-00002.pt"
    assert run.averaging is not None
    assert run.averaging.n_averaged == 1
