"""torchvision's classification sets by name: downloaded where the network allows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tune_swa.data.sources import Listing, Part
from tune_swa.errors import RequestError


@dataclass(frozen=True)
class _Set:
    """How torchvision builds a set: its class, and the arguments of each part it has."""

    class_name: str
    parts: dict[Part, dict[str, Any]]


def _by_flag(class_name: str, **both: Any) -> _Set:
    return _Set(class_name, {Part.TRAIN: {"train": True, **both}, Part.TEST: {"train": False, **both}})


def _by_split(class_name: str, train: str, test: str, val: str | None = None) -> _Set:
    parts = {Part.TRAIN: {"split": train}, Part.TEST: {"split": test}}
    if val is not None:
        parts[Part.VAL] = {"split": val}
    return _Set(class_name, parts)


SETS = {
    "cifar10": _by_flag("CIFAR10"),
    "cifar100": _by_flag("CIFAR100"),
    "mnist": _by_flag("MNIST"),
    "fashion_mnist": _by_flag("FashionMNIST"),
    "kmnist": _by_flag("KMNIST"),
    "svhn": _by_split("SVHN", "train", "test"),
    "stl10": _by_split("STL10", "train", "test"),
    "flowers102": _by_split("Flowers102", "train", "test", "val"),
    "oxford_pets": _by_split("OxfordIIITPet", "trainval", "test"),
    "food101": _by_split("Food101", "train", "test"),
    "dtd": _by_split("DTD", "train", "test", "val"),
    "gtsrb": _by_split("GTSRB", "train", "test"),
    "eurosat": _Set("EuroSAT", {Part.TRAIN: {}}),
}
"""Sets without a test part get one held out, as folders without one do."""


class TorchvisionSet:
    """One of `SETS`.

    Args:
        name: its name there.
        folder: where it is, or is downloaded to; default: the cache folder.
    """

    def __init__(self, name: str, folder: Path | None) -> None:
        self.name = name
        self._folder = folder

    @property
    def folder(self) -> Path:
        from tune_swa.data.cache import cache_folder

        return self._folder if self._folder is not None else cache_folder() / "downloads"

    def identity(self) -> str:
        # the published files do not change, so they need not be read to know what is in them
        return f"torchvision {self.name} {os.path.realpath(self.folder)}"

    def list_images(self) -> Listing:
        parts = {part: self._build(arguments) for part, arguments in SETS[self.name].parts.items()}
        images: list[tuple[Any, int]] = []
        labels: list[int] = []
        numbers: list[int] = []
        for part, dataset in parts.items():
            found = _labels(dataset)
            images += [(dataset, i) for i in range(len(found))]
            labels += found
            numbers += [part] * len(found)
        return Listing(
            class_names=_class_names(parts[Part.TRAIN], labels),
            labels=np.array(labels, dtype=np.int64) - min(labels, default=0),
            parts=np.array(numbers, dtype=np.int8),
            open_image=lambda index: _image(*images[index]),
            names=lambda index: f"{self.name}, image {index}",
        )

    def _build(self, arguments: dict[str, Any]) -> Any:
        import torchvision

        build = getattr(torchvision.datasets, SETS[self.name].class_name)
        folder = self.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return build(str(folder), download=True, **arguments)
        except (OSError, RuntimeError, ValueError) as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise RequestError(
                f"data.dataset: {self.name} could not be downloaded to {folder} ({first[:200]}). Where there "
                f"is no network, let torchvision.datasets.{SETS[self.name].class_name} download it "
                "elsewhere, copy its folder, and give that with --data-dir"
            ) from None


def _labels(dataset: Any) -> list[int]:
    """Labels without decoding the images; the sets keep them under different names."""
    for attribute in ("targets", "labels", "_labels"):
        values = getattr(dataset, attribute, None)
        if values is not None and len(values) == len(dataset):
            return [int(v) for v in values]
    samples = getattr(dataset, "_samples", None)
    if samples is not None:
        return [int(label) for _, label in samples]
    return [int(dataset[i][1]) for i in range(len(dataset))]


def _class_names(dataset: Any, labels: Sequence[int]) -> tuple[str, ...]:
    names = getattr(dataset, "classes", None)
    count = max(labels) - min(labels) + 1
    return (
        tuple(map(str, names)) if names is not None and len(names) == count else tuple(map(str, range(count)))
    )


def _image(dataset: Any, index: int) -> Image.Image:
    image = dataset[index][0]
    assert isinstance(image, Image.Image)
    return image.convert("RGB")
