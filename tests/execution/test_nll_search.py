"""A real search by nll, through Ray, whose most accurate model is not the one that is handed over."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd

from helpers.narrow_resnet import narrow_environment
from helpers.programs import RUN_SEARCH, run_program

# with so much label smoothing the network learns as well, and is never sure of anything
SPACE = """
name: by-nll
data: {dataset: digits, image_size: 16, train_images: 200, val_fraction: 0.25}
train: {epochs: 6, batch_size: 20, warmup_epochs: 0}
space:
  lr: {choice: [5e-4, 4e-3]}
  swa_start: 3
  swa_lr: 1e-3
  train.label_smoothing: {choice: [0, 0.9]}
points:
  - {lr: 4e-3, train.label_smoothing: 0.9}
  - {lr: 5e-4, train.label_smoothing: 0}
baseline: {points: [{lr: 4e-3, train.label_smoothing: 0.9}]}
search: {sampler: random, trials: 2}
scheduler: {asha: false}
objective: {metric: nll}
"""


def test_the_model_of_the_lowest_nll_is_handed_over(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    given = ["--space", "space.yaml", "--gpus", "0", "--results-dir", "out", "--no-confirm"]
    environment = narrow_environment({**os.environ, "TUNE_SWA_CACHE": str(tmp_path / "cache")})
    result = run_program([RUN_SEARCH, *given], cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr
    folder = tmp_path / "out" / "by-nll"
    trials = pd.read_parquet(folder / "trials.parquet").set_index("trial")
    swa = trials[trials.kind == "swa"]
    accurate, likely = swa.accuracy.idxmax(), swa.nll.idxmin()
    assert accurate != likely, swa
    assert trials.accuracy.idxmax() != likely
    handed = json.loads((folder / "best_model.json").read_text())
    assert handed["trial"] == likely
    assert handed["validation"]["nll"] == swa.nll.min()
    assert (folder / "best_model.pt").exists()
    best = pd.read_parquet(folder / "comparison.parquet").iloc[0]
    assert (best.trial, best["rank"]) == (likely, 1)
    gain = trials.nll["baseline-0000"] - swa.nll.min()
    assert best.delta_vs_baseline == gain > 0
    assert f"nll {gain:.4f} lower on" in " ".join(result.stdout.split())
    assert "lower vs baseline" in result.stdout  # the line of the trial as it ended
    # by which the race would tell whether plain training is clearly worse
    events = [json.loads(line) for line in (folder / "journal.jsonl").open()]
    assert all(event["record"]["nll_sd"] > 0 for event in events if event["event"] == "epoch")
