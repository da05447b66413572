"""What else a file holds costs none of its pixels: EXIF, profiles, text and later frames may be damaged."""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from torchvision.datasets.folder import default_loader

from helpers.drawn_images import draw_tree, folder_spec
from helpers.odd_images import pixels
from tune_swa.data.dataset import prepare_dataset
from tune_swa.data.pixels import DAMAGED, open_rgb

DRAWN = pixels(4)


def encode(kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(DRAWN).save(file, kind, **options)
    return file.getvalue()


def encode_frames(kind: str, **options: Any) -> bytes:
    return encode(kind, save_all=True, append_images=[Image.fromarray(255 - DRAWN)], **options)


def make_exif(orientation: int = 6) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = "some words"
    return exif.tobytes()


def write(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def png_chunk(kind: bytes, content: bytes, wrong: int = 0) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content) ^ wrong)
    )


def insert_chunk(chunk: bytes, at: int) -> bytes:
    png = encode("PNG", exif=make_exif())
    return png[:at] + chunk + png[at:]


# -------------------------------------------------------------------------------------------- EXIF


@pytest.mark.parametrize(
    "exif",
    [b"Exif\0\0", b"Exif\0\0junk", b"Exif\0\0II*\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", make_exif()[:17]],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_is_left_aside(kind: str, exif: bytes, tmp_path: Path) -> None:
    path = write(tmp_path / "x", encode(kind, exif=exif))
    expected = np.asarray(default_loader(path))
    for rotation in (False, True):
        image, conversions = open_rgb(path, exif_rotation=rotation)
        assert np.array_equal(np.asarray(image), expected)
        assert set(conversions) <= {"damaged EXIF, orientation unknown"}


def test_images_with_damaged_exif_are_used_and_counted(tmp_path: Path) -> None:
    draw_tree(tmp_path, {"train": 5, "test": 2})
    for i, kind in enumerate(("JPEG", "PNG", "WEBP")):
        Image.fromarray(pixels(i)).save(
            tmp_path / "train" / "sea" / f"x{i}.{kind.lower()}", exif=b"Exif\0\0junk"
        )
    data = prepare_dataset(folder_spec(), tmp_path)
    assert len(data.images) == 24
    assert data.image_notes.converted["damaged EXIF, orientation unknown"].count == 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_readable_orientations_are_applied(kind: str, orientation: int, tmp_path: Path) -> None:
    path = write(tmp_path / "x", encode(kind, exif=make_exif(orientation)))
    image, conversions = open_rgb(path, exif_rotation=True)
    assert np.array_equal(np.asarray(image), np.asarray(ImageOps.exif_transpose(Image.open(path))))
    assert conversions == (("turned by EXIF",) if orientation > 1 else ())
    # Pillow itself turns TIFF files, for torchvision too
    plain = open_rgb(path, exif_rotation=False)
    assert np.array_equal(np.asarray(plain.image), np.asarray(default_loader(path)))
    expected = "turned by EXIF" if kind == "TIFF" else "EXIF rotation not applied"
    assert plain.conversions == ((expected,) if orientation > 1 else ())


def test_an_orientation_before_the_damage_is_applied(tmp_path: Path) -> None:
    exif = make_exif()
    cut = exif[
        : exif.index(b"some words")
    ]  # a value lies beyond the end; the orientation is in the directory
    path = write(tmp_path / "x.jpg", encode("JPEG", exif=cut))
    assert open_rgb(path, exif_rotation=True).image.size == DRAWN.shape[:2]


@pytest.mark.parametrize("orientation", [0, 9, 1000])
def test_orientations_that_do_not_exist_mean_none(orientation: int, tmp_path: Path) -> None:
    path = write(tmp_path / "x.jpg", encode("JPEG", exif=make_exif(orientation)))
    assert open_rgb(path, exif_rotation=True).conversions == ()


# ------------------------------------------------------------------------------------ later frames


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "MPO", "TIFF", "PNG", "AVIF"])
def test_the_first_frame_of_several_is_taken(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / "x", encode_frames(kind))
    image, conversions = open_rgb(path, exif_rotation=False)
    assert np.array_equal(np.asarray(image), np.asarray(default_loader(path)))
    assert np.abs(np.asarray(image).astype(int) - DRAWN).mean() < 60
    assert "first frame of several" in conversions


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "MPO", "TIFF", "PNG"])
def test_later_frames_that_are_cut_off_do_not_matter(kind: str, tmp_path: Path) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    whole = encode_frames(kind, **options)
    first = np.asarray(open_rgb(write(tmp_path / "whole", whole), exif_rotation=False).image)
    # a TIFF keeps its directory behind the pixels: only the last bytes may go
    for cut in (1, 30) if kind == "TIFF" else (1, 30, len(whole) // 4):
        path = write(tmp_path / "cut", whole[:-cut])
        assert np.array_equal(np.asarray(open_rgb(path, exif_rotation=False).image), first)


# ------------------------------------------------------------------------------------ other metadata

BOMB = zlib.compress(bytes(5_000_000))


@pytest.mark.parametrize("at", [33, -12], ids=["before the pixels", "after them"])
@pytest.mark.parametrize(
    "chunk",
    [
        png_chunk(b"zTXt", b"k\0\0" + BOMB),
        png_chunk(b"iTXt", b"k\0\1\0\0\0" + BOMB),
        png_chunk(b"iCCP", b"k\0\0" + BOMB),
        png_chunk(b"iCCP", b"k\0\0" + BOMB[:9]),
        png_chunk(b"pHYs", b"12"),
        png_chunk(b"gAMA", b""),
        png_chunk(b"tEXt", b"k\0text", wrong=1),
    ],
    ids=["text", "itext", "profile", "cut profile", "size", "gamma", "checksum"],
)
def test_png_chunks_that_pillow_refuses(chunk: bytes, at: int, tmp_path: Path) -> None:
    path = write(tmp_path / "x.png", insert_chunk(chunk, at))
    image, conversions = open_rgb(path, exif_rotation=True)
    assert np.array_equal(np.asarray(image), np.rot90(DRAWN, -1))  # the orientation is still known
    assert set(conversions) <= {"turned by EXIF", DAMAGED}


@pytest.mark.parametrize(
    ("marker", "content"),
    [
        (0xE0, b"JFIF\0"),
        (0xEE, b"Adobe"),
        (0xE2, b"ICC_PROFILE\0"),
        (0xED, b"Photoshop 3.0\0" + b"8BIM\x03\xed"),
    ],
)
def test_jpeg_segments_that_are_too_short(marker: int, content: bytes, tmp_path: Path) -> None:
    jpeg = encode("JPEG", exif=make_exif())
    segment = bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content
    path = write(tmp_path / "x.jpg", jpeg[:2] + segment + jpeg[2:])
    expected = np.asarray(default_loader(write(tmp_path / "whole.jpg", jpeg)))
    image, _ = open_rgb(path, exif_rotation=True)
    assert np.array_equal(np.asarray(image), np.rot90(expected, -1))


def test_a_webp_whose_metadata_are_cut_off(tmp_path: Path) -> None:
    webp = encode("WEBP", exif=make_exif() + bytes(300), lossless=True)
    path = write(tmp_path / "x.webp", webp[:-200])
    image, conversions = open_rgb(path, exif_rotation=True)
    assert np.array_equal(np.asarray(image), DRAWN)
    assert conversions == (DAMAGED,)


# ------------------------------------------------------------------------------------- in general


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
def test_pixels_that_are_cut_off_are_still_an_error(kind: str, tmp_path: Path) -> None:
    drawn = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    drawn.save(tmp_path / "x", kind)
    content = (tmp_path / "x").read_bytes()
    path = write(tmp_path / "cut", content[: len(content) // 2])
    with pytest.raises((OSError, ValueError, SyntaxError, EOFError)):
        open_rgb(path, exif_rotation=False)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "MPO"])
def test_whatever_torchvision_reads_is_read_alike(kind: str, tmp_path: Path) -> None:
    """Bytes of metadata that are wrong at random, and files that end at random."""
    exif = {} if kind in ("GIF", "TIFF") else {"exif": make_exif()}
    whole = (encode_frames if kind in ("GIF", "TIFF", "MPO") else encode)(kind, **exif)
    rng, read = random.Random(kind), 0
    for _ in range(150):
        content = bytearray(whole[: rng.choice([len(whole), rng.randrange(len(whole))])])
        for _ in range(rng.randrange(6)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path = write(tmp_path / "x", bytes(content))
        try:
            expected = np.asarray(default_loader(path))
        except Exception:  # any type; then there is nothing to compare with
            continue
        read += 1
        assert np.array_equal(np.asarray(open_rgb(path, exif_rotation=False).image), expected)
    assert read > 5
