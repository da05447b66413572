"""Digits and folders: what is found where, and what every mistake is answered with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torchvision

from helpers.drawn_images import CLASSES, draw, draw_tree, folder_spec
from tune_swa.config import DataSpec
from tune_swa.data import cache
from tune_swa.data.dataset import prepare_dataset
from tune_swa.data.source_lookup import find_source
from tune_swa.errors import RequestError

# ------------------------------------------------------------------------------------------ digits


def test_digits_are_the_real_ones() -> None:
    from sklearn.datasets import load_digits

    data = prepare_dataset(DataSpec(image_size=8))
    assert data.images.shape == (1797, 8, 8, 3)
    expected = np.rint(load_digits().images * 255 / 16)
    for channel in range(3):
        np.testing.assert_array_equal(data.images[..., channel], expected)
    np.testing.assert_array_equal(data.labels, load_digits().target)
    assert data.class_names == tuple("0123456789")


# ----------------------------------------------------------------------------------------- layouts


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "test"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("seg_train", "seg_test"),
        ("Train", "Test"),
    ],
)
@pytest.mark.parametrize("above", ["", "archive"])
def test_layouts_are_found_by_themselves(train: str, test: str, above: str, tmp_path: Path) -> None:
    draw_tree(tmp_path / above, {train: 5, test: 2})
    if train.startswith("seg"):
        draw(tmp_path / above / "seg_pred" / "seg_pred" / "1.jpg")
    data = prepare_dataset(folder_spec(), tmp_path)
    assert data.class_names == CLASSES
    assert (len(data.train), len(data.val), len(data.test)) == (12, 3, 6)
    # rows, order and classes are ImageFolder's
    reference = torchvision.datasets.ImageFolder(str(tmp_path / above / train))
    assert reference.classes == list(data.class_names)
    np.testing.assert_array_equal(data.labels[:15], reference.targets)


def test_classes_alone_in_an_archives_folder(tmp_path: Path) -> None:
    draw_tree(tmp_path / "archive", {".": 10})
    assert prepare_dataset(folder_spec(), tmp_path).class_names == CLASSES


def test_order_is_imagefolders_below_classes_too(tmp_path: Path) -> None:
    for i, name in enumerate(("a/c/1.jpg", "a-b/1.jpg", "a/2.jpg", "0.jpg", "B/0.jpg", "a/10.jpg")):
        for label in ("x", "Y"):
            draw(tmp_path / "train" / label / name, seed=i)
            draw(tmp_path / "test" / label / name, seed=i)
    listing = find_source(folder_spec(), tmp_path).list_images()
    for start, part in ((0, "train"), (12, "test")):
        reference = torchvision.datasets.ImageFolder(str(tmp_path / part))
        assert [(listing.names(start + i), listing.labels[start + i]) for i in range(12)] == reference.samples


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_validation_folder_is_taken_as_it_is(name: str, tmp_path: Path) -> None:
    draw_tree(tmp_path, {"train": 4, name: 3, "test": 2})
    data = prepare_dataset(folder_spec(), tmp_path)
    assert (len(data.train), len(data.val), len(data.test)) == (12, 9, 6)
    assert set(np.bincount(data.labels[data.val])) == {3}


@pytest.mark.parametrize("folder", [".", "train"])
def test_without_test_images_some_are_held_out(folder: str, tmp_path: Path) -> None:
    draw_tree(tmp_path, {folder: 20})
    data = prepare_dataset(folder_spec(test_fraction=0.25, val_fraction=0.2), tmp_path)
    assert (len(data.train), len(data.val), len(data.test)) == (36, 9, 15)


def test_hidden_and_other_files_are_left_out(tmp_path: Path) -> None:
    draw_tree(tmp_path, {"train": 5, "test": 2})
    (tmp_path / "train" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "train" / ".cache").mkdir()
    (tmp_path / "train" / "sea" / "notes.txt").write_text("x")
    (tmp_path / "train" / "sea" / "._0.jpg").write_bytes(b"x")
    draw(tmp_path / "train" / "sea" / ".ipynb_checkpoints" / "0-checkpoint.jpg")
    draw(tmp_path / "train" / "sea" / "below" / "9.PNG")  # ImageFolder walks down too
    data = prepare_dataset(folder_spec(), tmp_path)
    assert len(data.train) + len(data.val) == 16


def test_the_path_of_the_space_file_and_of_the_option(tmp_path: Path) -> None:
    draw_tree(tmp_path / "a", {"train": 5, "test": 2})
    draw_tree(tmp_path / "b", {"train": 6, "test": 2})
    spec = folder_spec(path=str(tmp_path / "a"))
    assert len(prepare_dataset(spec).labels) == 21
    assert len(prepare_dataset(spec, tmp_path / "b").labels) == 24


# ---------------------------------------------------------------------------------------- mistakes


def test_no_folder_is_answered_with_where_the_set_comes_from() -> None:
    message = r"--data-dir DIR.*puneet6060/intel-image-classification.*train/CLASS.*seg_train/seg_train"
    with pytest.raises(RequestError, match=message):
        prepare_dataset(folder_spec())
    with pytest.raises(RequestError, match=r"/nowhere: no such folder.*puneet6060"):
        prepare_dataset(folder_spec(), Path("/nowhere"))


def test_training_images_in_two_places(tmp_path: Path) -> None:
    for name in ("old", "new"):
        draw_tree(tmp_path / name, {"train": 5, "test": 2})
    with pytest.raises(RequestError, match="new, old hold training images each; give one of them"):
        prepare_dataset(folder_spec(), tmp_path)


def test_no_training_images(tmp_path: Path) -> None:
    draw_tree(tmp_path, {"validation": 5, "test": 2})
    with pytest.raises(RequestError, match=r"holds validation, test, but no training images\. Expected"):
        prepare_dataset(folder_spec(), tmp_path)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    draw_tree(tmp_path, {"train": 5, "test": 2})
    (tmp_path / "train" / "sea" / "9.jpg").symlink_to(tmp_path / "gone.jpg")
    with pytest.raises(RequestError, match=r"9\.jpg \(No such file or directory"):
        prepare_dataset(folder_spec(), tmp_path)


def test_a_folder_for_digits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"digits come with scikit-learn.*data\.dataset to folder"):
        prepare_dataset(DataSpec(), tmp_path)


def test_a_file_instead_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    with pytest.raises(RequestError, match="is a file, expected a folder"):
        prepare_dataset(folder_spec(), tmp_path / "x")


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(RequestError, match="no images were found in folders of classes"):
        prepare_dataset(folder_spec(), tmp_path)


def test_an_empty_class_is_named(tmp_path: Path) -> None:
    draw_tree(tmp_path, {"train": 5, "test": 2})
    for path in (tmp_path / "test" / "sea").iterdir():
        path.unlink()
    with pytest.raises(RequestError, match=r"test: no images .* in sea"):
        prepare_dataset(folder_spec(), tmp_path)


def test_classes_that_differ_are_named(tmp_path: Path) -> None:
    draw_tree(tmp_path, {"train": 5, "test": 2})
    (tmp_path / "test" / "sea").rename(tmp_path / "test" / "ocean")
    with pytest.raises(RequestError, match=r"its classes differ .*sea missing; ocean not in train"):
        prepare_dataset(folder_spec(), tmp_path)


def test_one_class_is_not_enough(tmp_path: Path) -> None:
    draw_tree(tmp_path, {"train": 5}, ("sea",))
    with pytest.raises(RequestError, match="at least two classes, found sea"):
        prepare_dataset(folder_spec(), tmp_path)


def test_too_few_images_for_a_division(tmp_path: Path) -> None:
    draw_tree(tmp_path, {"train": 1, "test": 1})
    with pytest.raises(RequestError, match=r"data\.val_fraction.*smallest class has 1"):
        prepare_dataset(folder_spec(), tmp_path)


@pytest.mark.parametrize("content", [b"", b"no image", b"\xff\xd8\xff\xe0 torn"])
def test_images_that_cannot_be_decoded_are_told_together(content: bytes, tmp_path: Path) -> None:
    draw_tree(tmp_path, {"train": 20, "test": 2})
    for i in range(12):
        (tmp_path / "train" / "sea" / f"{i}.jpg").write_bytes(content)
    with pytest.raises(
        RequestError, match=r"12 of 66 images cannot be decoded(?s:.*)0\.jpg(?s:.*)and 2 more"
    ):
        prepare_dataset(folder_spec(), tmp_path)
    assert not list(cache.cache_folder().glob(".*"))  # nothing is left half done


def test_an_unknown_set() -> None:
    with pytest.raises(RequestError, match=r"no set is called 'cifar'.*Did you mean cifar10\?"):
        prepare_dataset(DataSpec(dataset="cifar"))
