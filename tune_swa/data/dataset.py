"""Images with their division: what the training code gets, and how it is prepared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tune_swa.config import ChannelStatistics, DataSpec
from tune_swa.data import cache
from tune_swa.data.cache import Pixels, ProgressCallback
from tune_swa.data.duplicates import Duplicates, find_duplicates
from tune_swa.data.folder_names import show_name
from tune_swa.data.folders import ImageFolders
from tune_swa.data.image_notes import NO_NOTES, ImageNotes, NamedImages
from tune_swa.data.normalization import (
    IMAGENET,
    NONE,
    Channels,
    Statistics,
    compute_statistics,
    to_channels,
)
from tune_swa.data.similarity import Copies
from tune_swa.data.source_lookup import find_source
from tune_swa.data.sources import Labels, Listing, Part, Source
from tune_swa.data.splits import Division, Indices, divide_images
from tune_swa.errors import RequestError
from tune_swa.text import name_first


@dataclass(frozen=True, eq=False)
class Dataset:
    """Decoded images and their division.

    Cheap to pickle: images of the cache travel as the name of their entry and are opened again.
    """

    name: str
    class_names: tuple[str, ...]
    images: Pixels
    """[N, H, W, 3] uint8, all parts in one array; read-only where it lies in the cache."""
    labels: Labels
    """[N] int64, indices into `class_names`."""
    train: Indices
    """Rows of the training images, rising."""
    val: Indices
    """Rows of the validation images, rising."""
    test: Indices
    """Rows of the test images, rising."""
    fingerprint: str
    """Hash of pixels, labels, division and normalisation."""
    mean: Channels = NONE[0]
    """Subtracted from images in [0, 1], per channel."""
    std: Channels = NONE[1]
    """Divisor of the difference."""
    cache_path: Path | None = None
    """The cache entry that the images lie in; None for images from arrays."""
    image_notes: ImageNotes = NO_NOTES
    """Images skipped and converted by decoding, and images that occur more than once."""
    folder_notes: tuple[str, ...] = ()
    """Which folders are which part, what is not used, and which classes a part lacks."""

    @property
    def num_classes(self) -> int:
        """Number of classes, and of the network's outputs."""
        return len(self.class_names)

    @classmethod
    def from_arrays(
        cls,
        images: Pixels,
        labels: npt.ArrayLike,
        train: npt.ArrayLike,
        val: npt.ArrayLike,
        test: npt.ArrayLike,
        *,
        class_names: Sequence[str],
        name: str = "arrays",
    ) -> Dataset:
        """A dataset of images in memory.

        Args:
            images: [N, H, W, 3] uint8.
            labels: [N], indices into `class_names`.
            train: rows of the training images.
            val: rows of the validation images.
            test: rows of the test images.
            class_names: one for each class.
            name: what the set is called in the results.

        Raises:
            ValueError: shapes, types or rows do not fit together.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise ValueError(f"images: expected [N, H, W, 3] uint8, got {images.shape} {images.dtype}")
        classes = np.asarray(labels, dtype=np.int64)
        if classes.shape != (len(images),):
            raise ValueError(f"labels: expected one for each of {len(images)} images, got {classes.shape}")
        _check_range("labels", classes, len(class_names))
        first, second, third = (np.asarray(rows, dtype=np.int64) for rows in (train, val, test))
        parts = (first, second, third)
        for what, rows in zip(("train", "val", "test"), parts, strict=True):
            _check_range(what, rows, len(images))
        digest = hashlib.blake2b(json.dumps([images.shape, list(class_names)]).encode(), digest_size=16)
        for array in (images, classes):
            digest.update(np.ascontiguousarray(array).data)
        fingerprint = _hash_dataset(digest.hexdigest(), parts, NONE)
        return cls(name, tuple(class_names), images, classes, *parts, fingerprint)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if self.cache_path is not None:
            state["images"] = None
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["cache_path"] is not None:
            found = cache.read_entry(state["cache_path"])
            if found is None:
                raise RequestError(
                    f"{state['cache_path']}: the decoded images have gone since the dataset was prepared. "
                    "Prepare it again"
                )
            state = {**state, "images": found.images}
        self.__dict__.update(state)


@dataclass(frozen=True)
class Estimate:
    """Preview of a dataset before it is prepared."""

    name: str
    num_classes: int
    class_names: tuple[str, ...]
    """Empty while they are not known."""
    folder_notes: tuple[str, ...]
    """Which folders are which part, what is not used, and which classes a part lacks."""
    train: int
    """Number of training images."""
    val: int
    test: int
    cache_bytes: int
    """Size of the decoded images."""
    cached: bool
    """Whether they are decoded already."""
    image_notes: ImageNotes
    """Files that are left out; once the images are decoded, also what was skipped and converted, and which
    images occur more than once."""

    @property
    def duplicates(self) -> Duplicates | None:
        """Images that occur more than once; None while that is not known."""
        return self.image_notes.duplicates


def prepare_dataset(
    spec: DataSpec,
    data_dir: Path | None = None,
    progress: ProgressCallback | None = None,
    *,
    verify: bool = False,
    download: bool = True,
) -> Dataset:
    """Find the images, decode them if that is still to do, and divide them.

    Args:
        spec: the data settings.
        data_dir: folder of the images or the download; goes before `data.path`.
        progress: called with (images done, images in all) while decoding.
        verify: read decoded images whole and compare their hash; for whoever uses them first.
        download: fetch a set that is not here.

    Raises:
        RequestError: the images are missing, damaged or too few, or occur more than once where the settings
            refuse that; nothing is left half done.
    """
    source = find_source(spec, data_dir, download=download)
    found = cache.find_entry(source, spec, verify=verify)
    if found is None:
        listing = source.list_images()
        _divide_checked(source.name, listing, spec)  # what cannot be divided need not be decoded
        found = cache.decode_source(source, listing, spec, progress)
    copies = cache.look_for_copies(found)
    division = _divide_checked(source.name, found, spec, copies)
    duplicates = _describe_duplicates(source, found, division, spec, copies)
    if spec.duplicates == "error" and (refusal := duplicates.explain_refusal(source.name)):
        raise RequestError(refusal)
    parts = (division.train, division.val, division.test)
    statistics = _choose_statistics(spec, found, division.train)
    return Dataset(
        name=source.name,
        class_names=found.class_names,
        images=found.images,
        labels=found.labels,
        train=division.train,
        val=division.val,
        test=division.test,
        fingerprint=_hash_dataset(found.fingerprint, parts, statistics),
        mean=statistics[0],
        std=statistics[1],
        cache_path=found.folder,
        image_notes=replace(found.image_notes, duplicates=duplicates, left_out=_find_left_out(source)),
        folder_notes=(*source.folder_notes, *_note_absent_classes(found, division)),
    )


def find_file_names(spec: DataSpec, data_dir: Path | None, data: Dataset) -> Callable[[int], str] | None:
    """Find the file of each row of `data`, below the folder of the images; None for sets without files.

    Args:
        spec: the data settings.
        data_dir: as of `prepare_dataset`.
        data: what that gave.

    Raises:
        RequestError: the images are not there any more.
    """
    return _make_file_namer(find_source(spec, data_dir, download=False), len(data.labels))


def _make_file_namer(source: Source, count: int) -> Callable[[int], str] | None:
    if not isinstance(source, ImageFolders):
        return None
    listing = source.list_images()
    if len(listing) != count:  # changed since
        return None
    above = f"{source.root}/"
    return lambda row: listing.names(row).removeprefix(above)


def estimate_dataset(spec: DataSpec, data_dir: Path | None = None) -> Estimate:
    """Preview the result of `prepare_dataset`, without decoding or downloading anything.

    With `data.duplicates: group` the numbers are those without copies while the images are not decoded.

    Args:
        spec: the data settings.
        data_dir: folder of the images or the download; goes before `data.path`.

    Raises:
        RequestError: the images are missing or too few.
    """
    source = find_source(spec, data_dir)
    found = cache.find_entry(source, spec)
    copies = cache.read_copies(found) if found is not None else None
    listing = found or source.preview_images()
    names_known = not isinstance(listing, Listing) or listing.names_known
    division = _divide_checked(source.name, listing, spec, copies)
    absent = _note_absent_classes(listing, division) if names_known else ()
    if found is None:
        cache.check_writable(len(listing.labels), spec)
    notes = replace(found.image_notes if found is not None else NO_NOTES, left_out=_find_left_out(source))
    if found is not None and copies is not None:
        notes = replace(notes, duplicates=_describe_duplicates(source, found, division, spec, copies))
    return Estimate(
        name=source.name,
        num_classes=len(listing.class_names),
        class_names=listing.class_names if names_known else (),
        folder_notes=(*source.folder_notes, *absent),
        train=len(division.train),
        val=len(division.val),
        test=len(division.test),
        cache_bytes=len(listing.labels) * spec.image_size**2 * 3,
        cached=found is not None,
        image_notes=notes,
    )


def divide_source(name: str, listing: Listing, spec: DataSpec) -> Division:
    """Divide the images of a source that are not decoded yet, as `prepare_dataset` does.

    Raises:
        RequestError: there are too few.
    """
    return _divide_checked(name, listing, spec)


def _find_left_out(source: Source) -> Mapping[str, NamedImages]:
    return source.find_left_out() if isinstance(source, ImageFolders) else {}


def _divide_checked(
    name: str, images: cache.Decoded | Listing, spec: DataSpec, copies: Copies | None = None
) -> Division:
    if not (images.parts == Part.TRAIN).any():
        raise RequestError(
            f"{name}: none of the training images can be decoded, so data.unreadable: skip leaves none. "
            "Replace them; without skip, a message names each with the reason"
        )
    same = copies.near if copies is not None and spec.duplicates == "group" else None
    division = divide_images(images.labels, images.parts, spec, same, class_names=images.class_names)
    for what, rows in (("train", division.train), ("validate", division.val), ("test", division.test)):
        if len(rows) < 2:
            raise RequestError(f"{name}: {len(rows)} images to {what} with; at least 2 are needed")
    counts = np.bincount(images.labels[division.train], minlength=len(images.class_names))
    if not counts.all():
        without = name_first([images.class_names[i] for i in np.flatnonzero(counts == 0)], 10)
        if same is not None:
            raise RequestError(
                f"{name}: no images to train with in {without}, once all copies of an image are on one side "
                "of each split. Add images that are no copies, or give --set data.duplicates=warn"
            )
        raise RequestError(f"{name}: no images to train with in {without}. Add some that can be decoded")
    return division


def _note_absent_classes(images: cache.Decoded | Listing, division: Division) -> tuple[str, ...]:
    """A line on each part without images of some class. A small class can be left out of a drawn part, and
    so can one whose images cannot be decoded; no accuracy shows that."""
    notes = []
    for what, rows in (("validate", division.val), ("test", division.test)):
        counts = np.bincount(images.labels[rows], minlength=len(images.class_names))
        if not counts.all():
            absent = [show_name(images.class_names[i]) for i in np.flatnonzero(counts == 0)]
            notes.append(f"no images to {what} with in {name_first(absent, 10)}: no accuracy covers that")
    return tuple(notes)


def _describe_duplicates(
    source: Source, found: cache.Decoded, division: Division, spec: DataSpec, copies: Copies
) -> Duplicates:
    return find_duplicates(
        copies,
        division,
        found.parts,
        found.labels,
        class_names=found.class_names,
        names=lambda: _make_file_namer(source, len(found.labels)) or "image {}".format,
        setting=spec.duplicates,
    )


def _check_range(what: str, values: npt.NDArray[np.int64], stop: int) -> None:
    if len(values) and not (values.min() >= 0 and values.max() < stop):
        raise ValueError(f"{what}: expected 0 to {stop - 1}, got {values.min()} to {values.max()}")


def _choose_statistics(spec: DataSpec, found: cache.Decoded, train: Indices) -> Statistics:
    if spec.normalize == "dataset":
        return compute_statistics(found.images, train, found.folder)
    if isinstance(spec.normalize, ChannelStatistics):
        return to_channels(spec.normalize.mean), to_channels(spec.normalize.std)
    assert spec.normalize != "auto", "resolve_normalization comes first"
    return IMAGENET if spec.normalize == "imagenet" else NONE


def _hash_dataset(content: str, parts: tuple[Indices, Indices, Indices], statistics: Statistics) -> str:
    digest = hashlib.blake2b(content.encode(), digest_size=16)
    for rows in parts:
        digest.update(len(rows).to_bytes(8, "big") + rows.astype(np.int64).tobytes())
    digest.update(json.dumps(statistics).encode())
    return digest.hexdigest()
