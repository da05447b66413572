"""Ray and its first workers start beside the images: what is refused or interrupted then leaves nothing."""

from __future__ import annotations

import importlib
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from helpers.local_worker import Worker
from helpers.narrow_resnet import narrow_environment
from helpers.programs import ROOT, RUN_SEARCH
from tune_swa.config import DataSpec, Experiment
from tune_swa.data.dataset import Dataset, prepare_dataset
from tune_swa.errors import RequestError
from tune_swa.execution import first_worker, preparation, ray_runtime, ray_setup, trainable
from tune_swa.execution.request import Request
from tune_swa.execution.run import run_search
from tune_swa.execution.slots import Placement
from tune_swa.execution.trial_loop import TrialLoop

SPACE = {"lr": 1e-2, "swa_start": 0, "swa_lr": 1e-2}
TWO_CORES = Placement(gpus=0, cpus=2, slots=1, gpus_per_trial=0.0, cpus_per_trial=1)
INTERRUPT = """
import os, signal, sys, time
from tune_swa.cli import run_search
from tune_swa.errors import Interrupted
from tune_swa.execution import preparation, ray_environment

def interrupt(self):
    while not ray_environment.has_child("gcs_server"):  # Ray's first process
        time.sleep(0.01)
    os.kill(os.getppid(), signal.SIGINT)
    self._stopping.wait()
    raise Interrupted("interrupted")

preparation.Preparation._prepare = interrupt
sys.exit(run_search())
"""
"""A search whose user presses Ctrl-C as Ray starts."""


@pytest.fixture
def ray_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for Ray alone, whose name all of its processes have in their commands."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="e") as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        yield Path(folder)


def find_processes(word: str) -> list[str]:
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has just ended
            continue
        if word in command:
            found.append(command)
    return found


def run_program(program: list[object], folder: Path) -> subprocess.CompletedProcess[str]:
    space = ROOT / "search_spaces" / "digits.yaml"
    given = ["--space", space, "--gpus", "0", "--results-dir", folder, "--set", "data.train_images=1500"]
    words = [str(word) for word in (sys.executable, *program, *given)]
    return subprocess.run(
        words, cwd=ROOT, env=narrow_environment(), capture_output=True, text=True, timeout=300
    )


