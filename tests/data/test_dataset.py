"""Datasets: how they travel, from what arrays they are made, and with what they are normalised."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tune_swa.config import DataSpec
from tune_swa.data import normalization
from tune_swa.data.dataset import Dataset, prepare_dataset
from tune_swa.errors import RequestError

DIGITS = DataSpec(image_size=8)


def test_a_dataset_travels_by_reference(tiny_data: Dataset) -> None:
    data = prepare_dataset(DIGITS)
    packed = pickle.dumps(data)
    assert len(packed) < 40_000 < data.images.nbytes  # labels and rows travel
    again = pickle.loads(packed)
    assert isinstance(again.images, np.memmap)
    np.testing.assert_array_equal(again.images, data.images)
    assert again.fingerprint == data.fingerprint
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(tiny_data)).images, tiny_data.images)


def test_a_reference_to_images_that_are_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUNE_SWA_CACHE", str(tmp_path))
    packed = pickle.dumps(prepare_dataset(DIGITS))
    shutil.rmtree(tmp_path)
    with pytest.raises(RequestError, match=r"have gone.*Prepare it again"):
        pickle.loads(packed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((6, 8, 8, 3))}, r"images: expected .* uint8, got .* float64"),
        ({"images": np.zeros((6, 3, 8, 8), dtype=np.uint8)}, r"images: expected \[N, H, W, 3\]"),
        ({"labels": [0, 1]}, "labels: expected one for each of 6 images"),
        ({"labels": [0, 1, 2, 0, 1, 2]}, "labels: expected 0 to 1, got 0 to 2"),
        ({"train": [0, 6]}, "train: expected 0 to 5, got 0 to 6"),
        ({"test": [-1]}, "test: expected 0 to 5, got -1 to -1"),
    ],
)
def test_arrays_that_do_not_fit_together(change: dict[str, Any], message: str) -> None:
    arrays: dict[str, Any] = {
        "images": np.zeros((6, 8, 8, 3), dtype=np.uint8),
        "labels": [0, 1] * 3,
        "train": [0, 1],
        "val": [2, 3],
        "test": [4, 5],
        "class_names": ("a", "b"),
    }
    assert Dataset.from_arrays(**arrays).num_classes == 2
    with pytest.raises(ValueError, match=message):
        Dataset.from_arrays(**{**arrays, **change})


def test_fingerprints_tell_datasets_apart(tiny_data: Dataset) -> None:
    def fingerprint(**changes: Any) -> str:
        arrays = {n: getattr(tiny_data, n) for n in ("images", "labels", "train", "val", "test")}
        return Dataset.from_arrays(**{**arrays, "class_names": ("a", "b", "c"), **changes}).fingerprint

    assert fingerprint() == fingerprint() == tiny_data.fingerprint
    # a row that moves from one part to the next leaves all rows in the same order
    moved = {"train": tiny_data.train[:-1], "val": np.r_[tiny_data.train[-1:], tiny_data.val]}
    changes: tuple[dict[str, Any], ...] = (
        moved,
        {"images": 255 - tiny_data.images},
        {"labels": tiny_data.labels[::-1]},
        {"class_names": ("a", "b", "d")},
    )
    assert len({fingerprint(), *(fingerprint(**change) for change in changes)}) == 5


def test_normalisation_takes_part_in_the_fingerprint() -> None:
    kinds = ("none", "imagenet", "dataset")
    data = [prepare_dataset(DIGITS.model_copy(update={"normalize": kind})) for kind in kinds]
    assert len({d.fingerprint for d in data}) == 3
    assert (data[0].mean, data[0].std) == ((0, 0, 0), (1, 1, 1))
    assert data[1].mean == (0.485, 0.456, 0.406)


def test_training_statistics_are_kept_and_rebuilt(
    tiny_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def statistics() -> tuple[np.ndarray, np.ndarray]:
        found = normalization.compute_statistics(tiny_data.images, tiny_data.train, tmp_path)
        return np.array(found[0]), np.array(found[1])

    pixels = tiny_data.images[tiny_data.train].reshape(-1, 3) / 255
    for _ in range(2):
        mean, std = statistics()
        np.testing.assert_allclose(mean, pixels.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(std, pixels.std(axis=0), rtol=1e-12)
        (file,) = tmp_path.iterdir()
        with monkeypatch.context() as patched:
            patched.setattr(normalization, "_count_values", None)  # would fail if anything were counted
            np.testing.assert_array_equal(statistics()[1], std)
        file.write_text("[1")  # damaged: counted again


def test_a_channel_of_one_value_is_not_divided_by_zero(tmp_path: Path) -> None:
    images = np.full((2, 8, 8, 3), 51, dtype=np.uint8)
    mean, std = normalization.compute_statistics(images, np.arange(2), tmp_path)
    assert mean == pytest.approx((0.2,) * 3)
    assert std == (1, 1, 1)
