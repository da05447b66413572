"""Trials that share their trunks: the same numbers for a fraction of the epochs."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from helpers.narrow_resnet import narrow_environment
from helpers.programs import RUN_SEARCH, Program, run_program
from tune_swa.experiment.journal import read_events
from tune_swa.experiment.state import ExperimentState

OWN_COST = ["train_seconds", "bn_seconds", "eval_seconds", "images_per_second"]
COMMON = """
name: shared
data: {dataset: digits, image_size: 8, train_images: 40, val_fraction: 0.2, test_fraction: 0.9}
train: {epochs: 7, batch_size: 20}
averaging: {anneal_epochs: 2}
scheduler: {asha: false}
"""
GRID = """
space: {lr: {choice: [1e-2, 1e-3]}, swa_start: {choice: [1, 3, 4]}, swa_lr: {choice: [1e-3, 1e-2]}}
search: {sampler: grid, checkpoint_every: 1}
"""
# two points have a trunk in common, one of them a rate of its own, and no baseline has either
POINTS = """
space: {lr: {log_uniform: [1e-4, 1e-1]}, swa_start: {int: [0, 5]}, swa_lr: {log_uniform: [1e-4, 1e-1]}}
points:
  - {lr: 3e-3, swa_start: 4, swa_lr: 1e-3}
  - {lr: 2e-3, swa_start: 2, swa_lr: 1e-2}
  - {lr: 3e-3, swa_start: 2, swa_lr: 1e-2}
  - {lr: 3e-3, swa_start: 4, swa_lr: 3e-3}