def test_images_that_are_refused_while_ray_starts(tmp_path: Path, ray_folder: Path) -> None:
    refused = run_program([RUN_SEARCH], tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: data.train_images: 1500 were asked for, but only ")
    assert len(refused.stderr.splitlines()) == 1
    assert find_processes(str(ray_folder)) == []
    assert list(ray_folder.glob("ray/session_*")) == []
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_while_ray_starts(tmp_path: Path, ray_folder: Path) -> None:
    program = tmp_path / "interrupted_search.py"
    program.write_text(INTERRUPT)
    interrupted = run_program([program], tmp_path / "results")
    assert interrupted.returncode == 130, interrupted.stderr
    assert interrupted.stderr.startswith("Interrupted. ")
    assert len(interrupted.stderr.splitlines()) == 2
    assert find_processes(str(ray_folder)) == []
    assert list(ray_folder.glob("ray/session_*")) == []


def test_processes_of_a_start_that_ray_has_forgotten_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an interrupt in a program that runs a search as a part of it, and goes on."""
    services: Any = importlib.import_module("ray._private.services")
    made: list[Any] = []

    def start_process(command: list[str], kind: str, env_updates: dict[str, str] | None = None) -> Any:
        made.append((command, env_updates))
        return SimpleNamespace(process=subprocess.Popen(["sleep", "300"]))

    monkeypatch.setattr(services, "start_ray_process", start_process)
    monkeypatch.setenv("PYTHONPATH", "/added")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with ray_setup.adapt_ray(replace(TWO_CORES, cpus_per_trial=2)):
        raylet = services.start_ray_process(["raylet", "--num_prestart_python_workers=64"], "raylet")
        assert raylet.process.poll() is None
    assert raylet.process.poll() == -signal.SIGKILL
    [(command, variables)] = made
    assert command == ["raylet", "--num_prestart_python_workers=1"]
    assert variables["PYTHONPATH"].split(os.pathsep)[0] == "/added"
    assert variables["OMP_NUM_THREADS"] == "2"


def test_a_process_is_ended_that_was_starting_at_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    services: Any = importlib.import_module("ray._private.services")
    made: list[subprocess.Popen[bytes]] = []

    def start_process(*_: Any, **__: Any) -> Any:
        made.append(subprocess.Popen(["sleep", "300"]))
        signal.raise_signal(signal.SIGINT)
        return SimpleNamespace(process=made[0])

    monkeypatch.setattr(services, "start_ray_process", start_process)
    with pytest.raises(KeyboardInterrupt), ray_setup.adapt_ray(TWO_CORES):
        services.start_ray_process(["gcs_server"], "gcs_server")
    ended = made[0].poll()
    made[0].kill()
    assert ended == -signal.SIGKILL


def test_the_folder_of_a_session_is_removed_although_workers_still_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "session_1"
    (folder / "logs").mkdir(parents=True)
    remove, tries = shutil.rmtree, []

    def write_meanwhile(path: Path, **named: Any) -> None:
        tries.append(path)
        if len(tries) > 1:
            remove(path, **named)

    monkeypatch.setattr(shutil, "rmtree", write_meanwhile)
    ray_setup._remove_session(folder)
    assert not folder.exists()


def test_trials_run_in_the_workers_that_have_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in others, which would import everything once more; and there are no more than slots."""
    monkeypatch.setenv("PYTHONPATH", narrow_environment()["PYTHONPATH"])
    started: list[list[str]] = []
    run = TrialLoop.run

    def look_at_workers(*given: Any) -> bool:
        interrupted = run(*given)
        logs = first_worker.find_logs()
        assert logs is not None
        started.append(
            re.findall(r"Started worker process with pid (\d+)", (logs / "raylet.out").read_text())
        )
        return interrupted

    monkeypatch.setattr(TrialLoop, "run", look_at_workers)
    data = {"image_size": 8, "train_images": 50}
    train = {"epochs": 2, "batch_size": 20}
    experiment = Experiment.model_validate({"name": "early", "data": data, "train": train, "space": SPACE})
    request = Request(
        experiment, tmp_path, gpus=0, cpus=2, quiet=True, confirm=False, console=Console(quiet=True)
    )
    state = run_search(request).state
    assert {trial.status for trial in state.trials.values()} == {"completed"}
    assert [len(found) for found in started] == [2]


def test_a_worker_has_the_modules_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    class Looker:
        def find_module(self, name: str) -> str:
            return str(sys.modules[name].__file__)

    monkeypatch.delenv("PYTHONPATH", raising=False)
    with ray_runtime.start_local_ray(TWO_CORES, modules=["tune_swa.seeds"]):
        looker = ray.remote(Looker).remote()
        found = ray.get(looker.find_module.remote("tune_swa.seeds"))
    assert found == str(ROOT / "tune_swa" / "seeds.py")


def test_a_search_that_ends_stops_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()

    def decode_for_ever(*_: Any, progress: Any, **__: Any) -> None:
        while True:
            progress(0, 1)
            begun.set()

    monkeypatch.setattr(preparation, "prepare_dataset", decode_for_ever)
    experiment = Experiment.model_validate({"name": "early", "space": SPACE})
    with preparation.Preparation(Request(experiment, tmp_path, quiet=True)) as under_way:
        begun.wait()
        assert under_way._thread.is_alive()
    under_way._thread.join(60)
    assert not under_way._thread.is_alive()


def test_workers_of_this_machine_get_the_images_from_the_driver(
    worker: Worker, tiny_data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They need not look for them again, unless the decoded ones have gone."""
    spec = DataSpec(image_size=8, train_images=50)
    found = prepare_dataset(spec)
    context = replace(worker.context, images=pickle.dumps(found), fingerprint=found.fingerprint)
    looked: list[DataSpec] = []

    def look(spec: DataSpec, *_: Any) -> Dataset:
        looked.append(spec)
        return tiny_data

    monkeypatch.setattr(trainable, "prepare_dataset", look)
    opened = trainable._open_dataset(context)
    assert (opened.images == found.images).all()
    assert (opened.train == found.train).all()
    assert looked == []
    assert found.cache_path is not None
    moved = found.cache_path.with_name("moved")
    found.cache_path.rename(moved)
    try:
        monkeypatch.setattr(trainable, "_dataset", None)
        with pytest.raises(trainable.MachineError, match="differ from those that the search began with"):
            trainable._open_dataset(context)
        assert looked == [context.data]
    finally:
        moved.rename(found.cache_path)


def test_a_worker_that_has_connected_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Ray starts workers by itself; none that trials could use is given a task."""
    monkeypatch.setattr(first_worker, "find_logs", lambda: tmp_path)
    monkeypatch.setattr(first_worker, "GIVE_UP_SECONDS", 0.0)
    with pytest.raises(Exception, match="no worker process of Ray's answers"):
        first_worker.await_first_worker()
    (tmp_path / "python-core-worker-8412_1.log").touch()
    first_worker.await_first_worker()


def test_a_request_is_checked_before_ray_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(ray_runtime, "start_local_ray", refuse)
    experiment = Experiment.model_validate({"name": "early", "space": SPACE})
    with pytest.raises(RequestError, match="--cpus 0"):
        run_search(Request(experiment, tmp_path, gpus=0, cpus=0, quiet=True))
