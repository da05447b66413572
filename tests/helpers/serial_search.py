"""A small serial search of real trials, TPE and ASHA, and ways to end it before its time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

import tune_swa
from helpers.narrow_resnet import narrow_environment
from helpers.programs import RUN_SEARCH, Program, run_program
from tune_swa.results.verdict_sentences import verdict_text

CRASHING = Path(__file__).parent / "crashing_search.py"
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
search: {sampler: tpe, trials: 12, seed: 3, checkpoint_every: 1, reuse: false}
scheduler: {reduction_factor: 2, trunk_rungs: [0, 1], branch_rungs: [2]}
"""
SHARING = SPACE.replace("lr: {log_uniform: [1e-4, 1e-1]}", "lr: {choice: [1e-2, 3e-3]}", 1)
"""The same with trunks that recur."""
REUSING = SPACE.replace(", reuse: false", "")
"""The same with suggestions that go along known trunks."""
TIMES = ["train_seconds", "bn_seconds", "eval_seconds", "images_per_second", "seconds"]
COSTS = ["epochs_trained", "epochs_shared", "shared_from"]
"""Columns that say who trained what."""


def command(results: Path, trials: int, *program: str) -> list[str]:
    """The program and its options, with --resume where there is something to go on with.

    Fresh seeds are trained where the space file says how many.
    """
    space = results.parent / "space.yaml"
    given = [
        "--space", str(space), "--gpus", "0", "--cpus", "1",
        "--trials", str(trials), "--results-dir", str(results),
    ]  # fmt: skip
    if "confirm:" not in space.read_text():
        given.append("--no-confirm")
    resume = ["--resume"] if journal_of(results).exists() else []
    return [*(program or (str(RUN_SEARCH),)), *given, *resume]


def journal_of(results: Path) -> Path:
    return results / "crash" / "journal.jsonl"


def run(results: Path, trials: int, *program: str, wide: bool = False) -> subprocess.CompletedProcess[str]:
    """Start or go on; `wide`: with ResNet-18 as it is, whose checkpoints take 134 MB."""
    return run_program(command(results, trials, *program), env=None if wide else narrow_environment())


def go_on(results: Path, trials: int, *, wide: bool = False) -> str:
    """Start or go on, to the end; returns the output."""
    result = run(results, trials, wide=wide)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def run_until(moment: str, results: Path, trials: int) -> subprocess.CompletedProcess[str]:
    """Start or go on, with what `crashing_search.py` does at a moment."""
    if "import:" not in moment:
        return run(results, trials, str(CRASHING), moment)
    # a process that has not imported anything yet
    given = [sys.executable, *command(results, trials, str(CRASHING), moment)]
    return subprocess.run(given, capture_output=True, text=True, env=narrow_environment())


def crash(moment: str, results: Path, trials: int) -> None:
    """Start or go on, and be killed."""
    result = run_until(moment, results, trials)
    assert result.returncode == -signal.SIGKILL, f"{moment}: {result.stdout}{result.stderr}"


def signalled(number: int, moment: str, results: Path, trials: int) -> list[str]:
    """Start or go on, get a signal at a moment, and return the lines on stderr."""
    moment = f"{signal.Signals(number).name}@{moment}"
    result = run_until(moment, results, trials)
    assert result.returncode == 130, f"{moment}: {result.stdout}{result.stderr}"
    return result.stderr.strip().splitlines()


@contextmanager
def started(results: Path, trials: int, *, epochs: int) -> Iterator[Program]:
    """Start or go on in the background; entered after so many more epochs."""
    journal = journal_of(results)
    wanted = count_epochs(journal) + epochs
    process = Program(command(results, trials), env=narrow_environment(), start_new_session=True)
    try:
        while process.poll() is None and count_epochs(journal) < wanted:
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def held(results: Path, trials: int, *, epochs: int) -> Iterator[Program]:
    """Start or go on in the background; entered with the driver stopped before it records so many epochs.

    It goes on with SIGCONT: what is done to it meanwhile is not in a race with the end of the search.
    """
    given = command(results, trials, str(CRASHING), f"SIGSTOP@event-epoch:{epochs}")
    process = Program(given, env=narrow_environment(), start_new_session=True)
    try:
        while process.poll() is None and "State:\tT" not in Path(f"/proc/{process.pid}/status").read_text():
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()


