"""Drawn photographs, and the ways in which people's folders hold one of them twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance


def draw_photo(seed: int, size: tuple[int, int] = (96, 72)) -> Image.Image:
    """Shades of several sizes, the large ones coloured, as a photograph has them; each seed has its own."""
    rng = np.random.default_rng(seed)
    pixels = np.full((size[1], size[0], 3), 128.0)
    for cells, contrast, colours in ((5, 180, 3), (12, 100, 1), (24, 60, 1)):
        coarse = np.broadcast_to(rng.integers(0, 256, (cells, cells, colours)), (cells, cells, 3))
        shades = Image.fromarray(coarse.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
        pixels += (np.asarray(shades) / 255 - 0.5) * contrast
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def save(image: Image.Image, path: Path, **options: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def draw_folders(root: Path, counts: dict[str, int], classes: tuple[str, ...] = ("forest", "sea")) -> None:
    """Different photographs, `counts` of each class in each folder, as PNG."""
    seed = 0
    for folder, count in counts.items():
        for label in classes:
            for i in range(count):
                save(draw_photo(seed), root / folder / label / f"{i}.png")
                seed += 1


def copy_pixels(source: Path, target: Path) -> None:
    """The same pixels in a file of other bytes."""
    save(Image.open(source), target, compress_level=1)
    assert source.read_bytes() != target.read_bytes()


def _reencode(image: Image.Image, target: Path) -> None:
    save(image, target.with_suffix(".jpg"), quality=60)


def _shrink(image: Image.Image, target: Path) -> None:
    save(image.resize((image.width * 2 // 3, image.height * 2 // 3)), target)


def _brighten(image: Image.Image, target: Path) -> None:
    save(ImageEnhance.Brightness(image).enhance(1.15), target)


ALMOST: dict[str, Callable[[Image.Image, Path], None]] = {
    "re-encoded": _reencode,
    "resized": _shrink,
    "brighter": _brighten,
}
