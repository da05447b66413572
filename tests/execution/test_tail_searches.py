"""Whole searches whose rate after the fork is cyclic, or stays on the base schedule."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from helpers.called_search import call_search

SPACE = """
name: tails
data: {dataset: digits, image_size: 8, train_images: 40, val_fraction: 0.2, test_fraction: 0.9}
train: {epochs: 6, batch_size: 20}
averaging: {tail: TAIL}
space:
  lr: {choice: [1e-2, 3e-3]}
  swa_start: {choice: [0, 2]}
search: {sampler: grid}
scheduler: {reduction_factor: 2, branch_rungs: [3]}
confirm: {top: 1, seeds: 2, race: false}
"""


@pytest.fixture
def searched(
    tail: str,
    rate: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    decoded: None,
    narrow_network: None,
    one_ray: None,
) -> Path:
    (tmp_path / "space.yaml").write_text(SPACE.replace("TAIL", tail).replace("search:", f"{rate}search:"))
    results = tmp_path / "results"
    code, out, err = call_search(
        capfd, "--space", tmp_path / "space.yaml", "--gpus", "0", "--cpus", "1", "--results-dir", results
    )
    assert code == 0, out + err
    return results / "tails"


@pytest.mark.parametrize(("tail", "rate"), [("base", "")])
def test_a_search_on_the_base_schedule_has_no_rate_of_averaging(searched: Path) -> None:
    trials = pd.read_parquet(searched / "trials.parquet")
    assert trials.swa_lr.isna().all()
    assert set(trials[trials.kind == "swa"].swa_start) == {0, 2}
    assert set(trials[trials.stage == "search"].status) <= {"completed", "pruned"}
    assert (trials[trials.stage == "confirm"].status == "completed").all()
    for name in ("comparison", "confirm"):
        assert pd.read_parquet(searched / f"{name}.parquet").swa_lr.isna().all()
    assert set(pd.read_parquet(searched / "confirm.parquet").kind) == {"swa", "baseline"}
    assert_live_models_are_the_baselines(searched, trials)
    page = (searched / "report.html").read_text()
    assert "Start of averaging" in page
    assert re.search(r"SWA_[02] lr=(0\.01|3e-3)", page)
    assert "nan" not in json.dumps(json.loads((searched / "best_model.json").read_text()))


@pytest.mark.parametrize(("tail", "rate"), [("cyclic", "  swa_lr: {choice: [1e-2]}\n")])
def test_a_search_with_cycles_averages_their_ends(searched: Path) -> None:
    trials = pd.read_parquet(searched / "trials.parquet")
    epochs = pd.read_parquet(searched / "epochs.parquet").merge(trials[["trial", "kind", "swa_start"]])
    branch = epochs[epochs.phase == "branch"]
    ended = (branch.epoch - branch.swa_start - 1) // 2 + 1
    assert (branch.n_averaged == ended).all()
    later = branch[branch.epoch > branch.swa_start + 1]
    lowest = later[later.n_averaged > (later.epoch - later.swa_start) // 2]
    assert set(lowest.learning_rate.round(12)) == {2e-3}
    assert (trials[trials.stage == "confirm"].status == "completed").all()
    assert "Start and learning rate of averaging" in (searched / "report.html").read_text()
    assert (searched / "best_model.json").exists()


def assert_live_models_are_the_baselines(folder: Path, trials: pd.DataFrame) -> None:
    epochs = pd.read_parquet(folder / "epochs.parquet").merge(trials[["trial", "kind", "lr", "seed"]])
    live = epochs[epochs.kind == "swa"].merge(
        epochs[epochs.kind == "baseline"], on=["lr", "seed", "epoch"], suffixes=("", "_plain")
    )
    assert set(live.phase) == {"trunk", "branch"}
    assert (live.live_accuracy == live.accuracy_plain).all()
    assert (live.train_loss == live.train_loss_plain).all()
    assert (live.learning_rate == live.learning_rate_plain).all()
