"""Images that occur more than once: counted and named by part, refused, or kept on one side."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from helpers.copied_photos import ALMOST, copy_pixels, draw_folders, draw_photo, save
from tune_swa.config import DataSpec
from tune_swa.data import cache, decoding, duplicates, similarity
from tune_swa.data.dataset import Dataset, estimate_dataset, prepare_dataset
from tune_swa.data.duplicates import Duplicates
from tune_swa.data.similarity import NEAR_BITS, compare_pixels, find_candidates
from tune_swa.errors import RequestError

PARTS = {"train": 6, "val": 3, "test": 3}


def spec(**changes: object) -> DataSpec:
    return DataSpec.model_validate({"dataset": "folder", "image_size": 32, **changes})


def duplicates_of(data: Dataset) -> Duplicates:
    assert data.image_notes.duplicates is not None
    return data.image_notes.duplicates


def test_different_images_are_no_copies(tmp_path: Path) -> None:
    draw_folders(tmp_path, PARTS)
    data = prepare_dataset(spec(), tmp_path)
    found = duplicates_of(data)
    assert found.near is not None
    assert (found.identical.counts, found.other_label.counts, found.near.counts) == ({}, {}, {})
    assert data.image_notes.format_summary() == ""
    assert data.image_notes.format_lines() == []


@pytest.mark.parametrize(
    ("source", "target", "key", "sentence"),
    [
        ("train", "train", "train-train", "1 of 13 training images is a copy of another there"),
        ("train", "val", "train-val", "1 of 7 validation images is among the training images, too"),
        ("train", "test", "train-test", "1 of 7 test images is among the training images, too"),
        ("val", "test", "val-test", "1 of 7 test images is among the validation images, too"),
    ],
)
def test_identical_images_are_counted_by_their_parts_and_named(
    source: str, target: str, key: str, sentence: str, tmp_path: Path
) -> None:
    draw_folders(tmp_path, PARTS)
    copy_pixels(tmp_path / source / "sea/1.png", tmp_path / target / "sea/x.png")
    data = prepare_dataset(spec(), tmp_path)
    found = duplicates_of(data)
    assert dict(found.identical.counts) == {key: 1}
    assert found.near is not None
    assert not found.near.total  # what is identical is not counted again
    assert data.image_notes.format_lines() == [
        f"identical images: {sentence} ({target}/sea/x.png = {source}/sea/1.png)"
    ]
    advice = ["--set data.duplicates=group keeps all copies of an image on one side of each split"]
    assert data.image_notes.format_summary().splitlines() == data.image_notes.format_lines() + advice * (
        source != target
    )
    assert data.image_notes.as_dict()["duplicates"]["identical"]["counts"] == {key: 1}


def test_an_identical_image_of_another_class_is_told(tmp_path: Path) -> None:
    draw_folders(tmp_path, PARTS)
    copy_pixels(tmp_path / "train/sea/1.png", tmp_path / "test/forest/x.png")
    copy_pixels(tmp_path / "train/sea/1.png", tmp_path / "test/sea/x.png")
    found = duplicates_of(prepare_dataset(spec(), tmp_path))
    assert dict(found.identical.counts) == {"train-test": 2, "test-test": 1}
    assert dict(found.other_label.counts) == {"all": 1}
    (line,) = [line for line in found.format_lines() if "class" in line]
    assert line == (
        "1 image occurs in more than one class (test/forest/x.png (forest) = train/sea/1.png (sea))"
    )


@pytest.mark.parametrize("way", ALMOST)
@pytest.mark.parametrize("size", [32, 64, 200])
def test_nearly_identical_images_are_told_from_identical_and_from_different_ones(
    way: str, size: int, tmp_path: Path
) -> None:
    draw_folders(tmp_path, PARTS)
    for i in range(3):
        ALMOST[way](Image.open(tmp_path / f"train/sea/{i}.png"), tmp_path / f"test/sea/x{i}.png")
    found = duplicates_of(prepare_dataset(spec(image_size=size), tmp_path))
    assert found.near is not None
    assert dict(found.near.counts) == {"train-test": 3}
    assert not found.identical.total
    assert [pair.copy.name for pair in found.near.first] == [f"train/sea/{i}.png" for i in range(3)]
    assert (
        "nearly identical images: 3 of 9 test images are among the training images, too ("
        in found.format_lines()[0]
    )


def test_one_outline_in_other_colours_is_another_image() -> None:
    one = np.asarray(draw_photo(1, (48, 48)))
    inverted = one.copy()
    inverted[..., 0] = 255 - one[..., 0]
    other = np.asarray(draw_photo(2, (48, 48)))
    images = np.stack([one, one // 2 + 20, inverted, other])
    assert list(compare_pixels(images, np.array([[0, 1], [0, 2], [0, 3]]))) == [True, False, False]


def test_only_the_first_ten_are_named(tmp_path: Path) -> None:
    draw_folders(tmp_path, {"train": 14, "val": 3, "test": 3})
    for i in range(13):
        copy_pixels(tmp_path / f"train/sea/{i}.png", tmp_path / f"test/sea/x{i:02}.png")
    found = duplicates_of(prepare_dataset(spec(), tmp_path))
    assert len(found.identical.first) == 10
    assert found.format_lines()[0].count(" = ") == 10
    assert found.format_lines()[0].endswith(" and 3 more)")
    assert found.format_summary().count(" = ") == 3


def test_error_refuses_identical_images_by_name_and_says_what_to_do(tmp_path: Path) -> None:
    draw_folders(tmp_path, PARTS)
    assert len(prepare_dataset(spec(duplicates="error"), tmp_path).test) == 6
    copy_pixels(tmp_path / "train/sea/1.png", tmp_path / "test/sea/x.png")
    with pytest.raises(RequestError) as refused:
        prepare_dataset(spec(duplicates="error"), tmp_path)
    message = str(refused.value)
    assert (
        "1 of 7 test images is among the training images, too (test/sea/x.png = train/sea/1.png)" in message
    )
    assert "--set data.duplicates=group" in message
    assert "--set data.duplicates=warn" in message
    for advice in ("group", "warn"):
        prepare_dataset(spec(duplicates=advice), tmp_path)


def sides(data: Dataset, groups: np.ndarray[tuple[int], np.dtype[np.int64]]) -> list[set[str]]:
    """The parts that each group of copies is in."""
    parts = {"train": data.train, "val": data.val, "test": data.test}
    return [
        {name for name, rows in parts.items() if np.isin(rows, np.flatnonzero(groups == group)).any()}
        for group in np.unique(groups)
    ]


@pytest.mark.parametrize("seed", range(4))
def test_group_keeps_copies_on_one_side_of_the_splits_that_are_drawn(seed: int, tmp_path: Path) -> None:
    draw_folders(tmp_path, {".": 30})
    for i in range(12):
        copy_pixels(tmp_path / f"sea/{i}.png", tmp_path / f"sea/copy-{i}.png")
        ALMOST["re-encoded"](Image.open(tmp_path / f"forest/{i}.png"), tmp_path / f"forest/almost-{i}.png")
    warned = prepare_dataset(spec(split_seed=seed), tmp_path)
    grouped = prepare_dataset(spec(split_seed=seed, duplicates="group"), tmp_path)
    assert grouped.fingerprint != warned.fingerprint
    assert grouped.cache_path is not None
    decoded = cache.read_entry(grouped.cache_path)
    assert decoded is not None
    groups = cache.look_for_copies(decoded).near
    assert len(np.unique(groups)) == 60
    assert max(map(len, sides(warned, groups))) > 1
    assert all(len(parts) == 1 for parts in sides(grouped, groups))
    # nothing is lost, and the shares are those asked for, up to the copies
    assert len(grouped.train) + len(grouped.val) + len(grouped.test) == 84
    assert len(grouped.test) / 84 == pytest.approx(0.25, abs=0.08)
    for rows in (grouped.train, grouped.val, grouped.test):
        assert np.bincount(grouped.labels[rows]).min() > 0
        assert list(rows) == sorted(rows)
    found = duplicates_of(grouped)
    assert found.near is not None
    assert not {"train-test", "val-test", "train-val"} & {*found.identical.counts, *found.near.counts}


def test_without_copies_group_divides_as_warn(tmp_path: Path) -> None:
    draw_folders(tmp_path, {".": 12})
    for changes in ({}, {"train_images": 10}):
        warned = prepare_dataset(spec(**changes), tmp_path)
        assert (
            prepare_dataset(spec(duplicates="group", **changes), tmp_path).fingerprint == warned.fingerprint
        )


def test_group_takes_copies_of_given_parts_out_of_the_parts_before_them(tmp_path: Path) -> None:
    draw_folders(tmp_path, PARTS)
    copy_pixels(tmp_path / "test/sea/1.png", tmp_path / "train/sea/x.png")
    copy_pixels(tmp_path / "test/sea/2.png", tmp_path / "val/sea/x.png")
    ALMOST["re-encoded"](Image.open(tmp_path / "val/sea/1.png"), tmp_path / "train/sea/y.jpg")
    data = prepare_dataset(spec(duplicates="group"), tmp_path)
    assert (len(data.train), len(data.val), len(data.test)) == (12, 6, 6)
    found = duplicates_of(data)
    assert dict(found.left_out.counts) == {"train-test": 1, "train-val": 1, "val-test": 1}
    assert not found.identical.total
    (line,) = found.format_lines()
    assert "1 of the training images, since they are among the test images" in line
    assert (
        "train/sea/x.png ~ test/sea/1.png; train/sea/y.jpg ~ val/sea/1.png; val/sea/x.png ~ test/sea/2.png"
        in line
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [("val/sea/1.png", "val/sea/1.png"), ("seg_val/sea/1.png", "seg_val/sea/1.png"),
     ("valley/1.png", "valley/1.png (val)"), ("image 7", "image 7 (val)")],
)  # fmt: skip
def test_the_part_is_told_where_the_folder_does_not_tell_it(name: str, text: str) -> None:
    image = duplicates.Image(7, name, "val", "sea")
    assert (
        duplicates.Pair(image, duplicates.Image(8, "test/sea/2.png", "test", "sea")).describe_pair("=")
        == f"{text} = test/sea/2.png"
    )


def test_a_class_of_which_group_leaves_nothing_to_train_with_is_named(tmp_path: Path) -> None:
    draw_folders(tmp_path, {"train": 6})
    for i in range(6):
        copy_pixels(tmp_path / f"train/forest/{i}.png", tmp_path / f"test/forest/{i}.png")
    save(draw_photo(100), tmp_path / "test/sea/0.png")
    with pytest.raises(RequestError, match=r"no images to train with in forest, once all copies") as raised:
        prepare_dataset(spec(duplicates="group"), tmp_path)
    assert "--set data.duplicates=warn" in str(raised.value)
    assert len(prepare_dataset(spec(), tmp_path).train) > 0  # the advice, followed


def test_images_that_cannot_be_decoded_are_no_copies_of_one_another(tmp_path: Path) -> None:
    draw_folders(tmp_path, PARTS)
    for name in ("train/sea/x.png", "test/sea/x.png"):
        (tmp_path / name).write_bytes(b"")
    assert not duplicates_of(prepare_dataset(spec(unreadable="skip"), tmp_path)).identical.total


def test_blank_pages_are_identical_and_written_ones_are_not_nearly_so(tmp_path: Path) -> None:
    draw_folders(tmp_path, PARTS)
    for i in range(3):
        save(Image.new("RGB", (40, 40), "white"), tmp_path / f"train/sea/blank{i}.png")
        page = Image.new("RGB", (40, 40), "white")
        page.putpixel((4 + 11 * i, 20), (0, 0, 0))
        save(page, tmp_path / f"test/sea/dot{i}.png")
    found = duplicates_of(prepare_dataset(spec(), tmp_path))
    assert dict(found.identical.counts) == {"train-train": 2}
    assert found.near is not None
    assert not found.near.total


@pytest.mark.parametrize("size", [8, 16, 32])
def test_digits_are_too_much_alike_to_be_called_nearly_identical(size: int) -> None:
    data = prepare_dataset(DataSpec(image_size=size))
    found = duplicates_of(data)
    assert found.near is None
    assert not found.identical.total
    assert data.image_notes.format_summary() == ""
    assert "nearly identical images are not counted" in found.format_plan()


@given(st.integers(0, 2**32 - 1))
def test_close_hashes_are_found_as_if_every_two_were_compared(seed: int) -> None:
    """But for those of which more than a few share two bytes."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(1, 2**64, 60, dtype=np.uint64)
    for i in range(0, 40, 2):  # the next one is up to 9 bits away
        bits = rng.choice(64, rng.integers(1, 10), replace=False).astype(np.uint64)
        hashes[i + 1] = hashes[i] ^ np.bitwise_or.reduce(np.uint64(1) << bits)
    distances = np.bitwise_count(hashes[:, None] ^ hashes[None, :])
    expected = np.argwhere(np.triu(distances <= NEAR_BITS, k=1))
    np.testing.assert_array_equal(find_candidates(hashes), expected)