def stop(number: int, results: Path, trials: int, *, epochs: int, group: bool = False) -> list[str]:
    """Start or go on, send a signal after so many more epochs, and return the lines on stderr."""
    with started(results, trials, epochs=epochs) as process:
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


def results_of(results: Path) -> dict[str, pd.DataFrame]:
    """Everything that does not tell the time: from the parquet files, which the last session wrote."""
    tables = {path.name: pd.read_parquet(path) for path in results.glob("crash/*.parquet")}
    return {name: table.drop(columns=TIMES, errors="ignore") for name, table in tables.items()}


def assert_same(results: Path, straight: Path, *, costs: bool = True) -> None:
    """Assert that two searches have left the same.

    Args:
        results: of a search that was interrupted.
        straight: of the one that was not.
        costs: whether they have to have trained the same epochs, too.
    """
    assert_same_tables(results_of(results), results_of(straight), [] if costs else COSTS)
    assert_same_models(results, straight)
    assert read_predictions(results) == read_predictions(straight)
    assert describe_verdict(results) == describe_verdict(straight)
    # nothing is left of the sessions that died, but lines in the log
    files = [{str(p.relative_to(folder)) for p in folder.rglob("*")} for folder in (results, straight)]
    assert files[0] - {"crash/search.log"} == files[1] - {"crash/search.log"}


def assert_same_tables(
    found: dict[str, pd.DataFrame], expected: dict[str, pd.DataFrame], ignored: list[str]
) -> None:
    """Assert that tables are the same bit for bit, but for columns that are ignored."""
    assert found.keys() == expected.keys()
    for name, table in expected.items():
        pair = (one.drop(columns=ignored, errors="ignore") for one in (found[name], table))
        pd.testing.assert_frame_equal(*pair, check_exact=True, obj=name)


def assert_same_models(found: Path, expected: Path) -> None:
    """Assert that two searches hand over the same: best model and soup with descriptions, merged weights."""
    kept = []
    for results in (found, expected):
        files = [path for pattern in ("best_*", "merged/*") for path in results.glob(f"crash/{pattern}")]
        kept.append({path.relative_to(results): path.read_bytes() for path in files})
    assert kept[0].keys() == kept[1].keys()
    assert [name for name, content in kept[1].items() if kept[0][name] != content] == []


def describe_verdict(results: Path) -> str:
    """The verdict from the runs on fresh seeds, in words with its numbers; empty without any."""
    verdict = tune_swa.load_results(results / "crash").verdict
    if verdict is None:
        return ""
    contrasts = (*verdict.against_plain, *verdict.against_others, *verdict.against_trunk)
    numbers = (f"{c.by_seed} {c.interval} {c.paired} {c.crossed} {c.p_value}" for c in contrasts)
    return "\n".join([verdict_text(verdict), *numbers])


def read_predictions(results: Path) -> dict[str, bytes]:
    """Of the runs on fresh seeds, by the name of the file."""
    return {path.name: path.read_bytes() for path in results.glob("crash/predictions/*.npz")}


def new_search(folder: Path, space: str = SPACE) -> Path:
    """Write the space file into `folder`; returns where the results will be."""
    (folder / "space.yaml").write_text(space)
    return folder / "results"


def never_interrupted(folder: Path, trials: int, space: str = SPACE, *, wide: bool = False) -> Path:
    """The search as it ends by itself."""
    results = new_search(folder, space)
    go_on(results, trials, wide=wide)
    return results
