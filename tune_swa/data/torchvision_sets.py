"""torchvision's classification sets by name: downloaded where the network allows."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tune_swa.data.cache import cache_folder
from tune_swa.data.pixels import to_rgb
from tune_swa.data.sources import Labels, Listing, Opened, Part
from tune_swa.errors import RequestError
from tune_swa.files import hold_lock
from tune_swa.text import first_line


@dataclass(frozen=True)
class _Part:
    """One part of a set."""

    count: int
    """Images in it, as published."""
    arguments: dict[str, Any]
    """Arguments of torchvision's class for this part."""


@dataclass(frozen=True)
class _Set:
    """A set of torchvision and how to build it."""

    class_name: str
    classes: int
    parts: dict[Part, _Part]


def _split_by_flag(class_name: str, classes: int, train: int, test: int) -> _Set:
    parts = {Part.TRAIN: _Part(train, {"train": True}), Part.TEST: _Part(test, {"train": False})}
    return _Set(class_name, classes, parts)


def _split_by_name(class_name: str, classes: int, **splits: tuple[str, int]) -> _Set:
    """`splits`: part to torchvision's name of the split and its number of images."""
    parts = {Part[part.upper()]: _Part(count, {"split": name}) for part, (name, count) in splits.items()}
    return _Set(class_name, classes, parts)


def _without_split(class_name: str, classes: int, count: int) -> _Set:
    return _Set(class_name, classes, {Part.TRAIN: _Part(count, {})})


SETS = {
    "cifar10": _split_by_flag("CIFAR10", 10, 50_000, 10_000),
    "cifar100": _split_by_flag("CIFAR100", 100, 50_000, 10_000),
    "mnist": _split_by_flag("MNIST", 10, 60_000, 10_000),
    "fashion_mnist": _split_by_flag("FashionMNIST", 10, 60_000, 10_000),
    "kmnist": _split_by_flag("KMNIST", 10, 60_000, 10_000),
    "svhn": _split_by_name("SVHN", 10, train=("train", 73_257), test=("test", 26_032)),
    "stl10": _split_by_name("STL10", 10, train=("train", 5_000), test=("test", 8_000)),
    "flowers102": _split_by_name(
        "Flowers102", 102, train=("train", 1_020), val=("val", 1_020), test=("test", 6_149)
    ),
    "oxford_pets": _split_by_name("OxfordIIITPet", 37, train=("trainval", 3_680), test=("test", 3_669)),
    "food101": _split_by_name("Food101", 101, train=("train", 75_750), test=("test", 25_250)),
    "dtd": _split_by_name("DTD", 47, train=("train", 1_880), val=("val", 1_880), test=("test", 1_880)),
    "gtsrb": _split_by_name("GTSRB", 43, train=("train", 26_640), test=("test", 12_630)),
    "eurosat": _without_split("EuroSAT", 10, 27_000),
    "caltech101": _without_split("Caltech101", 101, 8_677),
}
"""Sets without a test part get one held out, as folders without one do."""


class TorchvisionSet:
    """One of `SETS`.

    Args:
        name: its name there.
        folder: where it is, or is downloaded to; default: `downloads` in the cache folder.
        download: whether it is, where it is not here.
    """

    folder_notes: tuple[str, ...] = ()

    def __init__(self, name: str, folder: Path | None, *, download: bool = True) -> None:
        self.name = name
        self.download = download
        self.folder = folder if folder is not None else cache_folder() / "downloads"

    def identify_images(self) -> str:
        # the published files do not change, so they need not be read to know what is in them
        return f"torchvision {self.name} {os.path.realpath(self.folder)}"

    def list_images(self) -> Listing:
        try:
            # two searches that want the same set must not write the same files
            with hold_lock(self._lock_file()):
                return self._read_parts(download=self.download)
        except Exception as error:  # damaged archives raise whatever the format's reader raises
            class_name = SETS[self.name].class_name
            if not self.download:
                raise RequestError(
                    f"data.dataset: {self.name} is not in {self.folder} ({first_line(error, 200)}), and is "
                    "not downloaded for this. Give the folder that it is in with --data-dir"
                ) from None
            raise RequestError(
                f"data.dataset: {self.name} could not be downloaded to {self.folder} or read there "
                f"({first_line(error, 200)}). Where there is no network, let "
                f"torchvision.datasets.{class_name} download it elsewhere, "
                "copy its folder, and give that with --data-dir"
            ) from None

    def preview_images(self) -> Listing:
        try:
            return self._read_parts(download=False)
        except Exception:  # not here, or not whole: `list_images` tells which
            return self._list_as_published()

    def _lock_file(self) -> Path:
        # not in the folder itself, which may be one that cannot be written
        name = hashlib.blake2b(os.path.realpath(self.folder).encode(), digest_size=8).hexdigest()
        return cache_folder() / f"download-{name}.lock"

    def _read_parts(self, *, download: bool) -> Listing:
        import torchvision

        entry = SETS[self.name]
        build = getattr(torchvision.datasets, entry.class_name)
        if download:
            self.folder.mkdir(parents=True, exist_ok=True)
        images: list[tuple[Any, int]] = []
        labels: list[Labels] = []
        numbers: list[int] = []
        class_names: tuple[str, ...] = ()
        for part, about in entry.parts.items():
            dataset = build(str(self.folder), download=download, **about.arguments)
            class_names = class_names or _read_class_names(dataset, entry.classes)
            labels.append(_read_labels(dataset))
            images += [(dataset, i) for i in range(len(dataset))]
            numbers += [part] * len(dataset)
        return Listing(
            class_names=class_names,
            labels=np.concatenate(labels),
            parts=np.array(numbers, dtype=np.int8),
            open_image=lambda index: _open_image(*images[index]),
            names=lambda index: f"{self.name}, image {index}",
        )

    def _list_as_published(self) -> Listing:
        entry = SETS[self.name]

        def open_image(index: int) -> Opened:
            raise RuntimeError(f"{self.name} is not downloaded: there is no image {index}")

        return Listing(
            class_names=tuple(map(str, range(entry.classes))),
            labels=np.concatenate(
                [np.arange(about.count, dtype=np.int64) % entry.classes for about in entry.parts.values()]
            ),
            parts=np.repeat(
                np.array(list(entry.parts), dtype=np.int8), [about.count for about in entry.parts.values()]
            ),
            open_image=open_image,
            names=lambda index: f"{self.name}, image {index}",
            names_known=False,
        )


def _read_labels(dataset: Any) -> Labels:
    """Labels without decoding the images; the sets keep them under different names."""
    for attribute in ("targets", "labels", "_labels", "y"):
        values = getattr(dataset, attribute, None)
        if values is not None:
            return np.asarray(values, dtype=np.int64)
    return np.array([label for _, label in dataset._samples], dtype=np.int64)


def _read_class_names(dataset: Any, count: int) -> tuple[str, ...]:
    """torchvision's names where it has some, else numbers."""
    for attribute in ("classes", "categories"):
        names = getattr(dataset, attribute, None)
        if names is not None:
            return tuple(map(str, names))
    return tuple(map(str, range(count)))


def _open_image(dataset: Any, index: int) -> Opened:
    return to_rgb(dataset[index][0])
