"""Searches from where people keep their programs: workers start there, or the search says why they do not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.narrow_resnet import narrow_environment
from helpers.other_pythons import ODD, copy_checkout, make_environment
from helpers.programs import RUN_SEARCH
from helpers.serial_search import SPACE
from tune_swa.errors import SearchFailed
from tune_swa.execution import first_worker, ray_runtime, ray_setup
from tune_swa.execution.slots import Placement
from tune_swa.experiment.state import ExperimentState

OPTIONS = ["--gpus", "0", "--cpus", "1", "--trials", "1", "--set", "baseline.trials=1", "--no-confirm"]
ONE_SLOT = Placement(gpus=0, cpus=1, slots=1, gpus_per_trial=0.0, cpus_per_trial=1)


def run(words: list[object], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the program as its own process."""
    return subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=narrow_environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_checkout_and_an_environment_with_every_odd_character(tmp_path: Path, decoded: None) -> None:
    python = make_environment(tmp_path / ODD / "venv")
    program = copy_checkout(tmp_path / ODD / "checkout")
    (program.parent / "space.yaml").write_text(SPACE)
    result = run([python, "run_search.py", "--space", "space.yaml", *OPTIONS], program.parent)
    assert result.returncode == 0, result.stdout + result.stderr
    state = ExperimentState.read(program.parent / "results" / "crash" / "journal.jsonl")
    assert [trial.status for trial in state.trials.values()] == ["completed"] * 2


def test_under_uv_run(tmp_path: Path, decoded: None) -> None:
    """Ray recognises it by the command line of a process above this one."""
    (tmp_path / "space.yaml").write_text(SPACE)
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "mine"\nversion = "1"\n')
    (tmp_path / "uv").symlink_to(sys.executable)
    (tmp_path / "run").write_text(
        "import subprocess, sys\nsys.exit(subprocess.run(sys.argv[1:]).returncode)\n"
    )
    program = [sys.executable, RUN_SEARCH, "--space", "space.yaml", *OPTIONS]
    result = run([tmp_path / "uv", "run", *program], tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr


def test_workers_that_end_as_they_start_end_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of a Python that has gone: a worker's command that no shell finds."""
    gone = {"py_executable": "/nowhere/python"}
    monkeypatch.setattr(ray_setup, "quote_worker_command", lambda: gone)
    message = "end as they start .*/nowhere/python: No such file"
    with pytest.raises(SearchFailed, match=message) as caught, ray_runtime.start_local_ray(ONE_SLOT):
        pass
    logs = Path(str(caught.value).partition("their logs are in ")[2].rstrip(")"))
    assert (logs / "raylet.out").exists()


def test_a_worker_that_never_answers_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_worker, "GIVE_UP_SECONDS", 3.0)
    monkeypatch.setattr(ray_setup, "quote_worker_command", lambda: {"py_executable": "sleep 30; true"})
    message = "no worker process of Ray's answers in 3 seconds"
    with pytest.raises(SearchFailed, match=message), ray_runtime.start_local_ray(ONE_SLOT):
        pass


def test_the_doctor_starts_what_a_search_starts(tmp_path: Path) -> None:
    python = make_environment(tmp_path / "my venv")
    code = "from tune_swa.execution.ray_probe import start; print(start())"
    result = run([python, "-c", code], tmp_path)
    assert result.stdout == "127.0.0.1\n", result.stderr


def test_workers_of_a_search_under_way_that_no_longer_start(tmp_path: Path) -> None:
    """What the watchdog adds: a process that was started, has no log of its own, and is no more."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    lines = [f"[x] worker_pool.cc:564: Started worker process with pid {pid} worker_id=8412\n"
             for pid in (1, ended.pid, os.getpid())]  # fmt: skip
    (tmp_path / "raylet.out").write_text("".join(lines))
    (tmp_path / "python-core-worker-8412_1.log").write_text("")
    assert first_worker.list_dead_workers(tmp_path) == [ended.pid]
    (tmp_path / "raylet.err").write_text("warning\nbash: line 1: /my: No such file or directory\n\n")
    assert first_worker.read_last_error(tmp_path) == "bash: line 1: /my: No such file or directory"
    assert first_worker.list_dead_workers(tmp_path / "none") == []
