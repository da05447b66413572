"""Images that occur more than once through whole searches: warned of, refused, kept on one side."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from helpers.copied_photos import ALMOST, copy_pixels, draw_folders, draw_photo
from helpers.narrow_resnet import narrow_environment
from helpers.programs import RUN_SEARCH, run_program
from tune_swa.experiment.state import ExperimentState

SPACE = """
name: copied
data: {dataset: folder, image_size: 32}
train: {epochs: 2, batch_size: 20}
scheduler: {asha: false, grace_epochs: 1}
space: {lr: 1e-3, swa_start: 0, swa_lr: 1e-3}
"""
LEAK = "2 of 10 test images are among the training images, too"
NAMED = "test/sea/x.png = train/sea/1.png"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two test images that are training images, one re-encoded, and one training image of two classes."""
    root = tmp_path / "photos"
    draw_folders(root, {"train": 10, "test": 3})
    copy_pixels(root / "train/sea/1.png", root / "test/sea/x.png")
    copy_pixels(root / "train/sea/2.png", root / "test/forest/y.png")
    for i in (3, 4):
        ALMOST["re-encoded"](draw_photo(i), root / f"test/forest/z{i}")
    return root


def search(photos: Path, *more: str) -> subprocess.CompletedProcess[str]:
    folder = photos.parent
    (folder / "space.yaml").write_text(SPACE)
    program = [RUN_SEARCH, "--space", "space.yaml", "--data-dir", photos]
    return run_program(
        [*program, "--gpus", "0", "--cpus", "1", "--no-confirm", *more], cwd=folder, env=narrow_environment()
    )


def results(photos: Path) -> tuple[Path, dict[str, Any]]:
    """The folder, and what the journal says of the images."""
    folder = photos.parent / "results" / "copied"
    state = ExperimentState.read(folder / "journal.jsonl")
    assert state.header is not None
    assert {t.status for t in state.trials.values()} == {"completed"}
    return folder, state.header.data


def test_by_default_they_are_told_before_anything_trains_and_recorded(photos: Path) -> None:
    done = search(photos)
    assert done.returncode == 0, done.stdout + done.stderr
    told = " ".join(done.stdout.split())
    assert "classes: forest, sea training images: train; test images: test" in told
    assert f"identical images: {LEAK} (" in told
    assert "1 image occurs in more than one class (test/forest/y.png (forest) = train/sea/2.png" in told
    assert "--set data.duplicates=group keeps all copies of an image on one side" in told
    assert "nearly identical images: 2 of 10 test images" in told
    assert told.index("identical images") < told.index("baseline-0000")

    folder, data = results(photos)
    assert data["duplicates"]["setting"] == "warn"
    assert data["duplicates"]["identical"]["counts"]["train-test"] == 2
    assert json.loads(pq.read_schema(folder / "trials.parquet").metadata[b"tune_swa.data"]) == data
    log = (folder / "search.log").read_text()
    assert NAMED in log
    assert "z3.jpg ~ " in log
    page = (folder / "report.html").read_text()
    assert '<section id="duplicates">' in page
    assert "4 of 10 test images are among the training images, too" in page
    assert "2 of 10" in page
    assert page.count('<img src="data:image/png;base64,') >= 2 * 5

    plan = search(photos, "--dry-run")
    assert plan.returncode == 0
    assert LEAK in " ".join(plan.stdout.split())

    # a search goes on with a setting that leaves the division as it is, and with no other
    refused = search(photos, "--resume", "--set", "data.duplicates=group")
    assert refused.returncode == 2
    assert "data.duplicates: was not set, is 'group'" in refused.stderr
    assert search(photos, "--resume", "--set", "data.duplicates=warn").returncode == 0


def test_error_trains_nothing(photos: Path) -> None:
    plan = search(photos, "--dry-run", "--set", "data.duplicates=error")
    assert "duplicates" not in plan.stdout  # not decoded yet
    refused = search(photos, "--set", "data.duplicates=error")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: photos: images occur more than once")
    assert LEAK in refused.stderr
    assert NAMED in refused.stderr
    assert "--set data.duplicates=group" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (photos.parent / "results").exists()
    plan = search(photos, "--dry-run", "--set", "data.duplicates=error")
    assert "the search refuses them" in " ".join(plan.stdout.split())


def test_group_trains_on_no_copy_of_a_test_image(photos: Path) -> None:
    done = search(photos, "--set", "data.duplicates=group")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "images left out: 4 of the training images" in " ".join(done.stdout.split())
    folder, data = results(photos)
    assert data["train"] + data["val"] == 20 - 4
    assert data["test"] == 10
    found = data["duplicates"]
    assert found["left_out"]["counts"] == {"train-test": 4}
    assert not {"train-test", "val-test", "train-val"} & {
        *found["identical"]["counts"],
        *found["near"]["counts"],
    }
    assert "kept on one side of each split" in (folder / "report.html").read_text()
    resumed = search(photos, "--resume")
    assert resumed.returncode == 2
    assert "data.duplicates: was 'group', is not set" in resumed.stderr
