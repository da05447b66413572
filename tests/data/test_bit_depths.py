"""Images of more than 8 bits, and of every mode that files have."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets.folder import default_loader

from helpers.drawn_images import draw_tree, folder_spec
from helpers.odd_images import pixels
from tune_swa.config import DataSpec
from tune_swa.data import cache
from tune_swa.data.dataset import Dataset, estimate_dataset, prepare_dataset
from tune_swa.data.image_notes import DEEP_COLOUR
from tune_swa.data.pixels import open_rgb
from tune_swa.errors import RequestError


def grey_tree(root: Path, bits: dict[str, int], suffix: str = ".png") -> None:
    """train/ and test/ of one class for each of `bits`, whose values take that many."""
    for part, count in (("train", 6), ("test", 2)):
        for label, depth in bits.items():
            for i in range(count):
                drawn = np.random.default_rng(i).integers(0, 2**depth, (20, 20), dtype=np.uint16)
                drawn[0, 0] = 2**depth - 1
                path = root / part / label / f"{i}{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(drawn).save(path)


def write_png(path: Path, deep: np.ndarray[tuple[int, ...], np.dtype[np.uint16]]) -> None:
    """16-bit RGB [H, W, 3], which Pillow does not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", deep.shape[1], deep.shape[0], 16, 2, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in deep))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def prepare(root: Path, **changes: object) -> Dataset:
    return prepare_dataset(folder_spec(image_size=20, **changes), root)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize(("bits", "advice"), [(8, 8), (9, 10), (12, 12), (13, 14)])
def test_few_bits_are_noticed_and_the_advice_scales_them(
    bits: int, advice: int, suffix: str, tmp_path: Path
) -> None:
    grey_tree(tmp_path, {"a": bits, "b": bits}, suffix)
    dark = prepare(tmp_path)
    assert dark.images.max() < 64
    [line] = dark.image_notes.format_warnings()
    assert line.startswith(
        f"16 of 16 16-bit greyscale images hold no value above {2**advice - 1:,} of 65,535"
    )
    assert f"--set data.grey_bits={advice} scales them" in line
    assert line in dark.image_notes.format_summary()
    assert estimate_dataset(folder_spec(image_size=20), tmp_path).image_notes.format_warnings() == [line]
    scaled = prepare(tmp_path, grey_bits=advice)
    assert scaled.images.max() >= 127
    assert scaled.image_notes.format_warnings() == []
    again = prepare_dataset(folder_spec(image_size=20), tmp_path)  # from the cache
    assert again.image_notes.format_warnings() == [line]


def test_the_whole_range_is_no_reason_to_warn(tmp_path: Path) -> None:
    grey_tree(tmp_path, {"a": 16, "b": 16})
    assert prepare(tmp_path).image_notes.format_warnings() == []


def test_black_images_are_black(tmp_path: Path) -> None:
    grey_tree(tmp_path, {"a": 16, "b": 16})
    Image.fromarray(np.zeros((20, 20), dtype=np.uint16)).save(tmp_path / "train" / "a" / "0.png")
    assert prepare(tmp_path).image_notes.format_warnings() == []


def test_of_two_cameras_only_the_dark_one_is_named(tmp_path: Path) -> None:
    grey_tree(tmp_path, {"a": 12, "b": 16})
    [line] = prepare(tmp_path).image_notes.format_warnings()
    assert line.startswith("8 of 16 16-bit")
    assert "data.grey_bits" not in line  # would refuse the others
    with pytest.raises(
        RequestError, match=r"8 of 16 images cannot be decoded(?s:.*)12 bits of data\.grey_bits"
    ):
        prepare(tmp_path, grey_bits=12)


def test_pixels_are_the_highest_eight_bits(tmp_path: Path) -> None:
    deep = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    for suffix in ("png", "tif"):
        Image.fromarray(deep).save(tmp_path / f"x.{suffix}")
        image = open_rgb(str(tmp_path / f"x.{suffix}"), exif_rotation=False, grey_bits=12).image
        assert np.array_equal(np.asarray(image)[..., 1], deep >> 4)


def test_big_endian_files_are_read_alike(tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 65_536, (9, 9)).astype(">u2")
    Image.frombytes("I;16B", (9, 9), deep.tobytes()).save(tmp_path / "x.tif")
    assert (tmp_path / "x.tif").read_bytes()[:2] == b"MM"
    image = open_rgb(str(tmp_path / "x.tif"), exif_rotation=False).image
    assert np.array_equal(np.asarray(image)[..., 0], deep >> 8)


def test_the_setting_is_checked() -> None:
    for bits in (7, 17, "auto"):
        with pytest.raises(ValueError, match="grey_bits"):
            DataSpec.model_validate({"grey_bits": bits})


@pytest.mark.parametrize(("factor", "noticed"), [(1, True), (16, False)])
def test_16_bit_colour_of_few_bits_is_noticed(factor: int, noticed: bool, tmp_path: Path) -> None:
    draw_tree(tmp_path, {"train": 5, "test": 2})
    deep = np.random.default_rng(0).integers(0, 4096, (8, 8, 3)) * factor
    write_png(tmp_path / "train" / "sea" / "x.png", deep.astype(">u2"))
    notes = prepare_dataset(folder_spec(), tmp_path).image_notes
    assert (DEEP_COLOUR in notes.converted) == noticed
    assert any("16-bit colour" in line for line in notes.format_warnings()) == noticed


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg", "gif", "webp", "jp2"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV"])
def test_modes_are_torchvisions(mode: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{suffix}"
    drawn = Image.fromarray(pixels(4))
    try:
        (drawn.convert(mode) if mode != "LAB" else Image.frombytes("LAB", (16, 12), bytes(576))).save(path)
    except (OSError, ValueError):
        pytest.skip(f"no {mode} in {suffix}")
    expected = np.asarray(default_loader(str(path)))
    assert np.array_equal(np.asarray(open_rgb(str(path), exif_rotation=False).image), expected)


def test_images_decoded_before_this_was_looked_at_are_decoded_again(tmp_path: Path) -> None:
    grey_tree(tmp_path, {"a": 12, "b": 12})
    before = prepare(tmp_path)
    assert before.cache_path is not None
    meta = before.cache_path / cache.META
    content = json.loads(meta.read_text())
    del content["reader"], content["remarks"]["converted"]["12 of 16 bits used"]
    meta.write_text(json.dumps(content))
    again = prepare(tmp_path)
    assert again.fingerprint == before.fingerprint
    assert len(again.image_notes.format_warnings()) == 1
