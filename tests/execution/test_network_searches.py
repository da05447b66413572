"""Networks of several kinds through a whole search: killed and resumed, with and without shared trunks.

`training/test_six_networks.py` has the same networks in one process, in seconds.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import tune_swa
from helpers.programs import TUNE_SWA, run_program
from helpers.serial_search import (
    assert_same,
    crash,
    go_on,
    journal_of,
    never_interrupted,
    new_search,
    results_of,
)
from tune_swa.experiment.state import ExperimentState

SPACE = """
name: crash
data: {{dataset: digits, image_size: 32, train_images: 48, val_fraction: 0.25, test_fraction: 0.9}}
model: {{arch: {arch}}}
train: {{epochs: 3, batch_size: 12, augment: [crop, mixup], crop_padding: 2}}
averaging: {{anneal_epochs: 1}}
space: {{lr: 1e-2, swa_start: {{choice: [0, 1]}}, swa_lr: 5e-3}}
search: {{sampler: grid, seed: 0, checkpoint_every: 1, share: {share}}}
scheduler: {{asha: false, grace_epochs: 1}}
confirm: {{top: 1, seeds: 2}}
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)  # vit_b_16 writes a gigabyte after each epoch
@pytest.mark.parametrize(
    "arch",
    ["mobilenet_v3_small", "convnext_tiny", "efficientnet_b0", "vit_b_16", "regnet_y_400mf", "timm/resnet18"],
)
def test_a_network_through_a_search(arch: str, tmp_path: Path, decoded: None) -> None:
    folders = {name: tmp_path / name for name in ("straight", "killed", "unshared")}
    for folder in folders.values():
        folder.mkdir()
    straight = never_interrupted(folders["straight"], 2, SPACE.format(arch=arch, share="true"))
    killed = new_search(folders["killed"], SPACE.format(arch=arch, share="true"))
    for moment in ("checkpoint:3", "training:2", "line-half:24"):
        crash(moment, killed, 2)
    go_on(killed, 2)
    assert ExperimentState.read(journal_of(killed)).sessions == 4
    assert_same(killed, straight)

    unshared = never_interrupted(folders["unshared"], 2, SPACE.format(arch=arch, share="false"))
    saved = [results_of(path)["epochs.parquet"]["shared_from"].notna().sum() for path in (straight, unshared)]
    assert saved[0] > saved[1] == 0
    pd.testing.assert_frame_equal(*(read_epochs(path) for path in (straight, unshared)), check_exact=True)

    results = tune_swa.load_results(straight / "crash")
    assert results.verdict is not None
    out = tmp_path / "export"
    done = run_program([TUNE_SWA, "export-model", straight / "crash", "--output", out])
    assert done.returncode == 0, done.stderr
    drawn = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(drawn).save(tmp_path / "new.png")
    said = subprocess.run(
        [sys.executable, out / "classify.py", tmp_path / "new.png"], capture_output=True, text=True, cwd="/"
    )
    pixels = torch.from_numpy(drawn).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        probability, index = results.best_model().eval()(pixels).softmax(dim=1)[0].max(dim=0)
    expected = f"{tmp_path / 'new.png'}: {int(index)} ({100 * float(probability):.1f} %)\n"
    assert (said.stdout, said.stderr) == (expected, "")


def read_epochs(results: Path) -> pd.DataFrame:
    """What was measured after each epoch of a search's trials, whoever trained it."""
    table = results_of(results)["epochs.parquet"]
    columns = ["epoch", "phase", "learning_rate", "train_loss", "accuracy", "live_accuracy", "nll", "ece"]
    return table.sort_values(["trial", "epoch"]).set_index("trial")[columns]
