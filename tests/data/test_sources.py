"""Sources and divisions: what is found where, and what every mistake is answered with."""

from __future__ import annotations

import gzip
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image

from tune_swa.data import cache
from tune_swa.data.dataset import estimate, prepare
from tune_swa.data.sources import Part, find_source
from tune_swa.data.splits import divide
from tune_swa.errors import RequestError
from tune_swa.spec import DataSpec

CLASSES = ("forest", "sea", "street")


def draw(path: Path, seed: int = 0, size: tuple[int, int] = (20, 14), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).convert(mode)
    image.save(path)


def draw_tree(root: Path, folders: dict[str, int], classes: tuple[str, ...] = CLASSES) -> None:
    """`folders` says how many images each class has in each folder."""
    for folder, count in folders.items():
        for label in classes:
            for i in range(count):
                draw(root / folder / label / f"{i}.jpg", seed=i)


def folder_spec(**changes: object) -> DataSpec:
    return DataSpec.model_validate({"dataset": "folder", "image_size": 16, **changes})


# ------------------------------------------------------------------------------------------ digits


def test_digits_are_the_real_ones() -> None:
    from sklearn.datasets import load_digits

    data = prepare(DataSpec(image_size=8))
    assert data.images.shape == (1797, 8, 8, 3)
    expected = np.rint(load_digits().images * 255 / 16)
    for channel in range(3):
        np.testing.assert_array_equal(data.images[..., channel], expected)
    np.testing.assert_array_equal(data.labels, load_digits().target)
    assert data.class_names == tuple("0123456789")


# ----------------------------------------------------------------------------------------- layouts


@pytest.mark.parametrize(
    ("train", "test"),
    [("train", "test"), ("seg_train/seg_train", "seg_test/seg_test"), ("seg_train", "seg_test")],
)
@pytest.mark.parametrize("above", ["", "archive"])
def test_layouts_are_found_by_themselves(train: str, test: str, above: str, tmp_path: Path) -> None:
    draw_tree(tmp_path / above, {train: 5, test: 2})
    if train.startswith("seg"):
        draw(tmp_path / above / "seg_pred" / "seg_pred" / "1.jpg")
    data = prepare(folder_spec(), tmp_path)
    assert data.class_names == CLASSES
    assert (len(data.train), len(data.val), len(data.test)) == (12, 3, 6)
    # rows, order and classes are ImageFolder's
    reference = torchvision.datasets.ImageFolder(str(tmp_path / above / train))
    assert reference.classes == list(data.class_names)
    np.testing.assert_array_equal(data.labels[:15], reference.targets)


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_validation_folder_is_taken_as_it_is(name: str, tmp_path: Path) -> None:
    draw_tree(tmp_path, {"train": 4, name: 3, "test": 2})
    data = prepare(folder_spec(), tmp_path)
    assert (len(data.train), len(data.val), len(data.test)) == (12, 9, 6)
    assert set(np.bincount(data.labels[data.val])) == {3}


@pytest.mark.parametrize("folder", [".", "train"])
def test_without_test_images_some_are_held_out(folder: str, tmp_path: Path) -> None:
    draw_tree(tmp_path, {folder: 20})
    data = prepare(folder_spec(test_fraction=0.25, val_fraction=0.2), tmp_path)
    assert (len(data.train), len(data.val), len(data.test)) == (36, 9, 15)


def test_hidden_and_other_files_are_left_out(tmp_path: Path) -> None:
    draw_tree(tmp_path, {"train": 5, "test": 2})
    (tmp_path / "train" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "train" / ".cache").mkdir()
    (tmp_path / "train" / "sea" / "notes.txt").write_text("x")
    (tmp_path / "train" / "sea" / "._0.jpg").write_bytes(b"x")
    draw(tmp_path / "train" / "sea" / "below" / "9.PNG")  # ImageFolder walks down too
    data = prepare(folder_spec(), tmp_path)
    assert len(data.train) + len(data.val) == 16


