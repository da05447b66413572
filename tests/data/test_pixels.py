"""Odd images: what torchvision would have made of them, and the ones where that is not sensible."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets.folder import default_loader

from helpers.drawn_images import draw_tree, folder_spec
from helpers.odd_images import HOPELESS, SENSIBLE, odd_tree, pixels
from tune_swa.data import pixels as loading
from tune_swa.data.dataset import prepare_dataset
from tune_swa.data.layouts import escape_name
from tune_swa.data.pixels import open_rgb, to_rgb
from tune_swa.errors import RequestError


def opened(kind: str, folder: Path, *, exif_rotation: bool = False) -> tuple[Path, loading.Opened]:
    SENSIBLE[kind](folder / kind, 4)
    [path] = folder.glob(f"{kind}.*")
    return path, open_rgb(str(path), exif_rotation=exif_rotation)


@pytest.mark.parametrize("kind", [k for k in SENSIBLE if k not in ("deep-grey", "large")])
def test_pixels_are_those_of_torchvisions_loader(kind: str, tmp_path: Path) -> None:
    path, image = opened(kind, tmp_path)
    assert np.array_equal(np.asarray(image.image), np.asarray(default_loader(str(path))))


@pytest.mark.parametrize(
    ("kind", "conversions"),
    [
        ("cmyk", ("CMYK",)),
        ("deep-grey", ("16-bit greyscale",)),
        ("palette", ("palette", "transparency dropped")),
        ("rotated", ("EXIF rotation not applied",)),
        ("grey", ("greyscale",)),
        ("one-pixel", ()),
    ],
)
def test_what_was_done_is_told(kind: str, conversions: tuple[str, ...], tmp_path: Path) -> None:
    assert opened(kind, tmp_path)[1].conversions == conversions


def test_sixteen_bits_keep_their_high_byte(tmp_path: Path) -> None:
    """Pillow's own conversion clips: nearly all of such an image would be white."""
    path, image = opened("deep-grey", tmp_path)
    assert np.array_equal(np.asarray(image.image)[..., 1], pixels(4)[..., 0])
    assert np.asarray(default_loader(str(path))).mean() > 250


def test_exif_rotation_is_applied_where_it_is_asked_for(tmp_path: Path) -> None:
    path, plain = opened("rotated", tmp_path)
    turned = open_rgb(str(path), exif_rotation=True)
    assert turned.conversions == ("turned by EXIF",)
    assert turned.image.size == plain.image.size[::-1]
    assert np.array_equal(np.asarray(turned.image), np.rot90(np.asarray(plain.image), -1))


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (Image.new("F", (3, 3), 0.5), "floating-point"),
        (Image.new("I", (3, 3), 70_000), "more than 16 bits"),
        (Image.new("I", (3, 3), -1), "more than 16 bits"),
    ],
)
def test_pixels_of_an_unknown_range_are_refused(image: Image.Image, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        to_rgb(image)


def test_images_that_pillow_takes_for_bombs_are_decoded_up_to_our_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_tree(tmp_path, {"train": 5, "test": 2})
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)  # ours have 280
    assert len(prepare_dataset(folder_spec(), tmp_path).images) == 21
    assert Image.MAX_IMAGE_PIXELS == 50  # as it was
    monkeypatch.setattr(loading, "LARGEST", 200)
    with pytest.raises(RequestError, match=r"(?s)21 of 21 .*20 x 14 pixels; at most 200 are decoded"):
        prepare_dataset(folder_spec(image_size=8), tmp_path)


# ---------------------------------------------------------------------------------- whole folders


def test_hopeless_images_are_listed_together(tmp_path: Path) -> None:
    odd_tree(tmp_path, count=4)
    with pytest.raises(RequestError) as caught:
        prepare_dataset(folder_spec(), tmp_path)
    message = str(caught.value)
    assert message.startswith("12 of 72 images cannot be decoded:\n")
    assert message.count("not an image that Pillow knows") + message.count("truncated") == 10
    assert "and 2 more" in message
    assert "--set data.unreadable=skip" in message


