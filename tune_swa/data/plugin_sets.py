"""A set of images that a plugin loads: map-style datasets, or arrays."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tune_swa.data.pixels import to_rgb
from tune_swa.data.sources import Labels, Listing, Opened, Part
from tune_swa.errors import RequestError
from tune_swa.plugin_files import describe_user_error, explain_user_error
from tune_swa.plugins import RegisteredDataset, require_source
from tune_swa.text import first_line

PARTS = {"train": Part.TRAIN, "val": Part.VAL, "test": Part.TEST}
RETURNS = "a dictionary with train, and optionally val, test and class_names"
PART = "a map-style dataset, or a pair of images and labels"
ITEM = "(image, label), the image as a PIL image or uint8 [H, W, 3]"


class PartImages(NamedTuple):
    """One part of a set: its labels, and how its images are read."""

    name: str
    part: Part
    labels: Labels
    images: Any
    """Array or sequence of images; None: they are in the dataset."""
    dataset: Any = None


class PluginSet:
    """A set that a plugin has registered.

    Args:
        registered: its loader.
        folder: of `--data-dir` or `data.path`, for loaders that take it.

    Raises:
        RequestError: it is no plugin's.
    """

    folder_notes: tuple[str, ...] = ()

    def __init__(self, registered: RegisteredDataset, folder: Path | None) -> None:
        self.name = registered.name
        self._registered, self._folder = registered, folder
        self._lock = threading.Lock()
        source = require_source(f"data.dataset: {self.name}", registered)
        self._file, self._digest = source.file, source.digest

    def identify_images(self) -> str:
        # what the loader reads is not known: the code stands for it, the place of that, beside which it may
        # lie, and the version that it gives itself
        folder = "" if self._folder is None else os.path.realpath(self._folder)
        place = os.path.realpath(self._file)
        return f"plugin {self.name} {self._digest} {self._registered.version} {folder} {place}"

    def preview_images(self) -> Listing:
        return self.list_images()

    def list_images(self) -> Listing:
        parts, class_names = self._loaded
        labels = np.concatenate([part.labels for part in parts])
        items = [(part, index) for part in parts for index in range(len(part.labels))]
        return Listing(
            class_names=class_names,
            labels=labels,
            parts=np.repeat(
                np.array([part.part for part in parts], dtype=np.int8), [len(part.labels) for part in parts]
            ),
            open_image=lambda index: self._open_image(*items[index]),
            names=lambda index: f"{self.name}: {items[index][0].name}[{items[index][1]}]",
        )

    @cached_property
    def _loaded(self) -> tuple[list[PartImages], tuple[str, ...]]:
        """The parts and the names of the classes.

        Raises:
            RequestError: the loader failed, or gives no set of images.
        """
        result = self._call_loader()
        if not isinstance(result, Mapping) or result.get("train") is None:
            got = sorted(map(str, result)) if isinstance(result, Mapping) else type(result).__name__
            raise self._refuse(f"its loader has to return {RETURNS}; got {got}")
        unknown = [str(key) for key in result if key not in {*PARTS, "class_names"}]
        if unknown:
            raise self._refuse(f"its loader has to return {RETURNS}; {', '.join(unknown)} is none of these")
        parts = [
            self._try_part(name, result[name], part)
            for name, part in PARTS.items()
            if result.get(name) is not None
        ]
        names = result.get("class_names")
        if names is None:
            own = getattr(result["train"], "classes", None)
            names = own if isinstance(own, list | tuple | np.ndarray) else None
        classes = self._name_classes(parts, names)
        if len(classes) < 2:
            raise self._refuse(f"at least two classes are needed, and it has {len(classes)}")
        return parts, classes

    def _call_loader(self) -> Any:
        loader = self._registered.function
        takes = _count_arguments(loader)
        if self._folder is not None and not takes:
            raise self._refuse(f"its loader takes no folder, and cannot read {self._folder}. Leave that out")
        try:
            return loader(self._folder) if takes else loader()
        except (Exception, SystemExit) as error:
            raise explain_user_error(f"data.dataset: {self.name}", error, self._file) from None

    def _try_part(self, name: str, given: Any, part: Part) -> PartImages:
        """Read a part; whatever a user's object raises is named by it."""
        try:
            return self._read_part(name, given, part)
        except RequestError:
            raise
        except (Exception, SystemExit) as error:
            raise explain_user_error(f"data.dataset: {self.name}: {name}", error, self._file) from None

    def _read_part(self, name: str, given: Any, part: Part) -> PartImages:
        if not hasattr(given, "__len__") or not hasattr(given, "__getitem__"):
            raise self._refuse(f"{name}: expected {PART}; got {type(given).__name__}")
        if len(given) == 0:
            raise self._refuse(f"{name}: has no images")
        if not (isinstance(given, tuple | list) and len(given) == 2):
            return PartImages(name, part, self._list_labels(name, given), None, given)
        images, labels = given
        if hasattr(images, "dtype"):  # an array or a tensor; else a sequence of images
            images = np.asarray(images)
            if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
                got = _describe_array(images)
                raise self._refuse(f"{name}: images are {got}, expected uint8 [N, H, W, 3]")
        if not hasattr(images, "__len__") or not hasattr(images, "__getitem__"):
            raise self._refuse(
                f"{name}: expected {PART}; got a pair that begins with {type(images).__name__}"
            )
        found = self._check_labels(name, labels)
        if len(images) != len(found):
            raise self._refuse(f"{name}: {len(images)} images and {len(found)} labels")
        if len(images) == 0:
            raise self._refuse(f"{name}: has no images")
        return PartImages(name, part, found, images)

    def _list_labels(self, name: str, dataset: Any) -> Labels:
        """Read the labels of a dataset: from `targets` or `labels` if it has one for each image, else item by
        item."""
        for attribute in ("targets", "labels"):
            values = getattr(dataset, attribute, None)
            if values is not None and hasattr(values, "__len__") and len(values) == len(dataset):
                return self._check_labels(name, values)
        labels = []
        for index in range(len(dataset)):
            try:
                labels.append(self._read_item(dataset, index)[1])
            except ValueError as error:
                raise self._refuse(f"{name}[{index}]: {error}") from None
        return self._check_labels(name, labels)

    def _check_labels(self, name: str, given: Any) -> Labels:
        try:
            labels = np.asarray(given if hasattr(given, "dtype") else [*given])
        except (TypeError, ValueError, OverflowError) as error:
            raise self._refuse(
                f"{name}: labels have to be whole numbers ({first_line(error, 100)})"
            ) from None
        if labels.ndim != 1 or (labels.dtype.kind not in "iu" and len(labels)):
            got = _describe_array(labels)
            raise self._refuse(f"{name}: labels have to be one whole number for each image; got {got}")
        labels = labels.astype(np.int64)
        if len(labels) and labels.min() < 0:
            row = int(np.flatnonzero(labels < 0)[0])
            raise self._refuse(f"{name}[{row}]: label {labels[row]} is below 0")
        return labels

    def _name_classes(self, parts: Sequence[PartImages], names: Any) -> tuple[str, ...]:
        if names is None:
            used = np.unique(np.concatenate([part.labels for part in parts]))
            gap = int(np.argmax(used != np.arange(len(used)))) if used[-1] >= len(used) else None
            if gap is not None:  # before so many names are made up
                raise self._refuse(
                    f"labels go up to {used[-1]}, and none is {gap}. Number the {len(used)} classes from 0 "
                    f"to {len(used) - 1}"
                )
            return tuple(map(str, used.tolist()))
        if isinstance(names, str | bytes | Mapping) or not hasattr(names, "__getitem__"):
            raise self._refuse(f"class_names has to be a list of names; got {type(names).__name__}")
        # surrogates, as of file names, would be refused by the files that the names go to
        known = tuple(str(name).encode(errors="backslashreplace").decode() for name in names)
        for part in parts:
            over = np.flatnonzero(part.labels >= len(known))
            if len(over):
                row = int(over[0])
                raise self._refuse(
                    f"{part.name}[{row}]: label {part.labels[row]}, but there are {len(known)} class names, "
                    f"so labels go from 0 to {len(known) - 1}"
                )
        return known

    def _read_item(self, dataset: Any, index: int) -> tuple[Any, Any]:
        """Read an item.

        Raises:
            ValueError: the dataset fails, or the item is no pair.
        """
        try:
            item = dataset[index]
        except (Exception, SystemExit) as error:
            raise ValueError(describe_user_error(error, self._file)) from None
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise ValueError(f"expected {ITEM}; got {type(item).__name__}")
        return item[0], item[1]

    def _open_image(self, part: PartImages, index: int) -> Opened:
        """Read an image; what is wrong with it is listed by its name, like a file that cannot be decoded."""
        with self._lock:  # a user's dataset need not bear several threads
            if part.dataset is None:
                image = part.images[index]
            else:
                image, label = self._read_item(part.dataset, index)
                if int(label) != part.labels[index]:
                    listed = part.labels[index]
                    raise ValueError(
                        f"its label is {int(label)}, and {listed} in the dataset's list of labels"
                    )
        if isinstance(image, Image.Image):
            if 0 in image.size:
                raise ValueError("it has no pixels")
            return to_rgb(image)
        array = np.asarray(image)
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
            hint = "; leave ToTensor out of its transform" if array.dtype.kind == "f" else ""
            raise ValueError(f"{_describe_array(array)}, expected a PIL image or uint8 [H, W, 3]{hint}")
        if not array.size:
            raise ValueError("it has no pixels")
        return Opened(Image.fromarray(array))

    def _refuse(self, reason: str) -> RequestError:
        return RequestError(f"data.dataset: {self.name} ({self._file}): {reason}")


def _count_arguments(loader: Callable[..., Any]) -> int:
    try:
        inspect.signature(loader).bind(None)
    except (TypeError, ValueError):
        return 0
    return 1


def _describe_array(array: Any) -> str:
    return f"{array.dtype} [{', '.join(map(str, array.shape))}]"
