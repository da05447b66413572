"""Read image files of any kind as RGB, as torchvision's loader does, except for 16 bits."""

from __future__ import annotations

import io
import threading
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from tune_swa.data.bare_images import find_orientation, recognise_content, remove_metadata
from tune_swa.data.image_notes import DEEP_COLOUR, DEEP_GREY, USED_BITS
from tune_swa.data.sources import Opened

LARGEST = 500_000_000
"""Pixels of an image that is still decoded; Pillow would refuse from 179 million on."""
LARGE = 25_000_000
"""Pixels from which images are decoded one at a time: each takes up to 7 bytes a pixel meanwhile."""
DAMAGED = "damaged metadata or later frames"
"""Kind of images that are read without them."""
DIM = 64
"""Images of 16 bits without a value of so many 256ths are nearly black."""

_one_at_a_time = threading.Lock()
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by its EXIF orientation."""


def open_rgb(path: str, *, exif_rotation: bool, grey_bits: int = 16) -> Opened:
    """Read an image file. Metadata that cannot be read cost none of the pixels.

    Args:
        path: of the file.
        exif_rotation: turn it as its EXIF orientation says.
        grey_bits: bits that 16-bit greyscale images use.

    Raises:
        OSError: it cannot be read, or is truncated.
        PIL.UnidentifiedImageError: it is no image.
        ValueError: its pixels have no range that one could know, or it is too large.
    """
    with Path(path).open("rb") as file:
        try:
            return _read_rgb(file, exif_rotation, grey_bits)
        except Exception as error:  # PIL's decoders raise a dozen types for damaged files
            file.seek(0)
            data = file.read()
            unknown = isinstance(error, UnidentifiedImageError)
            if unknown and (content := recognise_content(data)) is not None:
                raise ValueError(f"not an image that Pillow knows, but {content}") from None
            bare = remove_metadata(data)
            if bare is None:
                raise
            with suppress(Exception):  # then the first error is the one to report
                image, conversions = _read_rgb(io.BytesIO(bare), exif_rotation, grey_bits)
                return Opened(image, (*conversions, DAMAGED))
            raise


def _read_rgb(file: BinaryIO, exif_rotation: bool, grey_bits: int) -> Opened:
    with Image.open(file) as image:
        if image.width * image.height > LARGEST:
            raise ValueError(f"{image.width} x {image.height} pixels; at most {LARGEST:,} are decoded")
        with take_turn(image.width * image.height):
            return to_rgb(image, exif_rotation=exif_rotation, grey_bits=grey_bits)


def to_rgb(image: Image.Image, *, exif_rotation: bool = False, grey_bits: int = 16) -> Opened:
    """Convert an image to RGB.

    As torchvision's default loader: `image.convert("RGB")`, which drops transparency and takes the
    first frame of several. That clips 16-bit greyscale to white, so its highest byte is taken instead,
    which is what Pillow does to 16-bit colour.

    Args:
        image: of any mode, not necessarily loaded.
        exif_rotation: turn it as its EXIF orientation says.
        grey_bits: bits that 16-bit greyscale images use.

    Raises:
        ValueError: pixels are floating-point numbers, or whole ones of more than 16 bits, or of more than
            `grey_bits`.
    """
    deep_colour = _is_deep_colour(image)
    turned_by_pillow = getattr(image, "tag_v2", {}).get(_ORIENTATION) in _TURNS  # TIFF files always are
    image.load()  # what else the file holds is looked at afterwards, when nothing there can cost the pixels
    conversions = _list_conversions(image)
    if image.mode.startswith("I"):
        rgb, used = _take_high_byte(image, grey_bits)
        conversions += used
    elif image.mode == "F":
        raise ValueError("floating-point pixels, whose range is not known")
    else:
        rgb = image.convert("RGB")
    if deep_colour and 0 < np.asarray(rgb).max() < DIM:
        conversions.append(DEEP_COLOUR)
    orientation = _read_orientation(image)
    if orientation is None:
        conversions.append("damaged EXIF, orientation unknown")
    elif orientation in _TURNS and exif_rotation:
        rgb = rgb.transpose(_TURNS[orientation])
    if turned_by_pillow or orientation in _TURNS:
        applied = turned_by_pillow or exif_rotation
        conversions.append("turned by EXIF" if applied else "EXIF rotation not applied")
    if _has_more_frames(image):
        conversions.append("first frame of several")
    return Opened(rgb, tuple(conversions))


def take_turn(pixels: int) -> AbstractContextManager[object]:
    """Hold what lets one image at a time take much memory, if it has so many pixels."""
    return _one_at_a_time if pixels > LARGE else nullcontext()


def _is_deep_colour(image: Image.Image) -> bool:
    """Whether Pillow is about to make 8 of 16 bits; it names the layout in the file `RGB;16B` or the like."""
    return image.mode in ("RGB", "RGBA", "LA") and ";16" in str(getattr(image, "tile", ""))


def _list_conversions(image: Image.Image) -> list[str]:
    mode = image.mode
    kinds = []
    if mode.startswith("I"):
        kinds.append(DEEP_GREY)
    elif mode in ("1", "L", "LA", "La"):
        kinds.append("greyscale")
    elif mode in ("P", "PA"):
        kinds.append("palette")
    elif mode not in ("RGB", "RGBA", "RGBa", "RGBX"):
        kinds.append(mode)  # CMYK, YCbCr, LAB, HSV
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        kinds.append("transparency dropped")
    return kinds


def _take_high_byte(image: Image.Image, bits: int) -> tuple[Image.Image, list[str]]:
    """The highest 8 of `bits` bits, and how many are used where that leaves next to nothing."""
    pixels = np.asarray(image)
    low, top = int(pixels.min()), int(pixels.max())
    if not 0 <= low <= top <= 0xFFFF:
        raise ValueError("pixels of more than 16 bits, whose range is not known")
    if top >> bits:
        raise ValueError(f"a value of {top:,} has more than the {bits} bits of data.grey_bits")
    grey = Image.fromarray((pixels >> (bits - 8)).astype(np.uint8))
    used = [kind for least, kind in USED_BITS.items() if bits == 16 and 0 < top < 2**least]
    return grey.convert("RGB"), used[:1]


def _read_orientation(image: Image.Image) -> int | None:
    """The EXIF orientation, 1 where there is none; None: it cannot be read."""
    exif = image.info.get("exif")
    try:
        found = image.getexif().get(_ORIENTATION)
    except Exception:  # struct's errors, SyntaxError, ValueError and more, by what is damaged
        return find_orientation(exif) if isinstance(exif, bytes) else None
    if found is None and isinstance(exif, bytes):
        return find_orientation(exif)  # Pillow stops at the first damaged tag
    return found if isinstance(found, int) else 1


def _has_more_frames(image: Image.Image) -> bool:
    """Whether there is a second frame. Asking may seek to it, so the first has to be converted before."""
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # it is cut off
        return True
