"""torchvision's sets: its own reading code on small files that the tests write, and no network."""

from __future__ import annotations

import gzip
import shutil
import struct
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torchvision

from helpers.drawn_images import draw
from tune_swa.config import DataSpec
from tune_swa.data.cache import cache_folder
from tune_swa.data.dataset import estimate_dataset, prepare_dataset
from tune_swa.data.source_lookup import find_source
from tune_swa.data.sources import Part
from tune_swa.data.torchvision_sets import SETS, TorchvisionSet
from tune_swa.errors import RequestError


def without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("Temporary failure in name resolution")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def write_idx(path: Path, array: np.ndarray) -> None:
    """The format of MNIST's files."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    with gzip.open(path, "wb") as file:
        file.write(header + array.astype(np.uint8).tobytes())


def test_a_set_of_torchvisions_from_small_files(tmp_path: Path) -> None:
    """The real loading code on files of MNIST's format that the test writes."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    images = {"train": rng.integers(0, 255, (60, 28, 28)), "t10k": rng.integers(0, 255, (20, 28, 28))}
    for name, array in images.items():
        for what, content in (("images-idx3", array), ("labels-idx1", np.arange(len(array)) % 10)):
            write_idx(raw / f"{name}-{what}-ubyte.gz", content)
            with gzip.open(raw / f"{name}-{what}-ubyte.gz") as packed:
                (raw / f"{name}-{what}-ubyte").write_bytes(packed.read())
    before = estimate_dataset(DataSpec(dataset="mnist", image_size=28), tmp_path)
    assert (before.train, before.val, before.test) == (48, 12, 20)  # of what is there
    data = prepare_dataset(DataSpec(dataset="mnist", image_size=28), tmp_path)
    assert data.class_names[3] == "3 - three"
    assert data.num_classes == 10
    assert (len(data.train), len(data.val), len(data.test)) == (48, 12, 20)
    np.testing.assert_array_equal(data.images[:60, ..., 0], images["train"])
    np.testing.assert_array_equal(data.images[60:, ..., 2], images["t10k"])
    shutil.rmtree(raw)  # decoded once: the files are not needed again
    assert prepare_dataset(DataSpec(dataset="mnist", image_size=28), tmp_path).fingerprint == data.fingerprint


def test_a_set_of_class_folders_without_a_test_part(tmp_path: Path) -> None:
    for label in ("AnnualCrop", "Forest"):
        for i in range(20):
            draw(tmp_path / "eurosat" / "2750" / label / f"{label}_{i}.jpg", seed=i, size=(64, 64))
    data = prepare_dataset(DataSpec(dataset="eurosat", image_size=16), tmp_path)
    assert data.class_names == ("AnnualCrop", "Forest")
    assert len(data.test) == 10


def test_a_set_with_names_of_its_own_for_labels(tmp_path: Path) -> None:
    for label in ("airplanes", "ant"):
        for i in range(10):
            folder = tmp_path / "caltech101" / "101_ObjectCategories"
            draw(folder / label / f"image_{i + 1:04}.jpg", seed=i, mode="L")
    (folder / "BACKGROUND_Google").mkdir()
    data = prepare_dataset(DataSpec(dataset="caltech101", image_size=16), tmp_path)
    assert data.class_names == ("airplanes", "ant")
    np.testing.assert_array_equal(data.labels, np.repeat([0, 1], 10))


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "flowers102"])
def test_without_a_network_the_message_says_what_to_do(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_network(monkeypatch)
    message = (
        rf"{name} could not be downloaded to {tmp_path} or read there \(.*copy its folder, and give that "
        "with --data-dir"
    )
    with pytest.raises(RequestError, match=message):
        prepare_dataset(DataSpec(dataset=name), tmp_path)


def test_a_damaged_file_is_answered_likewise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_network(monkeypatch)
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        for what in ("images-idx3", "labels-idx1"):
            (raw / f"{part}-{what}-ubyte").write_bytes(b"torn")
    with pytest.raises(RequestError, match="mnist could not be downloaded to"):
        prepare_dataset(DataSpec(dataset="mnist"), tmp_path)


@pytest.mark.parametrize("name", sorted(SETS))
def test_an_estimate_downloads_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        pytest.fail("tried to download")

    monkeypatch.setattr(urllib.request, "urlopen", fail)
    found = estimate_dataset(DataSpec(dataset=name, image_size=8), tmp_path)
    entry = SETS[name]
    assert found.num_classes == entry.classes
    assert not found.cached
    total = sum(part.count for part in entry.parts.values())
    assert found.train + found.val + found.test == total
    assert found.cache_bytes == total * 8 * 8 * 3
    if Part.TEST in entry.parts:
        assert found.test == entry.parts[Part.TEST].count
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_every_set_names_a_class_of_torchvisions() -> None:
    for name, entry in SETS.items():
        assert hasattr(torchvision.datasets, entry.class_name), name
        assert Part.TRAIN in entry.parts
    assert find_source(DataSpec(dataset="cifar10")).name == "cifar10"


def test_downloads_lie_in_the_cache_unless_a_folder_is_given(tmp_path: Path) -> None:
    for folder, expected in ((None, cache_folder() / "downloads"), (tmp_path, tmp_path)):
        source = find_source(DataSpec(dataset="cifar10"), folder)
        assert isinstance(source, TorchvisionSet)
        assert source.folder == expected