@pytest.mark.parametrize("damage", ["missing", "garbled", "cut", "of another number"])
def test_an_entry_that_does_not_know_its_copies_finds_them_without_decoding(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_folders(tmp_path, PARTS)
    copy_pixels(tmp_path / "train/sea/1.png", tmp_path / "test/sea/x.png")
    before = prepare_dataset(spec(), tmp_path)
    assert before.cache_path is not None
    file = before.cache_path / cache.COPIES
    if damage == "missing":
        file.unlink()
    elif damage == "garbled":
        file.write_bytes(b"garbled")
    elif damage == "cut":
        os.truncate(file, 100)
    else:
        np.savez(file, identical=np.zeros(3, np.int64), near=np.zeros(3, np.int64), near_compared=True)
    monkeypatch.setattr(decoding, "resize_image", None)  # would fail if anything were decoded
    assert estimate_dataset(spec(), tmp_path).duplicates is None
    after = prepare_dataset(spec(), tmp_path)
    assert after.image_notes == before.image_notes
    assert after.fingerprint == before.fingerprint
    monkeypatch.setattr(similarity, "hash_images", None)  # would fail if it had not been kept
    assert prepare_dataset(spec(), tmp_path).image_notes == before.image_notes


def test_copies_are_looked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_folders(tmp_path, PARTS)
    assert estimate_dataset(spec(), tmp_path).duplicates is None
    data = prepare_dataset(spec(), tmp_path)
    monkeypatch.setattr(similarity, "hash_images", None)  # would fail if anything were hashed
    assert prepare_dataset(spec(), tmp_path).image_notes == data.image_notes
    assert estimate_dataset(spec(), tmp_path).duplicates == data.image_notes.duplicates
