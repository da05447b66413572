"""A whole search on four made-up GPUs: through a real Ray, with real trials that train on the CPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from made_up_gpus import MadeUpGpus, h100_80gb  # type: ignore[import-not-found]

from tune_swa.experiment.journal import read_events
from tune_swa.experiment.state import ExperimentState

SCRIPT = Path(__file__).parent / "gpu_search.py"
EPOCHS, TRIALS = 12, 20
SPACE = f"""
name: four
data: {{dataset: digits, image_size: 8, train_images: 200, val_fraction: 0.2}}
train: {{epochs: {EPOCHS}, batch_size: 20}}
averaging: {{anneal_epochs: 1}}
space:
  lr: {{choice: [1e-3, 3e-3]}}
  swa_start: {{choice: [2, 5, 8]}}
  swa_lr: {{choice: [1e-4, 1e-3, 1e-2]}}
search: {{sampler: grid, checkpoint_every: 1}}
scheduler: {{asha: false}}
"""
SECONDS = 300.0
"""A search that takes longer waits for something that never comes."""


@pytest.fixture
def machine(make_up_gpus: Callable[..., MadeUpGpus], tmp_path: Path) -> dict[str, str]:
    """The environment of a machine with four H100s."""
    gpus = make_up_gpus(*(h100_80gb() for _ in range(4)))
    (tmp_path / "space.yaml").write_text(SPACE)
    return {**os.environ, **gpus.environment()}


def command(folder: Path, *more: str) -> list[str]:
    resume = ["--resume"] if (folder / "results/four/journal.jsonl").exists() else []
    return [
        sys.executable, str(SCRIPT), "--space", str(folder / "space.yaml"), "--results-dir",
        str(folder / "results"), "--no-confirm", *more, *resume,
    ]  # fmt: skip


@contextmanager
def started(folder: Path, machine: dict[str, str], *more: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command(folder, *more), env=machine, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for_lines(journal: Path, text: bytes, count: int, process: subprocess.Popen[str]) -> None:
    """Wait until so many lines of the journal have the text."""
    begun = time.monotonic()
    while process.poll() is None and time.monotonic() - begun < SECONDS:
        if journal.exists() and journal.read_bytes().count(text) >= count:
            return
        time.sleep(0.05)
    raise AssertionError(
        f"no {count} times {text!r}: {process.communicate() if process.poll() is not None else ''}"
    )


def kill_training_worker(workers: Path, journal: Path) -> None:
    """Kill the process whose trial has reported least: an idle one, which Ray keeps for reuse, nobody misses.

    The journal has to know that the trial began: one whose worker dies before that begins for the first time.
    """
    begun = time.monotonic()
    while time.monotonic() - begun < SECONDS:
        events = list(read_events(journal))
        reported = Counter(e["trial"] for e in events if e["event"] == "epoch")
        began = {e["trial"] for e in events if e["event"] == "started"}
        training = []
        for note in workers.iterdir():
            with suppress(FileNotFoundError):  # it has ended meanwhile
                training.append((note.read_text(), int(note.name)))
        found = [(reported[trial], process) for trial, process in training if trial in began]
        if found and min(found)[0] < EPOCHS // 2:
            os.kill(min(found)[1], signal.SIGKILL)
            return
        time.sleep(0.05)
    raise AssertionError("no trial was training")


def describe_placement(events: list[dict[str, Any]]) -> str:
    """Which trial ran on which GPU, session by session, for people to read."""
    lines, session = [], 0
    for event in events:
        if event["event"] == "session":
            session = event["number"]
            share = event["gpu_share"]["gpus_per_trial"]
            lines.append(f"session {session}: {event['gpus']} GPUs, {event['slots']} slots of {share}")
        if event["event"] == "started":
            lines.append(f"  {event['device']}: {event['trial']} from epoch {event['from_epoch']}")
    return "\n".join(lines)


def test_twenty_trials_with_a_killed_worker_and_a_resume_on_two_gpus(
    machine: dict[str, str], tmp_path: Path
) -> None:
    journal = tmp_path / "results/four/journal.jsonl"
    workers = tmp_path / "workers"
    workers.mkdir()
    observed = {**machine, "WORKERS": str(workers)}
    with started(tmp_path, observed, "--gpus", "4", "--gpus-per-trial", "0.5") as search:
        wait_for_lines(journal, b'"event":"epoch"', 30, search)
        kill_training_worker(workers, journal)
        wait_for_lines(journal, b'"attempt":2', 1, search)  # a new worker imports torch and Ray first
        search.send_signal(signal.SIGINT)
        out, err = search.communicate(timeout=60)
        assert search.returncode == 130, out + err
        assert "its worker died; another one goes on" in out
    with started(tmp_path, machine, "--gpus", "2", "--gpus-per-trial", "0.5") as search:
        out, err = search.communicate(timeout=SECONDS)
        assert search.returncode == 0, out + err
        assert err == ""
    assert "a trial takes 9 GB (measured on NVIDIA H100 80GB HBM3, 85.9 GB)" in out

    events = list(read_events(journal))
    print(describe_placement(events))
    state = ExperimentState.read(journal)
    assert len(state.trials) == TRIALS
    assert {trial.status for trial in state.trials.values()} == {"completed"}
    # one retry for the killed one; who was interrupted begins once more in the next session
    by_trial = Counter(event["trial"] for event in events if event["event"] == "started")
    assert max(by_trial.values()) <= 3
    # every epoch of a trial once, and of a trunk trained once
    reported = Counter((e["trial"], e["record"]["epoch"]) for e in events if e["event"] == "epoch")
    assert set(reported.values()) == {1}
    assert all([r["epoch"] for r in trial.records] == list(range(EPOCHS)) for trial in state.trials.values())
    trained = Counter(
        (trial.trunk, record["epoch"])
        for trial in state.trials.values()
        for record in trial.records
        if record["phase"] == "trunk" and record["shared_from"] is None
    )
    assert set(trained.values()) == {1}, trained
    # the header knows the cards, and each session used its own
    assert state.header is not None
    assert state.header.hardware["gpus"] == ["NVIDIA H100 80GB HBM3"] * 4
    used: dict[int, set[str]] = defaultdict(set)
    session = 0
    for event in events:
        session = event["number"] if event["event"] == "session" else session
        if event["event"] == "started":
            used[session].add(event["device"])
    assert used == {1: {f"GPU {i}" for i in range(4)}, 2: {"GPU 0", "GPU 1"}}, used


def test_auto_divides_each_gpu_among_the_trials_that_are_of_use(
    machine: dict[str, str], tmp_path: Path
) -> None:
    done = subprocess.run(
        command(tmp_path, "--dry-run"), env=machine, text=True, capture_output=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    plan = " ".join(done.stdout.split())
    assert "4 GPUs, 8 CPU cores: 8 trials at once, 0.5 GPU and 1 core each" in plan
    assert "2 trials a GPU, 0.5 each; one trial keeps the GPU busy 75 % of the time" in plan


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--gpus", "5"], "--gpus 5: this machine has 4 that CUDA can use. Use --gpus 4"),
        (
            ["--gpus-per-trial", "0.1"],
            "leaves 8.09 GB to a trial (500 MB go to CUDA itself), but it needs 9 GB",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_starts(
    given: list[str], message: str, machine: dict[str, str], tmp_path: Path
) -> None:
    done = subprocess.run(
        command(tmp_path, *given), env=machine, text=True, capture_output=True, timeout=SECONDS
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr
    assert not (tmp_path / "results/four/journal.jsonl").exists()
    assert json.dumps(done.stderr).count("\\n") == 1
