"""Read image files of any kind as RGB, as torchvision's loader does, except for 16 bits."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from tune_swa.data.sources import Opened

LARGEST = 500_000_000
"""Pixels of an image that is still decoded; Pillow would refuse from 179 million on."""
LARGE = 25_000_000
"""Pixels from which images are decoded one at a time: each takes up to 7 bytes a pixel meanwhile."""

_one_at_a_time = threading.Lock()
_ORIENTATION = 0x0112
_UPRIGHT = (None, 1)


def open_rgb(path: str, *, exif_rotation: bool) -> Opened:
    """Read an image file.

    Raises:
        OSError: it cannot be read, or is truncated.
        PIL.UnidentifiedImageError: it is no image.
        ValueError: its pixels have no range that one could know, or it is too large.
    """
    with Path(path).open("rb") as file, Image.open(file) as image:
        if image.width * image.height > LARGEST:
            raise ValueError(f"{image.width} x {image.height} pixels; at most {LARGEST:,} are decoded")
        with _take_turn(image):
            return to_rgb(image, exif_rotation=exif_rotation)


def to_rgb(image: Image.Image, *, exif_rotation: bool = False) -> Opened:
    """Convert an image to RGB.

    As torchvision's default loader: `image.convert("RGB")`, which drops transparency and takes the
    first frame of several. That clips 16-bit greyscale to white, so its high byte is taken instead,
    which is what Pillow does to 16-bit colour.

    Args:
        image: of any mode, not necessarily loaded.
        exif_rotation: turn it as its EXIF orientation says.

    Raises:
        ValueError: pixels are floating-point numbers, or whole ones of more than 16 bits.
    """
    conversions = list(_list_conversions(image))
    turned = image.getexif().get(_ORIENTATION) not in _UPRIGHT
    if image.mode.startswith("I"):
        image = _high_byte(image)
    elif image.mode == "F":
        raise ValueError("floating-point pixels, whose range is not known")
    if turned and exif_rotation:
        transposed = ImageOps.exif_transpose(image)
        image = image if transposed is None else transposed
    if turned:
        conversions.append("turned by EXIF" if exif_rotation else "EXIF rotation not applied")
    return Opened(image.convert("RGB"), tuple(conversions))


def _list_conversions(image: Image.Image) -> list[str]:
    mode = image.mode
    kinds = []
    if mode.startswith("I"):
        kinds.append("16-bit greyscale")
    elif mode in ("1", "L", "LA", "La"):
        kinds.append("greyscale")
    elif mode in ("P", "PA"):
        kinds.append("palette")
    elif mode not in ("RGB", "RGBA", "RGBa", "RGBX"):
        kinds.append(mode)  # CMYK, YCbCr, LAB, HSV
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        kinds.append("transparency dropped")
    if getattr(image, "n_frames", 1) > 1:
        kinds.append("first frame of several")
    return kinds


def _high_byte(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image)
    if pixels.size and not 0 <= int(pixels.min()) <= int(pixels.max()) <= 0xFFFF:
        raise ValueError("pixels of more than 16 bits, whose range is not known")
    turned = image.getexif()
    result = Image.fromarray((pixels >> 8).astype(np.uint8))
    if _ORIENTATION in turned:
        result.getexif()[_ORIENTATION] = turned[_ORIENTATION]
    return result


def _take_turn(image: Image.Image) -> AbstractContextManager[object]:
    return _one_at_a_time if image.width * image.height > LARGE else nullcontext()
