"""Real searches that follow recipes of soups on fresh seeds: killed at any moment, and without sharing."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from helpers.serial_search import (
    COSTS,
    assert_same,
    assert_same_tables,
    crash,
    go_on,
    never_interrupted,
    new_search,
    read_predictions,
    results_of,
)

SPACE = """
name: crash
data: {dataset: digits, image_size: 8, train_images: 60, val_fraction: 0.5, test_fraction: 0.5}
train: {epochs: 5, batch_size: 20, warmup_epochs: 0}
averaging: {anneal_epochs: 1}
space:
  lr: 3e-3
  swa_start: {choice: [0, 2]}
  swa_lr: {choice: [1e-2, 1e-3]}
search: {sampler: grid, checkpoint_every: 1}
scheduler: {asha: false}
merge: [{method: soup, rule: uniform}]
confirm: {top: 1, seeds: 2, race: false, merges: true}
"""
TRIALS = 4


@pytest.fixture(scope="module")
def straight(module_path: Path, decoded: None) -> Path:
    """Results of the search as it ends by itself."""
    results: Path = never_interrupted(module_path, TRIALS, SPACE)
    return results


def test_every_seed_has_its_merge(straight: Path) -> None:
    merges = pd.read_parquet(straight / "crash" / "merges.parquet")
    assert list(merges["run"]) == ["uniform-soup-seed1", "uniform-soup-seed2"]
    assert set(merges["size"]) == {4}
    assert merges["test_accuracy"].between(0, 1).all()
    assert merges["test_temperature"].notna().all()
    assert set(read_predictions(straight)) >= {"uniform-soup-seed1.npz", "uniform-soup-seed2.npz"}


@pytest.mark.parametrize("moment", ["event-merge_tested:1", "event-merge_tested:2", "event-confirm:1"])
def test_a_kill_changes_nothing(moment: str, straight: Path, tmp_path: Path) -> None:
    results = new_search(tmp_path, SPACE)
    crash(moment, results, TRIALS)
    said = go_on(results, TRIALS)
    assert "uniform soup of 4" in said
    assert_same(results, straight)


def test_without_sharing_the_merges_are_the_same(straight: Path, tmp_path: Path) -> None:
    alone = never_interrupted(
        tmp_path, TRIALS, SPACE.replace("checkpoint_every: 1", "checkpoint_every: 1, share: false")
    )
    assert_same_tables(results_of(alone), results_of(straight), COSTS)
    assert read_predictions(alone) == read_predictions(straight)