def test_the_path_of_the_space_file_and_of_the_option(tmp_path: Path) -> None:
    draw_tree(tmp_path / "a", {"train": 5, "test": 2})
    draw_tree(tmp_path / "b", {"train": 6, "test": 2})
    spec = folder_spec(path=str(tmp_path / "a"))
    assert len(prepare(spec).labels) == 21
    assert len(prepare(spec, tmp_path / "b").labels) == 24


# ---------------------------------------------------------------------------------------- mistakes


def test_no_folder_is_answered_with_where_the_set_comes_from() -> None:
    message = r"--data-dir DIR.*puneet6060/intel-image-classification.*train/CLASS.*seg_train/seg_train"
    with pytest.raises(RequestError, match=message):
        prepare(folder_spec())
    with pytest.raises(RequestError, match=r"/nowhere: no such folder.*puneet6060"):
        prepare(folder_spec(), Path("/nowhere"))


def test_a_file_instead_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    with pytest.raises(RequestError, match="is a file, expected a folder"):
        prepare(folder_spec(), tmp_path / "x")


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(RequestError, match="no images were found in folders of classes"):
        prepare(folder_spec(), tmp_path)


def test_an_empty_class_is_named(tmp_path: Path) -> None:
    draw_tree(tmp_path, {"train": 5, "test": 2})
    for path in (tmp_path / "test" / "sea").iterdir():
        path.unlink()
    with pytest.raises(RequestError, match=r"test: no images .* in sea"):
        prepare(folder_spec(), tmp_path)


def test_classes_that_differ_are_named(tmp_path: Path) -> None:
    draw_tree(tmp_path, {"train": 5, "test": 2})
    (tmp_path / "test" / "sea").rename(tmp_path / "test" / "ocean")
    with pytest.raises(RequestError, match=r"its classes differ .*sea missing; ocean not in train"):
        prepare(folder_spec(), tmp_path)


def test_one_class_is_not_enough(tmp_path: Path) -> None:
    draw_tree(tmp_path, {"train": 5}, ("sea",))
    with pytest.raises(RequestError, match="at least two classes, found sea"):
        prepare(folder_spec(), tmp_path)


def test_too_few_images_for_a_division(tmp_path: Path) -> None:
    draw_tree(tmp_path, {"train": 1, "test": 1})
    with pytest.raises(RequestError, match=r"data\.val_fraction.*smallest class has 1"):
        prepare(folder_spec(), tmp_path)


@pytest.mark.parametrize("content", [b"", b"no image", b"\xff\xd8\xff\xe0 torn"])
def test_images_that_cannot_be_decoded_are_told_together(content: bytes, tmp_path: Path) -> None:
    draw_tree(tmp_path, {"train": 20, "test": 2})
    for i in range(12):
        (tmp_path / "train" / "sea" / f"{i}.jpg").write_bytes(content)
    with pytest.raises(
        RequestError, match=r"12 of 66 images cannot be decoded(?s:.*)0\.jpg(?s:.*)and 2 more"
    ):
        prepare(folder_spec(), tmp_path)
    assert not list(cache.cache_folder().glob(".*"))  # nothing is left half done


def test_an_unknown_set() -> None:
    with pytest.raises(RequestError, match=r"no set is called 'cifar'.*Did you mean cifar10\?"):
        prepare(DataSpec(dataset="cifar"))


# --------------------------------------------------------------------------------------- divisions


def test_divisions_are_stratified_disjoint_whole_and_repeatable() -> None:
    spec = DataSpec(image_size=8, test_fraction=0.25, val_fraction=0.2, split_seed=4)
    data, again = prepare(spec), prepare(spec)
    rows = np.concatenate([data.train, data.val, data.test])
    assert sorted(rows) == list(range(1797))
    for part, share in ((data.test, 0.25), (data.val, 0.15), (data.train, 0.6)):
        counts = np.bincount(data.labels[part]) / np.bincount(data.labels)
        np.testing.assert_allclose(counts, share, atol=0.01)
        assert list(part) == sorted(part)
    assert data.fingerprint == again.fingerprint
    other = prepare(spec.model_copy(update={"split_seed": 5}))
    assert other.fingerprint != data.fingerprint
    assert set(other.test) != set(data.test)


