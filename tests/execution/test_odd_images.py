"""Ten images of each odd kind through a whole search: refused by name, or skipped and converted, and told."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from helpers.narrow_resnet import narrow_environment
from helpers.odd_images import HOPELESS, SENSIBLE, odd_tree
from helpers.programs import RUN_SEARCH, run_program
from tune_swa.experiment.state import ExperimentState

SPACE = """
name: odd
data: {dataset: folder, image_size: 16}
train: {epochs: 2, batch_size: 20}
scheduler: {asha: false, grace_epochs: 1}
space: {lr: 1e-3, swa_start: 0, swa_lr: 1e-3}
"""


@pytest.fixture(scope="module")
def photos(module_path: Path) -> Path:
    odd_tree(module_path, count=10)
    return module_path


def search(photos: Path, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    (folder / "space.yaml").write_text(SPACE)
    program = [RUN_SEARCH, "--space", "space.yaml", "--gpus", "0", "--cpus", "1", "--no-confirm"]
    return run_program([*program, "--data-dir", photos, *more], cwd=folder, env=narrow_environment())


def test_hopeless_ones_are_refused_by_name_before_anything_trains(photos: Path, tmp_path: Path) -> None:
    refused = search(photos, tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: 30 of 132 images cannot be decoded:\n")
    assert str(photos / "train" / "one" / "empty-0.jpg") in refused.stderr
    assert "and 20 more" in refused.stderr
    assert "--set data.unreadable=skip" in refused.stderr
    assert not (tmp_path / "results").exists()


def test_the_rest_is_searched_and_what_was_done_is_told(photos: Path, tmp_path: Path) -> None:
    done = search(photos, tmp_path, "--set", "data.unreadable=skip")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    told = (
        "30 images skipped; converted to RGB: 10 16-bit greyscale, 10 CMYK, 10 EXIF rotation not applied, "
        "10 greyscale, 10 palette, 10 transparency dropped"
    )
    assert told in done.stdout
    folder = tmp_path / "results" / "odd"
    state = ExperimentState.read(folder / "journal.jsonl")
    assert {t.status for t in state.trials.values()} == {"completed"}

    # all that could be decoded was used
    metadata = pq.read_schema(folder / "trials.parquet").metadata
    data = json.loads(metadata[b"tune_swa.data"])
    assert data["train"] + data["val"] + data["test"] == 32 + 10 * len(SENSIBLE)
    assert data["skipped"]["count"] == 10 * len(HOPELESS)
    assert {kind: group["count"] for kind, group in data["converted"].items()} == dict.fromkeys(
        [
            "16-bit greyscale",
            "CMYK",
            "EXIF rotation not applied",
            "greyscale",
            "palette",
            "transparency dropped",
        ],
        10,
    )
    log = (folder / "search.log").read_text()
    assert "images skipped, since they cannot be decoded, 30: " in log
    assert "empty-0.jpg (not an image that Pillow knows)" in log
    assert "images converted to RGB, CMYK, 10: " in log
    assert "cmyk-0.jpg" in log
