"""What breaks around a search: workers, disks, folders, checkpoints. Nothing that was done is lost."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.journals import make_event
from helpers.local_worker import Worker
from helpers.serial_search import (
    assert_same,
    crash,
    go_on,
    held,
    journal_of,
    never_interrupted,
    new_search,
    run,
    started,
)
from tune_swa.config import Experiment
from tune_swa.errors import RequestError
from tune_swa.execution import trainable, trial_checkpoints
from tune_swa.experiment.journal import read_events
from tune_swa.experiment.state import ExperimentState
from tune_swa.search.coordinator import Coordinator
from tune_swa.storage import FolderStore

TRIALS = 4


@contextmanager
def mounted(path: Path, *options: str) -> Iterator[None]:
    """Mount something on `path`; skips where this process may not."""
    path.mkdir(parents=True, exist_ok=True)
    if subprocess.run(["mount", *options, str(path)], capture_output=True).returncode:
        pytest.skip("may not mount file systems here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


# ------------------------------------------------------------------------------- whole searches


def workers_of(session: int) -> list[int]:
    """Processes of a session that run a trial."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            pid = int(folder.name)
            title = (folder / "cmdline").read_text()
            if os.getsid(pid) == session and title.startswith("ray::ImplicitFunc"):
                found.append(pid)
        except OSError:
            continue
    return found


def test_a_killed_worker_is_replaced(tmp_path: Path, short: Path) -> None:
    results = new_search(tmp_path)
    with held(results, TRIALS, epochs=6) as search:
        [worker] = workers_of(search.pid)
        os.kill(worker, signal.SIGKILL)
        search.send_signal(signal.SIGCONT)
        out, err = search.communicate(timeout=200)
    assert search.returncode == 0, out + err
    assert err == ""
    assert "its worker died; another one goes on after" in out
    assert_same(results, short)
    attempts = [t.attempts for t in ExperimentState.read(journal_of(results)).trials.values()]
    assert sorted(attempts) == [1] * 5 + [2]


def test_damaged_checkpoints_cost_their_epochs_only(tmp_path: Path, short: Path) -> None:
    """The newest is truncated, then all are: the trial goes on from the one before, then anew."""
    results = new_search(tmp_path)
    # killed with three epochs of the first trial recorded, and again when it goes on
    for damage, moment in ((1, "line-after:7"), (2, "line-after:2")):
        crash(moment, results, TRIALS)
        files = sorted(results.glob("crash/checkpoints/*/*.pt"), key=lambda p: p.stat().st_mtime)
        for path in files[-damage:]:
            path.write_bytes(path.read_bytes()[:1000])
    out = go_on(results, TRIALS)
    assert ".pt: cannot be read" in out
    assert_same(results, short)
    log = (results / "crash" / "search.log").read_text()
    assert log.count(".pt: cannot be read") >= 2


def test_a_disk_that_fills(tmp_path: Path, decoded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the network's channels: of all that is written, the checkpoints are what does not fit."""
    monkeypatch.setenv("NARROW_BY", "2")
    (tmp_path / "straight").mkdir()
    straight = never_interrupted(tmp_path / "straight", 1)
    results = new_search(tmp_path)
    with mounted(results, "-t", "tmpfs", "-o", "size=100m", "tmpfs"):  # room for two checkpoints
        stopped = run(results, 1)
        assert stopped.returncode == 1
        assert stopped.stderr.startswith("error: the search stopped: a checkpoint cannot be written to")
        assert "No space left on device" in stopped.stderr
        assert stopped.stderr.endswith("put that right, then continue with --resume\n")
        state = ExperimentState.read(journal_of(results))
        assert all(t.status in ("completed", "pruned", "interrupted") for t in state.trials.values())
        subprocess.run(["mount", "-o", "remount,size=500m", str(results)], check=True)
        go_on(results, 1)
        assert_same(results, straight)


@pytest.mark.parametrize("which", ["checkpoints", pytest.param(".", marks=pytest.mark.slow)])
def test_a_folder_that_turns_read_only(which: str, tmp_path: Path, short: Path) -> None:
    """The checkpoints alone, or the experiment's folder with its log and result files."""
    results = new_search(tmp_path)
    with held(results, TRIALS, epochs=3) as search:
        folder = results / "crash" / which
        with mounted(folder, "--bind", str(folder)):
            subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
            search.send_signal(signal.SIGCONT)
            _, err = search.communicate(timeout=60)
            assert search.returncode == 1
            assert err.startswith("error: the search stopped: a checkpoint cannot be written to")
            assert "Read-only file system" in err
    go_on(results, TRIALS)
    assert_same(results, short)


def test_a_results_folder_that_cannot_be_written(tmp_path: Path) -> None:
    results = new_search(tmp_path)
    with mounted(results, "-t", "tmpfs", "-o", "ro", "tmpfs"):
        refused = run(results, TRIALS)
    assert refused.returncode == 2
    assert refused.stderr == (
        f"error: {results}/crash: cannot be written to (Read-only file system). Choose another place with "
        "--results-dir\n"
    )


def listening(session: int) -> set[str]:
    """Addresses that the processes of a session listen at, as the kernel writes them."""
    sockets = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(folder.name)) == session:
                sockets |= {str(link.readlink()) for link in (folder / "fd").iterdir()}
        except OSError:
            continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                found.add(fields[1].partition(":")[0])
    return found


LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


def test_nobody_else_gets_at_a_search_that_runs(tmp_path: Path, decoded: None) -> None:
    """Ray listens on the loopback interface alone, and a second process is refused."""
    results = new_search(tmp_path)
    with started(results, 6, epochs=1) as first:
        addresses = listening(first.pid)
        assert addresses
        assert addresses <= LOOPBACK
        second = run(results, 6)
        assert second.returncode == 2
        assert "another search is writing to it (process" in second.stderr
        first.kill()  # the supervisor: the search has to die with it
        first.wait()
        go_on(results, 6)


def test_a_journal_on_a_full_disk_is_intact(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    space = {"lr": 1e-3, "swa_start": 3, "swa_lr": 1e-3}
    experiment = Experiment.model_validate({"name": "full", "space": space})
    with mounted(disk, "-t", "tmpfs", "-o", "size=64k", "tmpfs"):
        coordinator = Coordinator(experiment, disk, ExperimentState())
        for number in range(10_000):
            coordinator.record_event(make_event("made up", number=number, text="x" * 300))
            if coordinator.write_error is not None:
                break
        assert coordinator.is_stopping
        assert "No space left" in str(coordinator.write_error) or "bytes were written" in str(
            coordinator.write_error
        )
        events = list(read_events(disk / "journal.jsonl"))  # a torn last line at most
        assert [event["number"] for event in events] == list(range(len(events)))
        coordinator.record_event(make_event("made up", number=-1, text=""))  # nothing more is written
        coordinator.close()
        assert '"number":-1' not in (disk / "journal.jsonl").read_text()


# -------------------------------------------------------------------------- inside one worker


def test_a_trial_reports_its_epochs(worker: Worker) -> None:
    worker.train()
    assert [m["event"] for m in worker.messages] == ["started", "epoch", "epoch", "epoch"]
    assert [m["checkpoint"] for m in worker.messages[1:]] == [
        f"checkpoints/swa-0000/epoch-0000{i}.pt" for i in range(3)
    ]


def test_a_loss_that_is_not_finite_fails_the_trial(worker: Worker) -> None:
    worker.settings = worker.settings.model_copy(update={"lr": 1e30})
    last = worker.train()
    assert last["event"] == "failed"
    assert last["error"] == "the training loss is nan in epoch 0"
    assert last["trunk_epoch"] == 0


def test_a_published_state_that_is_gone_is_told(worker: Worker) -> None:
    """The trial trains those epochs itself, and the log says why it took longer."""
    worker.train(published=[0], recorded_epochs=1)
    started = worker.messages[0]
    assert started["from_epoch"] == 0
    assert started["damaged"] == ["trunks/t/epoch-00000.pt: is not there, though it was published"]


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def test_gpu_memory_that_is_exhausted_fails_the_trial_with_advice(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")
    monkeypatch.setattr(trainable.Run, "begin_epoch", raising(error))
    last = worker.train(gpus=0.25)
    assert last["event"] == "failed"
    assert last["exhausted"] == 0.25
    assert last["error"] == (
        "GPU memory is exhausted, with 0.25 of a GPU and streamed images (OutOfMemoryError: CUDA out of "
        "memory. Tried to allocate 2 GiB.). Use fewer trials per GPU (a larger --gpus-per-trial; --resume "
        "then runs this trial again), a smaller train.batch_size or a smaller data.image_size"
    )


def test_any_other_error_fails_the_trial_with_its_reason(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainable.Run, "begin_epoch", raising(ValueError("odd")))
    assert worker.train() == {"event": "failed", "error": "ValueError: odd"}


def test_a_disk_that_refuses_stops_the_search_not_the_trial(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(FolderStore, "write", raising(OSError(28, "No space left on device")))
    last = worker.train()
    assert last["event"] == "halted"
    assert last["error"] == (
        f"a checkpoint cannot be written to {tmp_path}/checkpoints/swa-0000: No space left on device"
    )


def test_checkpoints_that_cannot_be_read_now_stop_the_search(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    worker.train()
    kept = sorted(tmp_path.rglob("*.pt"))
    monkeypatch.setattr(
        trial_checkpoints.checkpoints, "load_checkpoint", raising(OSError(5, "Input/output error"))
    )
    last = worker.train(recorded_epochs=3)
    assert last["event"] == "halted"
    assert last["error"] == (
        f"{tmp_path}: checkpoints of swa-0000 cannot be read now ([Errno 5] Input/output error). If one of "
        "them never can be again, remove it: the trial then goes on from the one before"
    )
    assert sorted(tmp_path.rglob("*.pt")) == kept


def test_images_that_a_computer_does_not_have_stop_the_search(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainable, "prepare_dataset", raising(RequestError("/data: no such folder")))
    last = worker.train()
    assert last["event"] == "halted"
    assert last["error"].endswith(": /data: no such folder")


def test_other_images_stop_the_search(worker: Worker) -> None:
    worker.context = replace(worker.context, fingerprint="of others")
    last = worker.train()
    assert last["event"] == "halted"
    assert "differ from those that the search began with" in last["error"]


def test_another_torch_stops_the_search(worker: Worker) -> None:
    """A computer that joined the cluster when the others had been asked already."""
    worker.context = replace(worker.context, torch="0.1")
    last = worker.train()
    assert last["event"] == "halted"
    assert f" is {torch.__version__}, and 0.1 where the search began. Install the same" in last["error"]


def test_a_worker_publishes_its_trunk_and_another_goes_on_from_it(worker: Worker, tmp_path: Path) -> None:
    """Between the two lies what the driver does: it gives the records, and names the states."""
    worker.settings = worker.settings.model_copy(update={"swa_start": None, "swa_lr": None})
    worker.train(trial="baseline-0000", publish=[1, 2])
    epochs = [m for m in worker.messages if m["event"] == "epoch"]
    assert [m["published"] and m["published"]["epoch"] for m in epochs] == [None, 1, 2]
    # a state does for a checkpoint, except of the last epoch: the model may be wanted
    assert [m["checkpoint"] is None for m in epochs] == [False, True, False]
    assert sorted(p.name for p in (tmp_path / "trunks" / "t").iterdir()) == [
        "epoch-00001.pt",
        "epoch-00002.pt",
    ]

    worker.settings = worker.settings.model_copy(update={"swa_start": 0, "swa_lr": 1e-3})
    worker.messages.clear()
    worker.train(recorded_epochs=1, publish=[1], published=[1])
    assert worker.messages[0]["from_epoch"] == 1
    epochs = worker.messages[1:]
    assert [m["record"]["epoch"] for m in epochs] == [1, 2]
    assert [m["taken_over"] for m in epochs] == [True, False]
    assert [m["published"] for m in epochs] == [None, None]
    assert [m["record"]["n_averaged"] for m in epochs] == [1, 2]


def test_a_worker_that_only_warms_up_reports_nothing(worker: Worker) -> None:
    worker.warm_up()
    assert worker.messages == []
