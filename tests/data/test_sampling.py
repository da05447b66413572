"""A few images of each class and part, decoded as the whole set would be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helpers.drawn_images import draw_tree, folder_spec
from tune_swa.config import DataSpec
from tune_swa.data import sampling
from tune_swa.data.dataset import prepare_dataset
from tune_swa.data.sampling import sample_images, write_sample
from tune_swa.data.sources import Part
from tune_swa.errors import RequestError


def test_a_small_set_is_decoded_whole_and_pixel_by_pixel_the_same(tmp_path: Path) -> None:
    draw_tree(tmp_path, {".": 10})
    sample = sample_images(folder_spec(), tmp_path)
    whole = prepare_dataset(folder_spec(), tmp_path)
    assert (len(sample.labels), sample.found, sample.classes) == (30, 30, 3)
    assert sample.class_names == whole.class_names
    assert sample.seconds_per_image > 0
    for part, rows in zip(Part, (whole.train, whole.val, whole.test), strict=True):
        for label in range(3):
            expected = {whole.images[r].tobytes() for r in rows if whole.labels[r] == label}
            found = (sample.parts == part) & (sample.labels == label)
            assert {image.tobytes() for image in sample.images[found]} == expected


def test_the_images_that_are_written_are_read_as_the_same_parts_and_pixels(tmp_path: Path) -> None:
    draw_tree(tmp_path / "photos", {"train": 6, "val": 3, "test": 4})
    sample = sample_images(folder_spec(), tmp_path / "photos")
    rows = [
        row for part, count in zip(Part, (7, 1, 3), strict=True) for row in sample.choose_rows(part, count)
    ]
    write_sample(sample, rows, tmp_path / "few", named=True)
    read = prepare_dataset(folder_spec(layout="parts"), tmp_path / "few")
    assert read.class_names == ("forest", "sea", "street")
    # 7 of 3 classes are 3 of each; at least one of each
    assert [len(part) for part in (read.train, read.val, read.test)] == [9, 3, 3]
    assert {read.images[row].tobytes() for row in range(15)} == {sample.images[row].tobytes() for row in rows}


def test_a_damaged_image_gets_the_message_of_the_search(tmp_path: Path) -> None:
    draw_tree(tmp_path, {".": 8})
    (tmp_path / "sea" / "3.jpg").write_bytes(b"no image")
    with pytest.raises(RequestError) as of_search:
        prepare_dataset(folder_spec(), tmp_path)
    with pytest.raises(RequestError) as of_sample:
        sample_images(folder_spec(), tmp_path)
    assert str(of_sample.value) == str(of_search.value)
    skipping = sample_images(folder_spec(unreadable="skip"), tmp_path)
    assert len(skipping.labels) == 23


def test_a_class_with_too_few_images_gets_the_message_of_the_search(tmp_path: Path) -> None:
    draw_tree(tmp_path, {".": 8})
    for number in range(1, 8):
        (tmp_path / "sea" / f"{number}.jpg").unlink()
    with pytest.raises(RequestError) as of_search:
        prepare_dataset(folder_spec(), tmp_path)
    with pytest.raises(RequestError) as of_sample:
        sample_images(folder_spec(), tmp_path)
    assert str(of_sample.value) == str(of_search.value)


def test_of_a_large_set_a_few_of_each_class_and_part_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "MOST_IMAGES", 70)
    monkeypatch.setattr(sampling, "FEWEST", 30)
    spec = DataSpec.model_validate({"dataset": "digits", "image_size": 8})
    sample = sample_images(spec)
    assert (len(sample.labels), sample.found) == (60, 1797)
    for part in Part:
        counts = np.bincount(sample.labels[sample.parts == part], minlength=10)
        assert counts.tolist() == [2] * 10
    fewer = sample.keep_classes(4)
    assert fewer.class_names == ("0", "1", "2", "3")
    assert len(fewer.labels) == 24


def test_of_very_many_classes_some_are_sampled(tmp_path: Path) -> None:
    names = tuple(f"class{number:03d}" for number in range(100))
    draw_tree(tmp_path, {"train": 1, "val": 1, "test": 1}, names)
    sample = sample_images(folder_spec(), tmp_path)
    assert (len(sample.class_names), sample.classes) == (sampling.MOST_CLASSES, 100)
    assert sample.class_names[0] == "class000"
    assert sample.class_names[-1] == "class099"


def test_a_part_without_a_class_is_lent_an_image_of_it(tmp_path: Path) -> None:
    """Where a search goes on without one, so does its rehearsal."""
    draw_tree(tmp_path, {"train": 6, "val": 2, "test": 2})
    for damaged in (tmp_path / "val" / "sea").iterdir():
        damaged.write_bytes(b"no image")
    spec = folder_spec(unreadable="skip")
    assert len(prepare_dataset(spec, tmp_path).val) == 4
    sample = sample_images(spec, tmp_path)
    assert (sample.decoded, sample.found, len(sample.labels)) == (28, 30, 29)
    lent = sample.images[(sample.parts == Part.VAL) & (sample.labels == 1)]
    train = sample.images[(sample.parts == Part.TRAIN) & (sample.labels == 1)]
    assert any((lent[0] == image).all() for image in train)
    for damaged in (*(tmp_path / "train" / "sea").iterdir(), *(tmp_path / "test" / "sea").iterdir()):
        damaged.write_bytes(b"no image")
    with pytest.raises(RequestError, match=r"of 1 classes none .* Give --set data.unreadable=error"):
        sample_images(spec, tmp_path)


def test_of_large_images_no_more_are_decoded_than_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "MOST_BYTES", 70 * 3 * 16**2)
    monkeypatch.setattr(sampling, "FEWEST", 30)
    spec = DataSpec.model_validate({"dataset": "digits", "image_size": 16})
    assert sample_images(spec).decoded == 60
    monkeypatch.setattr(sampling, "MOST_BYTES", 1)
    assert sample_images(spec).decoded == 30
