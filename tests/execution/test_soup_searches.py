"""A real search that cooks soups, through Ray: exported, and held against a computation by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import torch

from helpers.narrow_resnet import narrow_environment
from helpers.programs import TUNE_SWA, run_program
from helpers.serial_search import go_on, new_search
from tune_swa.training.checkpoint import extract_shipped_weights, load_checkpoint

SPACE = """
name: crash
data: {dataset: digits, image_size: 8, train_images: 60, val_fraction: 0.5, test_fraction: 0.5}
train: {epochs: 5, batch_size: 20, warmup_epochs: 0}
averaging: {anneal_epochs: 1}
space:
  lr: {choice: [1e-2, 3e-3]}
  swa_start: {choice: [0, 2]}
  swa_lr: {choice: [1e-2, 1e-3]}
search: {sampler: grid}
scheduler: {asha: false}
merge: [{method: soup}, {method: soup, rule: uniform}]
"""


def test_a_search_cooks_soups_and_exports_the_best(tmp_path: Path) -> None:
    """`test_crashed_averages.py` has one that is killed meanwhile."""
    results = new_search(tmp_path, SPACE)
    assert "Best greedy soup: " in go_on(results, 8)
    here = results / "crash"
    soups = pd.read_parquet(here / "soups.parquet")
    assert len(soups) == 16  # of two trunks by two rules, four trials each
    _check_rules(soups)
    _check_weights(here, soups)
    given = ["export-model", here, "--soup", "--format", "state_dict"]
    exported = run_program([TUNE_SWA, *given], env=narrow_environment())
    assert exported.returncode == 0, exported.stdout + exported.stderr
    assert "That is the recorded accuracy." in exported.stdout
    about = json.loads((here / "export-soup" / "model.json").read_text())
    assert f"{about['merge']} of {', '.join(about['recipe'])}, each file" in exported.stdout
    assert f"validation {100 * about['validation']['accuracy']:.2f} %" in exported.stdout
    assert (here / "export-soup" / "model.pt").is_file()


def _check_rules(soups: pd.DataFrame) -> None:
    for (merge, _), steps in soups.groupby(["merge", "trunk"]):
        assert list(steps.own_accuracy) == sorted(steps.own_accuracy, reverse=True)
        assert steps.accuracy.iloc[0] == steps.own_accuracy.iloc[0]
        best = steps.accuracy.iloc[0]
        for step in steps.iloc[1:].itertuples():
            assert step.kept == (merge == "uniform soup" or step.accuracy > best)
            best = step.accuracy if step.kept else best


def _check_weights(folder: Path, soups: pd.DataFrame) -> None:
    """The uniform soup's parameters are the means of what its trials ship."""
    trials = pd.read_parquet(folder / "trials.parquet").set_index("trial")
    for trunk, steps in soups[soups["merge"] == "uniform soup"].groupby("trunk"):
        merged = load_checkpoint(folder / "merged" / f"uniform-{trunk}.pt")["model"]
        models = [
            extract_shipped_weights(load_checkpoint(folder / trials.checkpoint[name])) for name in steps.trial
        ]
        for name in ("conv1.weight", "layer4.1.bn2.bias", "fc.weight"):
            mean = torch.stack([model[name].double() for model in models]).mean(dim=0)
            torch.testing.assert_close(merged[name].double(), mean, rtol=1e-5, atol=1e-7)
    about = json.loads((folder / "best_soup.json").read_text())
    of = soups[soups.trial.isin(about["recipe"]) & soups.kept & (soups["merge"] == about["merge"])]
    assert len(of) == len(about["recipe"])
    assert about["validation"]["accuracy"] == of.accuracy.iloc[-1]
