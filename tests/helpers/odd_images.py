"""Image files of every odd kind, for folders that people really have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image


def pixels(seed: int, height: int = 12, width: int = 16) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Noise around a colour that grows with the seed."""
    rng = np.random.default_rng(seed)
    return np.clip(rng.normal(20 * (seed % 10), 40, (height, width, 3)), 0, 255).astype(np.uint8)


def rgb(path: Path, seed: int) -> None:
    Image.fromarray(pixels(seed)).save(path.with_suffix(".jpg"))


def cmyk(path: Path, seed: int) -> None:
    Image.fromarray(pixels(seed)).convert("CMYK").save(path.with_suffix(".jpg"))


def deep_grey(path: Path, seed: int) -> None:
    """16-bit greyscale, of the whole range."""
    deep = (pixels(seed)[..., 0].astype(np.uint16) << 8) + 77
    Image.fromarray(deep).save(path.with_suffix(".png"))


def palette(path: Path, seed: int) -> None:
    """With one transparent colour."""
    Image.fromarray(pixels(seed)).convert("P").save(path.with_suffix(".png"), transparency=3)


def rotated(path: Path, seed: int) -> None:
    """Lies on its side, and says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels(seed)).save(path.with_suffix(".jpg"), exif=exif)


def grey(path: Path, seed: int) -> None:
    Image.fromarray(pixels(seed)[..., 0]).save(path.with_suffix(".png"))


def one_pixel(path: Path, seed: int) -> None:
    Image.fromarray(pixels(seed, 1, 1)).save(path.with_suffix(".png"))


def large(path: Path, seed: int) -> None:
    """Larger than what is decoded side by side."""
    Image.new("RGB", (5100, 5000), (seed, 3 * seed, 90)).save(path.with_suffix(".png"))


def truncated(path: Path, seed: int) -> None:
    rgb(path, seed)
    file = path.with_suffix(".jpg")
    file.write_bytes(file.read_bytes()[:-150])


def empty(path: Path, seed: int) -> None:
    path.with_suffix(".jpg").write_bytes(b"")


def no_image(path: Path, seed: int) -> None:
    path.with_suffix(".jpg").write_text(f"no image, but text number {seed}")


SENSIBLE: dict[str, Callable[[Path, int], None]] = {
    "cmyk": cmyk, "deep-grey": deep_grey, "palette": palette, "rotated": rotated, "grey": grey,
    "one-pixel": one_pixel, "large": large,
}  # fmt: skip
HOPELESS: dict[str, Callable[[Path, int], None]] = {
    "truncated": truncated,
    "empty": empty,
    "no-image": no_image,
}


def odd_tree(root: Path, count: int = 10, plain: int = 12) -> None:
    """train/ and test/ of two classes: in train `count` of each odd kind and `plain` usual ones."""
    for part, usual in (("train", plain), ("test", 4)):
        for c, label in enumerate(("one", "two")):
            folder = root / part / label
            folder.mkdir(parents=True)
            for i in range(usual):
                rgb(folder / f"plain-{i}", 10 * c + i)
    for kind, write in (SENSIBLE | HOPELESS).items():
        for i in range(count):
            write(root / "train" / ("one", "two")[i % 2] / f"{kind}-{i}", 10 * (i % 2) + i)