def test_train_images_takes_evenly_and_leaves_the_other_parts_alone() -> None:
    whole = prepare(DataSpec(image_size=8))
    part = prepare(DataSpec(image_size=8, train_images=200))
    assert len(part.train) == 200
    assert set(part.train) <= set(whole.train)
    np.testing.assert_allclose(np.bincount(part.labels[part.train]), 20, atol=1)
    np.testing.assert_array_equal(part.val, whole.val)
    np.testing.assert_array_equal(part.test, whole.test)
    assert part.fingerprint != whole.fingerprint


@pytest.mark.parametrize(
    ("count", "message"), [(5000, "only 1077 training images"), (5, "at least one for each class")]
)
def test_impossible_numbers_of_train_images(count: int, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        prepare(DataSpec(image_size=8, train_images=count))


def test_parts_that_the_set_brings_are_kept() -> None:
    labels = np.arange(60) % 2
    parts = np.repeat([Part.TRAIN, Part.VAL, Part.TEST], 20).astype(np.int8)
    division = divide(labels, parts, DataSpec())
    np.testing.assert_array_equal(division.train, np.arange(20))
    np.testing.assert_array_equal(division.val, np.arange(20, 40))
    np.testing.assert_array_equal(division.test, np.arange(40, 60))


def test_an_estimate_is_what_preparing_gives(tmp_path: Path) -> None:
    draw_tree(tmp_path, {"train": 5, "test": 2})
    before = estimate(folder_spec(), tmp_path)
    data = prepare(folder_spec(), tmp_path)
    after = estimate(folder_spec(), tmp_path)
    assert (before.cached, after.cached) == (False, True)
    for found in (before, after):
        assert (found.train, found.val, found.test) == (len(data.train), len(data.val), len(data.test))
        assert found.cache_bytes == data.images.nbytes
        assert found.num_classes == 3


# ------------------------------------------------------------------------------- torchvision's sets


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
    data = prepare(DataSpec(dataset="mnist", image_size=28), tmp_path)
    assert data.num_classes == 10
    assert (len(data.train), len(data.val), len(data.test)) == (48, 12, 20)
    np.testing.assert_array_equal(data.images[:60, ..., 0], images["train"])
    np.testing.assert_array_equal(data.images[60:, ..., 2], images["t10k"])
    shutil.rmtree(raw)  # decoded once: the files are not needed again
    assert prepare(DataSpec(dataset="mnist", image_size=28), tmp_path).fingerprint == data.fingerprint


def test_a_set_of_class_folders_without_a_test_part(tmp_path: Path) -> None:
    for label in ("AnnualCrop", "Forest"):
        for i in range(20):
            draw(tmp_path / "eurosat" / "2750" / label / f"{label}_{i}.jpg", seed=i, size=(64, 64))
    data = prepare(DataSpec(dataset="eurosat", image_size=16), tmp_path)
    assert data.class_names == ("AnnualCrop", "Forest")
    assert len(data.test) == 10


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "flowers102"])
def test_without_a_network_the_message_says_what_to_do(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import urllib.request

    def refuse(*_: object, **__: object) -> None:
        raise OSError("Temporary failure in name resolution")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    message = (
        rf"{name} could not be downloaded to {tmp_path} \(.*copy its folder, and give that with --data-dir"
    )
    with pytest.raises(RequestError, match=message):
        prepare(DataSpec(dataset=name), tmp_path)


def test_every_set_names_a_class_of_torchvisions() -> None:
    from tune_swa.data.torchvision_sets import SETS

    for name, entry in SETS.items():
        assert hasattr(torchvision.datasets, entry.class_name), name
        assert Part.TRAIN in entry.parts
    assert find_source(DataSpec(dataset="cifar10")).name == "cifar10"
