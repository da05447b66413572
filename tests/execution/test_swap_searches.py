"""Real searches with SWAP, through Ray: killed, without sharing, exported, and computed by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import torch

from helpers.narrow_resnet import narrow_environment
from helpers.programs import TUNE_SWA, run_program
from helpers.serial_search import COSTS, crash, go_on, new_search, results_of
from tune_swa.training.checkpoint import extract_shipped_weights, load_checkpoint

SPACE = """
name: crash
data: {dataset: digits, image_size: 8, train_images: 60, val_fraction: 0.5, test_fraction: 0.5}
train: {epochs: 5, batch_size: 40, warmup_epochs: 0, augment: [hflip]}
averaging: {anneal_epochs: 1}
averages: [{method: swa}, {method: ema, horizon: 1}]
space:
  lr: {choice: [1e-2, 3e-3]}
  swa_start: {choice: [0, 1]}
  swa_lr: 1e-2
search: {sampler: grid, checkpoint_every: 1}
scheduler: {reduction_factor: 2, branch_rungs: [3]}
merge: [{method: swap, members: 3, batch_size: 20}]
"""
MOMENTS = ("event-swap:1", "event-suggested:2", "event-epoch:4", "event-merged:1", "event-merged:2")
"""Where members are planned, the second one begins, within one, and at the two merges."""


def test_a_killed_search_merges_the_same_members(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("straight", "killed", "alone")]
    for folder in folders:
        folder.mkdir()
    straight, killed, alone = folders
    said = go_on(new_search(straight, SPACE), 4)
    assert "members 2 to 3 of the 2 best configurations for SWAP, 4 runs of 5 epochs" in said
    assert "Best SWAP: mean of 3 members, " in said
    results = new_search(killed, SPACE)
    for moment in MOMENTS:
        crash(moment, results, 4)
    go_on(results, 4)
    go_on(new_search(alone, SPACE.replace("search: {", "search: {share: false, ")), 4)
    tables = [results_of(folder / "results") for folder in folders]
    for file, table in tables[0].items():
        pd.testing.assert_frame_equal(table, tables[1][file], check_exact=True)
        unshared = tables[2][file].drop(columns=COSTS, errors="ignore")
        pd.testing.assert_frame_equal(table.drop(columns=COSTS, errors="ignore"), unshared, check_exact=True)
    models = [(folder / "results" / "crash" / "best_swap.pt").read_bytes() for folder in folders]
    assert models[0] == models[1] == models[2]
    _check_steps(straight / "results" / "crash", tables[0]["trials.parquet"], tables[0]["soups.parquet"])
    _check_export(straight / "results" / "crash", tables[0]["soups.parquet"])


def _check_steps(folder: Path, trials: pd.DataFrame, soups: pd.DataFrame) -> None:
    """Each mean is that of what the members up to it ship; members differ, and share their trunk."""
    by_name = trials.set_index("trial")
    searched = trials[(trials.stage == "search") & (trials.kind == "swa")]
    assert "pruned" in set(searched.status)
    assert set(by_name[by_name.stage == "swap"].epochs_trained) <= {2, 3}
    for _, steps in soups.groupby(soups.trial.str.removesuffix("-member2").str.removesuffix("-member3")):
        assert list(steps["size"]) == [1, 2, 3]
        assert by_name.status[steps.trial.iloc[0]] == "completed"
        assert steps.accuracy.iloc[0] == steps.own_accuracy.iloc[0]
        files = [folder / by_name.checkpoint[name] for name in steps.trial]
        models = [extract_shipped_weights(load_checkpoint(file)) for file in files]
        merged = load_checkpoint(folder / "merged" / f"swap-{steps.trial.iloc[0]}.pt")["model"]
        for name in ("conv1.weight", "layer4.1.bn2.bias", "fc.weight"):
            mean = torch.stack([model[name].double() for model in models]).mean(dim=0)
            torch.testing.assert_close(merged[name].double(), mean, rtol=1e-5, atol=1e-7)
            assert len({model[name].numpy().tobytes() for model in models}) == 3


def _check_export(folder: Path, soups: pd.DataFrame) -> None:
    """What is exported has the accuracy of the table, on the validation images."""
    given = ["export-model", folder, "--swap", "--format", "state_dict"]
    exported = run_program([TUNE_SWA, *given], env=narrow_environment())
    assert exported.returncode == 0, exported.stdout + exported.stderr
    assert "That is the recorded accuracy." in exported.stdout
    about = json.loads((folder / "export-swap" / "model.json").read_text())
    row = soups[(soups.trial == about["recipe"][-1]) & (soups["size"] == 3)]
    assert about["validation"]["accuracy"] == row.accuracy.iloc[0] == max(soups[soups["size"] == 3].accuracy)
    assert f"validation {100 * row.accuracy.iloc[0]:.2f} %" in exported.stdout
