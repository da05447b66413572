"""A search that is killed at any moment and resumed ends as if it had never been killed.

A small serial search of real trials (TPE, ASHA), whose driver is killed with -9 or stopped by a
signal, and gone on with. Every metric and every status has to be the same, bit for bit.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

import tune_swa
from tune_swa.journal import ExperimentState

ROOT = Path(__file__).parent.parent.parent
SPACE = """
name: crash
data: {dataset: digits, image_size: 8, train_images: 40, val_fraction: 0.2, test_fraction: 0.9}
train: {epochs: 4, batch_size: 20}
averaging: {anneal_epochs: 1}
space:
  lr: {log_uniform: [1e-4, 1e-1]}
  swa_start: {int: [0, 2]}
  swa_lr: {log_uniform: [1e-4, 1e-1]}
baseline: {trials: 2}
search: {sampler: tpe, trials: 12, seed: 3}
scheduler: {grace_epochs: 1, reduction_factor: 2, branch_rungs: [2]}
"""
TIMES = ["train_seconds", "bn_seconds", "eval_seconds", "images_per_second"]

# the lines of the journal number about 85, the epochs 35
MOMENTS = [
    "import:1", "import:8", "data:1", "ray:1", "ray:2", "space:1",
    "line-before:1", "line-half:1", "line-after:1", "line-half:2", "line-after:2",
    "suggest:1", "suggest:4", "suggest:12",
    "line-before:9", "line-half:20", "line-after:31", "line-half:44", "line-before:58", "line-after:70",
    "training:1", "training:7", "training:13", "training:22",
    "checkpoint:1", "checkpoint:5", "checkpoint:14", "checkpoint:23",
    "tidy:1", "tidy:3", "tidy:6",
    "parquet:1", "parquet:5", "rename:2", "rename:4", "model:1",
]  # fmt: skip


def arguments(results: Path, trials: int) -> list[str]:
    return [
        "--space", str(results.parent / "space.yaml"), "--gpus", "0", "--cpus", "1", "--quiet",
        "--trials", str(trials), "--results-dir", str(results),
    ]  # fmt: skip


def go_on(results: Path, trials: int) -> None:
    """Run to the end, with --resume where there is something to go on with, as a user would."""
    journal = results / "crash" / "journal.jsonl"
    resume = ["--resume"] if journal.exists() else []
    result = subprocess.run(
        [sys.executable, str(ROOT / "run_search.py"), *arguments(results, trials), *resume],
        capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr


def crash(moment: str, results: Path, trials: int) -> None:
    """Start or go on, and be killed."""
    resume = ["--resume"] if (results / "crash" / "journal.jsonl").exists() else []
    result = subprocess.run(
        [sys.executable, str(ROOT / "tests/search/crashing.py"), moment,
         *arguments(results, trials), *resume],
        capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert result.returncode == -signal.SIGKILL, f"{moment}: {result.stdout}{result.stderr}"


def stop(number: int, results: Path, trials: int, *, epochs: int, group: bool = False) -> list[str]:
    """Start or go on, send a signal after so many more epochs, and return the lines on stderr."""
    journal = results / "crash" / "journal.jsonl"
    resume = ["--resume"] if journal.exists() else []
    wanted = count_epochs(journal) + epochs
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "run_search.py"), *arguments(results, trials), *resume],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    while process.poll() is None and count_epochs(journal) < wanted:
        time.sleep(0.05)
    begun = time.monotonic()
    if group:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - begun < 10
    assert process.returncode == 130, err
    return err.strip().splitlines()


def count_epochs(journal: Path) -> int:
    return journal.read_bytes().count(b'"event":"epoch"') if journal.exists() else 0


def results_of(results: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Everything that does not tell the time: from the parquet files, which the last session wrote."""
    folder = results / "crash"
    epochs = pd.read_parquet(folder / "epochs.parquet").drop(columns=TIMES)
    trials = pd.read_parquet(folder / "trials.parquet").drop(columns="seconds")
    return epochs, trials, pd.read_parquet(folder / "comparison.parquet")


def assert_same(results: Path, straight: Path) -> None:
    for found, expected in zip(results_of(results), results_of(straight), strict=True):
        pd.testing.assert_frame_equal(found, expected, check_exact=True)
    weights = [(folder / "crash" / "best_model.pt").read_bytes() for folder in (results, straight)]
    assert weights[0] == weights[1]
    # nothing is left of the sessions that died
    files = [
        sorted(str(p.relative_to(folder / "crash")) for p in (folder / "crash").rglob("*"))
        for folder in (results, straight)
    ]
    assert files[0] == files[1]


def never_interrupted(folder: Path, trials: int) -> Path:
    """The search as it ends by itself."""
    (folder / "space.yaml").write_text(SPACE)
    results = folder / "straight"
    go_on(results, trials)
    return results


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNE_SWA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, cache: None) -> Path:
    return never_interrupted(tmp_path_factory.mktemp("crashes"), 12)


def test_one_search_killed_and_stopped_again_and_again(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Six ends of its driver in one search: in a checkpoint, a line, by both signals, in the export."""
    trials = 4
    expected = never_interrupted(tmp_path, trials)
    results = tmp_path / "results"
    crash("checkpoint:3", results, trials)
    told = stop(signal.SIGINT, results, trials, epochs=3)
    assert told[-2:-1] == ["Interrupted. Continue with:"]
    assert told[-1].endswith(f"--results-dir {results} --resume")
    assert told[-1].startswith("python run_search.py --space ")
    crash("line-half:6", results, trials)
    told = stop(signal.SIGTERM, results, trials, epochs=2, group=True)
    assert told[-2:-1] == ["Interrupted. Continue with:"]
    assert told[-1].count("--resume") == 1
    crash("model:1", results, trials)
    go_on(results, trials)
    assert_same(results, expected)
    state = ExperimentState.read(results / "crash" / "journal.jsonl")
    assert state.sessions == 6
    assert {t.status for t in state.trials.values()} == {"completed", "pruned"}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_once(moment: str, straight: Path) -> None:
    results = straight.parent / moment.replace(":", "-")
    crash(moment, results, 12)
    go_on(results, 12)
    assert_same(results, straight)


@pytest.mark.slow
@pytest.mark.parametrize("group", [False, True], ids=["alone", "group"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("epochs", [1, 12, 30])
def test_stopped_once(number: int, group: bool, epochs: int, straight: Path) -> None:
    results = straight.parent / f"signal-{number}-{group}-{epochs}"
    told = stop(number, results, 12, epochs=epochs, group=group)
    assert told[-2:-1] == ["Interrupted. Continue with:"]
    assert told[-1].endswith("--resume")
    assert "running" not in set(tune_swa.load_results(results / "crash").trials.status)
    go_on(results, 12)
    assert_same(results, straight)