baseline: {trials: 1}
search: {trials: 4}
"""
TPE = """
space: {lr: {choice: [1e-2, 3e-3]}, swa_start: {int: [1, 5]}, swa_lr: {log_uniform: [1e-4, 1e-1]}}
search: {sampler: tpe, trials: 12, seed: 5, checkpoint_every: 1}
"""


def command(folder: Path, space: str, *more: str) -> list[str]:
    (folder / "space.yaml").write_text(COMMON + space)
    return [
        str(RUN_SEARCH), "--space", str(folder / "space.yaml"), "--gpus", "0",
        "--no-confirm", "--results-dir", str(folder / "results"), *more,
    ]  # fmt: skip


def search(folder: Path, space: str, *more: str) -> Path:
    folder.mkdir(exist_ok=True)
    result = run_program(command(folder, space, *more), env=narrow_environment())
    assert result.returncode == 0, result.stdout + result.stderr
    return folder / "results" / "shared"


def epochs_of(folder: Path) -> pd.DataFrame:
    """Every metric of every epoch; neither what it cost nor who trained it."""
    epochs = pd.read_parquet(folder / "epochs.parquet").drop(columns=[*OWN_COST, "shared_from"])
    return epochs.sort_values(["trial", "epoch"]).reset_index(drop=True)


def assert_same_numbers(found: Path, expected: Path) -> None:
    pd.testing.assert_frame_equal(epochs_of(found), epochs_of(expected), check_exact=True)
    assert (found / "best_model.pt").read_bytes() == (expected / "best_model.pt").read_bytes()
    comparisons = [pd.read_parquet(f / "comparison.parquet") for f in (found, expected)]
    pd.testing.assert_frame_equal(*comparisons, check_exact=True)


def trained(folder: Path) -> int:
    trials = pd.read_parquet(folder / "trials.parquet")
    assert (trials.epochs == trials.epochs_trained + trials.epochs_shared).all()
    return int(trials.epochs_trained.sum())


@pytest.fixture(scope="module")
def grid_alone(module_path: Path, decoded: None) -> Path:
    return search(module_path / "alone", GRID, "--cpus", "2", "--set", "search.share=false")


@pytest.fixture(scope="module")
def grid_shared(module_path: Path, decoded: None) -> Path:
    return search(module_path / "shared", GRID, "--cpus", "2")


@pytest.fixture(scope="module")
def tpe_shared(module_path: Path, decoded: None) -> Path:
    return search(module_path / "tpe", TPE, "--cpus", "1")


# a trunk of 7 epochs for each rate, then 7 - (swa_start + 2) epochs for each branch of it
GRID_STAGES = 2 * (7 + 2 * (4 + 2 + 1))
POINTS_STAGES = 7 + 7 + 7 + (7 - 4) + (7 - 6)


def test_a_grid_has_the_same_numbers_however_it_is_run(
    grid_alone: Path, grid_shared: Path, tmp_path: Path
) -> None:
    assert pd.read_parquet(grid_alone / "epochs.parquet").shared_from.isna().all()
    for shared in (search(tmp_path, GRID, "--cpus", "1"), grid_shared):
        assert_same_numbers(shared, grid_alone)
        assert trained(shared) == GRID_STAGES
        assert not (shared / "trunks").exists()


def test_points_that_have_a_trunk_in_common_by_chance(tmp_path: Path) -> None:
    alone = search(tmp_path / "alone", POINTS, "--cpus", "2", "--set", "search.share=false")
    for slots in ("1", "2"):
        shared = search(tmp_path / slots, POINTS, "--cpus", slots)
        assert_same_numbers(shared, alone)
        assert trained(shared) == POINTS_STAGES


def test_a_serial_search_by_tpe_proposes_and_finds_the_same(tpe_shared: Path, tmp_path: Path) -> None:
    alone = search(tmp_path, TPE, "--cpus", "1", "--set", "search.share=false")
    assert_same_numbers(tpe_shared, alone)
    assert trained(tpe_shared) < 0.7 * trained(alone)


def test_what_a_resumed_search_adds_is_what_it_would_have_had(tpe_shared: Path, tmp_path: Path) -> None:
    first = search(tmp_path, TPE, "--cpus", "1", "--trials", "4")
    assert len(ExperimentState.read(first / "journal.jsonl").trials) == 6
    assert_same_numbers(search(tmp_path, TPE, "--cpus", "1", "--trials", "12", "--resume"), tpe_shared)


def test_who_trained_what(grid_shared: Path) -> None:
    epochs = pd.read_parquet(grid_shared / "epochs.parquet").set_index(["trial", "epoch"])
    shared = epochs[epochs.shared_from.notna()]
    assert set(shared.shared_from) == {"baseline-0000", "baseline-0001"}
    assert shared.train_seconds.isna().all()
    assert epochs[epochs.shared_from.isna()].train_seconds.notna().all()
    # the first average is of weights that the trunk trained; averaging and evaluating it is the trial's
    forks = shared[shared.phase == "branch"]
    assert len(forks) == 12
    assert (forks.n_averaged == 1).all()
    assert (forks.bn_seconds > 0).all()
    assert (forks.eval_seconds > 0).all()
    for (_, epoch), row in shared.iterrows():
        assert row.live_accuracy == epochs.loc[(row.shared_from, epoch)].accuracy
        assert row.train_loss == epochs.loc[(row.shared_from, epoch)].train_loss


@pytest.mark.parametrize("slots", [pytest.param("1", marks=pytest.mark.slow), "2"])
def test_kills_cost_neither_numbers_nor_states(slots: str, grid_alone: Path, tmp_path: Path) -> None:
    journal = tmp_path / "results" / "shared" / "journal.jsonl"
    for epochs in (3, 9, 22):  # before any state, with the first trunk, in the middle of branches
        resume = ["--resume"] if journal.exists() else []
        process = Program(
            command(tmp_path, GRID, "--cpus", slots, *resume),
            env=narrow_environment(), start_new_session=True,
        )  # fmt: skip
        while process.poll() is None and (
            not journal.exists() or journal.read_bytes().count(b'"event":"epoch"') < epochs
        ):
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    shared = search(tmp_path, GRID, "--cpus", slots, "--resume")
    assert_same_numbers(shared, grid_alone)
    assert trained(shared) == GRID_STAGES
    assert not (shared / "trunks").exists()
    reached, again = Counter[str](), 0
    for event in read_events(journal):
        if event["event"] == "epoch":
            reached[event["trial"]] += 1
        elif event["event"] == "shared":
            reached[event["trial"]] = event["epochs"]
        elif event["event"] == "started":  # a kill may find a trial before its first epoch
            assert event["from_epoch"] >= reached[event["trial"]]
            again += event["attempt"] > 1
    assert again
