"""Resize images as torchvision does, without the detour over a gigantic one for long thin strips."""

from __future__ import annotations

import math

from PIL import Image

from tune_swa.data.pixels import take_turn

MOST = 100_000_000
"""Pixels that torchvision's way may take in between; beyond, only what is needed of them is computed, which
may differ from it by rounding."""
BILINEAR = Image.Resampling.BILINEAR


def resize_image(image: Image.Image, size: int, how: str) -> Image.Image:
    """Resize a PIL image as torchvision does: bilinear with antialiasing.

    Args:
        image: at any size.
        size: height and width of the result, in pixels.
        how: `squash` resizes both sides; `crop` resizes the short side and takes the centre.
    """
    from torchvision.transforms import functional

    if how == "squash":
        between = size * image.height  # Pillow resizes the rows first, all of them
        if between > MOST:
            return image.resize((image.width, size), BILINEAR).resize((size, size), BILINEAR)
        with take_turn(between):
            resized: Image.Image = functional.resize(image, [size, size])
            return resized
    short, long = sorted(image.size)
    between = size * int(size * long / short)
    if between > MOST:
        return _resize_centre(image, size)
    with take_turn(between):
        cropped: Image.Image = functional.center_crop(functional.resize(image, [size]), [size, size])
        return cropped


def _resize_centre(image: Image.Image, size: int) -> Image.Image:
    """Resize nothing but the part that the centre crop keeps, and what the filter reads around it."""
    short = min(image.size)
    margin = math.ceil(max(short / size, 1)) + 1
    box, kept = [], []
    for side in image.size:
        resized = int(size * side / short)  # as torchvision rounds it
        first = round((resized - size) / 2) * side / resized
        last = min(side, first + size * side / resized)
        start, stop = max(0, math.floor(first) - margin), min(side, math.ceil(last) + margin)
        kept.append((start, stop))
        box.append((first - start, last - start))
    (left, right), (top, bottom) = kept
    centre = image.crop((left, top, right, bottom))
    return centre.resize((size, size), BILINEAR, box=(box[0][0], box[1][0], box[0][1], box[1][1]))
