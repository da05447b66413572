"""Decode a few images of each class and part, as the whole set would be decoded, and time it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from tune_swa.config import DataSpec
from tune_swa.data.cache import Pixels
from tune_swa.data.dataset import divide_source
from tune_swa.data.decoding import decode_images
from tune_swa.data.source_lookup import find_source
from tune_swa.data.sources import Labels, Listing, Part, Parts
from tune_swa.errors import RequestError

MOST_CLASSES = 64
"""Classes that are sampled. A step costs nearly the same with any number of them."""
MOST_IMAGES = 768
"""Images that are decoded at most, of all parts."""
MOST_BYTES = 2**29
"""That these take in memory at most, but for one of each class and part: 768 of 2048 pixels would take ten
gigabytes, and as many again while they are joined."""
ENOUGH_SECONDS = 8.0
"""After so many seconds no more are decoded than one of each class and part."""
FEWEST = 64
"""Images that are decoded at a time, which keeps all cores busy."""


@dataclass(frozen=True, eq=False)
class ImageSample:
    """Decoded images of a few classes, in parts."""

    class_names: tuple[str, ...]
    images: Pixels
    """[N, H, W, 3] uint8."""
    labels: Labels
    """[N], indices into `class_names`."""
    parts: Parts
    """[N], `Part`s."""
    found: int
    """Images of the whole set, of all parts."""
    decoded: int
    """Of these, how many were decoded. A class lends one of its images to a part that has none of it."""
    classes: int
    """Classes of the whole set."""
    seconds_per_image: float
    """That decoding took, with all cores."""

    def choose_rows(self, part: Part, count: int) -> list[int]:
        """Return the rows of about so many images of a part: the same number of each class, at least one."""
        each = max(1, -(-count // len(self.class_names)))
        rows = np.flatnonzero(self.parts == part)
        return [int(r) for c in range(len(self.class_names)) for r in rows[self.labels[rows] == c][:each]]

    def keep_classes(self, count: int) -> ImageSample:
        """Return the sample with the images of the first `count` classes alone."""
        if count >= len(self.class_names):
            return self
        rows = np.flatnonzero(self.labels < count)
        names = self.class_names[:count]
        images, labels, parts = self.images[rows], self.labels[rows], self.parts[rows]
        return replace(self, class_names=names, images=images, labels=labels, parts=parts)


def sample_images(spec: DataSpec, data_dir: Path | None = None, *, download: bool = True) -> ImageSample:
    """Decode a few images of each class and part of a set; a small set is decoded whole.

    Args:
        spec: the data settings.
        data_dir: folder of the images or the download; goes before `data.path`.
        download: fetch a set that is not here.

    Raises:
        RequestError: as `prepare_dataset`, where one of these images shows it.
    """
    source = find_source(spec, data_dir, download=download)
    listing = source.list_images()
    division = divide_source(source.name, listing, spec)
    classes = len(listing.class_names)
    chosen = [int(c) for c in np.unique(np.linspace(0, classes - 1, min(classes, MOST_CLASSES)).round())]
    rounds = _draw_rounds(listing, (division.train, division.val, division.test), chosen, spec.split_seed)
    kept: list[tuple[int, Part, int]] = []
    decoded: list[Pixels] = []
    most = min(MOST_IMAGES, MOST_BYTES // (3 * spec.image_size**2))
    begun = time.perf_counter()
    for batch in _join_rounds(rounds):
        if decoded and len(kept) + len(batch) > most:
            break
        pixels, good = _decode_rows(listing, [row for row, _, _ in batch], spec)
        decoded.append(pixels[good])
        kept += [batch[index] for index in good]
        if time.perf_counter() - begun >= ENOUGH_SECONDS:
            break
    spent = time.perf_counter() - begun
    seconds = spent / max(1, sum(map(len, decoded)))
    pixels = np.concatenate(decoded)
    lent = _lend_images(source.name, kept, len(chosen))
    kept += [(kept[index][0], part, kept[index][2]) for index, part in lent]
    used = division.train.size + division.val.size + division.test.size
    return ImageSample(
        class_names=tuple(listing.class_names[c] for c in chosen),
        images=np.concatenate([pixels, pixels[[index for index, _ in lent]]]) if lent else pixels,
        labels=np.array([label for _, _, label in kept], dtype=np.int64),
        parts=np.array([part for _, part, _ in kept], dtype=np.int8),
        found=used,
        decoded=len(kept) - len(lent),
        classes=classes,
        seconds_per_image=seconds,
    )


def write_sample(sample: ImageSample, rows: list[int], folder: Path, *, named: bool) -> None:
    """Write images of a sample as PNG files, in a folder for each part and class.

    Args:
        sample: has them.
        rows: which.
        folder: that they are written to, which does not exist yet.
        named: whether the classes' names are names of folders; else they are numbered.
    """
    for row in rows:
        label = int(sample.labels[row])
        name = sample.class_names[label] if named else f"class-{label:04d}"
        place = folder / Part(sample.parts[row]).name.lower() / name
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sample.images[row]).save(place / f"{row:06d}.png", compress_level=1)


Round = list[tuple[int, Part, int]]
"""Row, part and label (of the chosen classes) of images: one of each class and part, as far as there are."""


def _draw_rounds(
    listing: Listing, divided: tuple[Labels, Labels, Labels], chosen: list[int], seed: int
) -> Iterator[Round]:
    """Draw one image of each class and part after the other, without one twice."""
    generator = np.random.default_rng(seed)
    pools = {}
    for part, rows in zip(Part, divided, strict=True):
        shuffled = generator.permutation(rows)
        for label, known in enumerate(chosen):
            pools[part, label] = [int(row) for row in shuffled[listing.labels[shuffled] == known]]
    for number in itertools.count():
        drawn = [(pool[number], part, label) for (part, label), pool in pools.items() if number < len(pool)]
        if not drawn:
            return
        yield drawn


def _join_rounds(rounds: Iterator[Round]) -> Iterator[Round]:
    """Join rounds to batches of at least `FEWEST` images."""
    batch: Round = []
    for drawn in rounds:
        batch += drawn
        if len(batch) >= FEWEST:
            yield batch
            batch = []
    if batch:
        yield batch


def _decode_rows(listing: Listing, rows: list[int], spec: DataSpec) -> tuple[Pixels, list[int]]:
    """Decode rows of a listing; return their pixels, and which of them could be decoded.

    Raises:
        RequestError: one cannot, where the settings do not skip it.
    """
    optional = frozenset(index for index, row in enumerate(rows) if row in listing.optional)
    part = Listing(
        class_names=listing.class_names,
        labels=listing.labels[rows],
        parts=listing.parts[rows],
        open_image=lambda index: listing.open_image(rows[index]),
        names=lambda index: listing.names(rows[index]),
        optional=optional,
    )
    pixels = np.zeros((len(rows), spec.image_size, spec.image_size, 3), dtype=np.uint8)
    skipped, _, _ = decode_images(part, spec, pixels)
    return pixels, sorted(set(range(len(rows))) - set(skipped))


def _lend_images(name: str, kept: Round, classes: int) -> list[tuple[int, Part]]:
    """Find an image for each part without one of a class, among its others: small classes are not in every
    part, and of others skipping may have left none.

    Args:
        name: of the set.
        kept: rows, parts and labels of the decoded images.
        classes: that each part is to have images of.

    Returns:
        The index of the image in `kept`, and the part.

    Raises:
        RequestError: none of a class could be decoded.
    """
    first: dict[int, int] = {}
    for index, (_, _, label) in enumerate(kept):
        first.setdefault(label, index)
    if missing := classes - len(first):
        raise RequestError(
            f"{name}: of {missing} classes none of the images that were tried can be decoded, and "
            "data.unreadable is skip. Give --set data.unreadable=error to have them listed"
        )
    there = {(part, label) for _, part, label in kept}
    return [(first[label], part) for part in Part for label in range(classes) if (part, label) not in there]
