"""Divisions: stratified, disjoint, whole, and a function of the labels and the settings alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helpers.drawn_images import draw_tree, folder_spec
from tune_swa.config import DataSpec
from tune_swa.data.dataset import estimate_dataset, prepare_dataset
from tune_swa.data.sources import Part
from tune_swa.data.splits import divide_images
from tune_swa.errors import RequestError


def test_divisions_are_stratified_disjoint_whole_and_repeatable() -> None:
    spec = DataSpec(image_size=8, test_fraction=0.25, val_fraction=0.2, split_seed=4)
    data, again = prepare_dataset(spec), prepare_dataset(spec)
    rows = np.concatenate([data.train, data.val, data.test])
    assert sorted(rows) == list(range(1797))
    for part, share in ((data.test, 0.25), (data.val, 0.15), (data.train, 0.6)):
        counts = np.bincount(data.labels[part]) / np.bincount(data.labels)
        np.testing.assert_allclose(counts, share, atol=0.01)
        assert list(part) == sorted(part)
    assert data.fingerprint == again.fingerprint
    other = prepare_dataset(spec.model_copy(update={"split_seed": 5}))
    assert other.fingerprint != data.fingerprint
    assert set(other.test) != set(data.test)


def test_train_images_takes_evenly_and_leaves_the_other_parts_alone() -> None:
    whole = prepare_dataset(DataSpec(image_size=8))
    part = prepare_dataset(DataSpec(image_size=8, train_images=200))
    assert len(part.train) == 200
    assert set(part.train) <= set(whole.train)
    np.testing.assert_allclose(np.bincount(part.labels[part.train]), 20, atol=1)
    np.testing.assert_array_equal(part.val, whole.val)
    np.testing.assert_array_equal(part.test, whole.test)
    assert part.fingerprint != whole.fingerprint


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (5000, "only 1077 training images"),
        (5, "Ask for 10 to 1067, or leave it out"),
        (1070, "Ask for 10 to 1067, or leave it out"),
    ],
)
def test_impossible_numbers_of_train_images(count: int, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        prepare_dataset(DataSpec(image_size=8, train_images=count))


def test_parts_that_the_set_brings_are_kept() -> None:
    labels = np.arange(60) % 2
    parts = np.repeat([Part.TRAIN, Part.VAL, Part.TEST], 20).astype(np.int8)
    division = divide_images(labels, parts, DataSpec())
    np.testing.assert_array_equal(division.train, np.arange(20))
    np.testing.assert_array_equal(division.val, np.arange(20, 40))
    np.testing.assert_array_equal(division.test, np.arange(40, 60))


def test_an_estimate_is_what_preparing_gives(tmp_path: Path) -> None:
    draw_tree(tmp_path, {"train": 5, "test": 2})
    before = estimate_dataset(folder_spec(), tmp_path)
    data = prepare_dataset(folder_spec(), tmp_path)
    after = estimate_dataset(folder_spec(), tmp_path)
    assert (before.cached, after.cached) == (False, True)
    for found in (before, after):
        assert (found.train, found.val, found.test) == (len(data.train), len(data.val), len(data.test))
        assert found.cache_bytes == data.images.nbytes
        assert found.num_classes == 3


def test_a_class_of_one_image_cannot_be_drawn_from() -> None:
    labels = np.array([0] * 10 + [1])
    parts = np.full(11, Part.TRAIN, dtype=np.int8)
    with pytest.raises(RequestError, match=r"data\.test_fraction: 0\.25 of 11 .*smallest class has 1"):
        divide_images(labels, parts, DataSpec())
    # with the other parts given, only train_images draws
    labels, parts = np.r_[labels, 0, 1, 0, 1], np.r_[parts, 1, 1, 2, 2].astype(np.int8)
    with pytest.raises(RequestError, match=r"data\.train_images: 5 of 11 .*Add images to the smallest"):
        divide_images(labels, parts, DataSpec(train_images=5))
    assert len(divide_images(labels, parts, DataSpec(train_images=11)).train) == 11
