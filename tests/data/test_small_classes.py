"""Classes of few images: what a division needs is said in numbers, and what it leaves out is named."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from helpers.drawn_images import draw_tree, folder_spec
from tune_swa.config import DataSpec, Experiment
from tune_swa.data.dataset import estimate_dataset, prepare_dataset
from tune_swa.data.sources import Part
from tune_swa.data.splits import Division, divide_images
from tune_swa.errors import RequestError
from tune_swa.execution.dry_run import make_plan
from tune_swa.execution.plan_table import print_plan
from tune_swa.execution.slots import Machine


def divide_classes(classes: int, images: int, **fractions: float) -> Division:
    labels = np.repeat(np.arange(classes), images)
    return divide_images(labels, np.full(len(labels), Part.TRAIN, dtype=np.int8), DataSpec(**fractions))


@pytest.mark.parametrize(
    ("classes", "images", "fractions"),
    [
        (1200, 5, {}),
        (100, 8, {"test_fraction": 0.05}),
        (100, 8, {"test_fraction": 0.9}),
        (10, 4, {"test_fraction": 0.25, "val_fraction": 0.2}),
        (1200, 3, {}),
        (9, 3, {"test_fraction": 0.2}),
        (7, 13, {"test_fraction": 0.01, "val_fraction": 0.01}),
    ],
)
def test_the_fractions_that_are_advised_can_be_given(
    classes: int, images: int, fractions: dict[str, float]
) -> None:
    """At each end of the range, for the test images first, then for the validation images."""
    for end in (0, 1):
        given = dict(fractions)
        for _ in range(2):
            try:
                division = divide_classes(classes, images, **given)
            except RequestError as error:
                message = str(error)
                found = re.search(r"(data\.(\w+)): .* so it has to be from ([\d.]+) to ([\d.]+)\. ", message)
                assert found, message
                assert "test_size" not in message  # scikit-learn's own words
                given[found[2]] = float(found.group(3 + end))
        assert given != fractions
        division = divide_classes(classes, images, **given)
        labels = np.repeat(np.arange(classes), images)
        for rows in (division.train, division.val, division.test):
            assert set(labels[rows]) == set(range(classes))


def test_where_no_fraction_does_images_are_asked_for() -> None:
    message = r"class 0 has 2; .*and 40 more\. At least 3 images of each class are needed\. Add images"
    with pytest.raises(RequestError, match=message):
        divide_classes(50, 2)


def draw_small_class(folder: Path) -> DataSpec:
    draw_tree(folder, {"all": 40})
    small = sorted((folder / "all").iterdir())[0]
    for file in sorted(small.iterdir())[3:]:
        file.unlink()
    return folder_spec(test_fraction=0.05, val_fraction=0.05)


def test_a_class_that_a_drawn_part_lacks_is_named_before_training(tmp_path: Path) -> None:
    spec = draw_small_class(tmp_path)
    estimate, data = estimate_dataset(spec, tmp_path), prepare_dataset(spec, tmp_path)
    small = data.class_names[0]
    lacking = [
        what for what, rows in (("validate", data.val), ("test", data.test)) if 0 not in data.labels[rows]
    ]
    assert lacking
    notes = [f"no images to {what} with in {small}: no accuracy covers that" for what in lacking]
    assert [note for note in data.folder_notes if note.startswith("no images")] == notes
    assert estimate.folder_notes == data.folder_notes
    space = {"lr": 1e-3, "swa_start": 5, "swa_lr": 1e-3}
    plan = make_plan(Experiment(name="x", data=spec, space=space), tmp_path, machine=Machine(gpus=0, cpus=2))
    console = Console(width=200, record=True, quiet=False)
    with console.capture() as shown:
        print_plan(console, plan)
    assert notes[0] in shown.get()


def test_parts_with_every_class_have_no_note(tmp_path: Path) -> None:
    draw_tree(tmp_path, {"train": 6, "test": 2})
    assert not any(
        note.startswith("no images") for note in prepare_dataset(folder_spec(), tmp_path).folder_notes
    )
