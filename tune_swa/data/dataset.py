"""Images with their division: what the training code gets, and how it is prepared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tune_swa.data import cache
from tune_swa.data.cache import Pixels, ProgressCallback
from tune_swa.data.sources import Labels, find_source
from tune_swa.data.splits import Indices, divide
from tune_swa.errors import RequestError
from tune_swa.spec import DataSpec

Channels = tuple[float, float, float]
IMAGENET: tuple[Channels, Channels] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Channel means and deviations of ImageNet, as torchvision's weights expect them."""
NOT_NORMALIZED: tuple[Channels, Channels] = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@dataclass(frozen=True)
class Dataset:
    """Decoded images and their division."""

    name: str
    class_names: tuple[str, ...]
    images: Pixels
    """[N, H, W, 3] uint8, all parts in one array."""
    labels: Labels
    """[N] int64, indices into `class_names`."""
    train: Indices
    """Rows of the training images, rising."""
    val: Indices
    test: Indices
    fingerprint: str
    """Hash of pixels, labels, division and normalisation."""
    mean: Channels = NOT_NORMALIZED[0]
    """Subtracted from images in [0, 1], per channel."""
    std: Channels = NOT_NORMALIZED[1]
    """What the difference is divided by."""
    folder: Path | None = None
    """Where the decoded images lie; None for images from arrays."""

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @classmethod
    def from_arrays(
        cls,
        images: Pixels,
        labels: Labels,
        *,
        train: Indices,
        val: Indices,
        test: Indices,
        class_names: Sequence[str],
        name: str = "arrays",
    ) -> Dataset:
        """A dataset of images in memory: [N, H, W, 3] uint8, labels [N], and rows of each part."""
        digest = hashlib.blake2b(digest_size=16)
        for array in (images, labels):
            digest.update(np.ascontiguousarray(array).data)
        fingerprint = _fingerprint(digest.hexdigest(), (train, val, test), NOT_NORMALIZED)
        return cls(name, tuple(class_names), images, labels, train, val, test, fingerprint)

    def __getstate__(self) -> dict[str, Any]:
        """By reference where the images lie in a file, so that it travels cheaply."""
        state = dict(self.__dict__)
        if self.folder is not None:
            state["images"] = None
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["folder"] is not None:
            found = cache.read(state["folder"])
            if found is None:
                raise RuntimeError(f"{state['folder']}: the decoded images are not there any more")
            state = {**state, "images": found.images}
        self.__dict__.update(state)


@dataclass(frozen=True)
class Estimate:
    """What preparing a dataset would give."""

    name: str
    num_classes: int
    train: int
    val: int
    test: int
    cache_bytes: int
    """Size of the decoded images."""
    cached: bool
    """Whether they are decoded already."""


def prepare(
    spec: DataSpec, data_dir: Path | None = None, progress: ProgressCallback | None = None
) -> Dataset:
    """Find the images, decode them if that is still to do, and divide them.

    Args:
        spec: the data settings.
        data_dir: folder of the images or the download; goes before `data.path`.
        progress: called with (images done, images in all) while decoding.

    Raises:
        RequestError: the images are missing, damaged or too few; nothing is left half done.
    """
    source = find_source(spec, data_dir)
    found = cache.decoded(source, spec, progress)
    division = divide(found.labels, found.parts, spec)
    parts = (division.train, division.val, division.test)
    for what, rows in zip(("train", "validate", "test"), parts, strict=True):
        if len(rows) < 2:
            raise RequestError(f"{source.name}: {len(rows)} images to {what} with; at least 2 are needed")
    channels = _channels(spec, found, division.train)
    return Dataset(
        name=source.name,
        class_names=found.class_names,
        images=found.images,
        labels=found.labels,
        train=division.train,
        val=division.val,
        test=division.test,
        fingerprint=_fingerprint(found.fingerprint, parts, channels),
        mean=channels[0],
        std=channels[1],
        folder=found.folder,
    )


def estimate(spec: DataSpec, data_dir: Path | None = None) -> Estimate:
    """What `prepare` would give, without decoding anything.

    Raises:
        RequestError: the images are missing or too few.
    """
    source = find_source(spec, data_dir)
    found = cache.find(source, spec)
    listing = found or source.list_images()
    division = divide(listing.labels, listing.parts, spec)
    return Estimate(
        name=source.name,
        num_classes=len(listing.class_names),
        train=len(division.train),
        val=len(division.val),
        test=len(division.test),
        cache_bytes=len(listing.labels) * spec.image_size**2 * 3,
        cached=found is not None,
    )


def _channels(spec: DataSpec, found: cache.Decoded, train: Indices) -> tuple[Channels, Channels]:
    if spec.normalize == "none":
        return NOT_NORMALIZED
    if spec.normalize == "imagenet":
        return IMAGENET
    return _training_statistics(found, train)


def _training_statistics(found: cache.Decoded, train: Indices) -> tuple[Channels, Channels]:
    """Mean and deviation of each channel over the training images; kept beside the images, since
    reading all of them takes a while and every worker asks."""
    name = hashlib.blake2b(train.tobytes(), digest_size=8).hexdigest()
    file = found.folder / f"channels-{name}.json"
    try:
        mean, std = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        total, squares, count = np.zeros(3), np.zeros(3), 0
        for start in range(0, len(train), cache.CHUNK):
            pixels = found.images[train[start : start + cache.CHUNK]].reshape(-1, 3) / 255.0
            total += pixels.sum(0)
            squares += (pixels**2).sum(0)
            count += len(pixels)
        mean = total / count
        std = np.sqrt(np.maximum(squares / count - mean**2, 1e-12))
        temporary = file.with_suffix(".tmp")
        temporary.write_text(json.dumps([mean.tolist(), std.tolist()]), encoding="utf-8")
        temporary.replace(file)
    return _three(mean), _three(std)


def _three(values: Sequence[float]) -> Channels:
    first, second, third = (float(v) for v in values)
    return first, second, third


def _fingerprint(
    content: str, parts: tuple[Indices, Indices, Indices], channels: tuple[Channels, Channels]
) -> str:
    digest = hashlib.blake2b(content.encode(), digest_size=16)
    for rows in parts:
        digest.update(len(rows).to_bytes(8, "big") + rows.astype(np.int64).tobytes())
    digest.update(json.dumps(channels).encode())
    return digest.hexdigest()