def test_skipped_images_are_in_no_part(tmp_path: Path) -> None:
    odd_tree(tmp_path, count=4)
    data = prepare_dataset(folder_spec(unreadable="skip"), tmp_path)
    used = np.concatenate([data.train, data.val, data.test])
    assert len(used) == len(set(used)) == 72 - 12
    names = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.*")}
    assert data.image_notes.skipped.count == len(
        [n for n in names if Path(n).name.split("-")[0] in ("truncated", "empty", "no")]
    )
    kinds = {kind: group.count for kind, group in data.image_notes.converted.items()}
    assert kinds == {
        "16-bit greyscale": 4, "CMYK": 4, "EXIF rotation not applied": 4, "greyscale": 4, "palette": 4,
        "transparency dropped": 4,
    }  # fmt: skip
    again = prepare_dataset(folder_spec(unreadable="skip"), tmp_path, verify=True)
    assert again.cache_path == data.cache_path
    assert again.image_notes == data.image_notes
    assert again.fingerprint == data.fingerprint


def test_without_the_skipped_ones_it_is_the_set_without_them(tmp_path: Path) -> None:
    odd_tree(tmp_path, count=2)
    skipped = prepare_dataset(folder_spec(unreadable="skip"), tmp_path)
    pixels_before = skipped.images[skipped.train].copy()
    for kind in HOPELESS:
        for path in tmp_path.rglob(f"{kind}-*"):
            path.unlink()
    clean = prepare_dataset(folder_spec(), tmp_path)
    assert np.array_equal(clean.images[clean.train], pixels_before)
    assert np.array_equal(clean.labels[clean.val], skipped.labels[skipped.val])


def test_a_class_of_which_nothing_is_left(tmp_path: Path) -> None:
    draw_tree(tmp_path, {"train": 6, "val": 2, "test": 2})
    for path in (tmp_path / "train" / "sea").iterdir():
        path.write_bytes(b"")
    with pytest.raises(RequestError, match="no images to train with in sea"):
        prepare_dataset(folder_spec(unreadable="skip"), tmp_path)


def test_names_that_differ_in_case_only(tmp_path: Path) -> None:
    draw_tree(tmp_path, {"train": 5, "test": 2}, classes=("cat", "Cat", "dog"))
    with pytest.raises(RequestError, match="Cat and cat differ in upper and lower case only"):
        prepare_dataset(folder_spec(), tmp_path)


def test_parts_that_differ_in_case_only(tmp_path: Path) -> None:
    draw_tree(tmp_path, {"train": 5, "Train": 5, "test": 2})
    with pytest.raises(RequestError, match=r"which of them holds the train images\?"):
        prepare_dataset(folder_spec(), tmp_path)


def test_a_link_to_the_folder_that_it_is_in_is_not_followed(tmp_path: Path) -> None:
    draw_tree(tmp_path, {"train": 5, "test": 2})
    (tmp_path / "train" / "sea" / "again").symlink_to(tmp_path / "train" / "sea")
    assert len(prepare_dataset(folder_spec(), tmp_path).images) == 21


def test_a_folder_with_an_images_name_is_a_folder(tmp_path: Path) -> None:
    draw_tree(tmp_path, {"train": 5, "test": 2})
    draw_tree(tmp_path / "train" / "sea", {"more.jpg": 1}, classes=("x",))
    assert len(prepare_dataset(folder_spec(), tmp_path).images) == 22


def test_names_of_any_bytes_are_told_on_one_line(tmp_path: Path) -> None:
    draw_tree(tmp_path, {"train": 5, "test": 2})
    odd = os.fsencode(tmp_path / "train" / "sea") + b"/\xff\nx.jpg"
    Path(os.fsdecode(odd)).write_bytes(b"")
    with pytest.raises(RequestError) as caught:
        prepare_dataset(folder_spec(), tmp_path)
    [line] = [line for line in str(caught.value).splitlines() if "x.jpg" in line]
    assert line.endswith("\\xff\\nx.jpg (not an image that Pillow knows)") or "\\udcff" in line
    str(caught.value).encode()
    assert escape_name("plain name.jpg") == "plain name.jpg"


def test_a_class_whose_name_cannot_be_written(tmp_path: Path) -> None:
    draw_tree(tmp_path, {"train": 5, "test": 2}, classes=("a", "b", "c\nd"))
    with pytest.raises(RequestError, match=r"the class c\\nd holds characters .*Rename the folder"):
        prepare_dataset(folder_spec(), tmp_path)
