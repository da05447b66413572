"""Where images come from: what every source offers, and which one a name stands for."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from tune_swa.config import DataSpec
from tune_swa.errors import RequestError
from tune_swa.paths import expanded

Labels = npt.NDArray[np.int64]
Parts = npt.NDArray[np.int8]


class Part(IntEnum):
    """Which part of a set an image came in."""

    TRAIN = 0
    VAL = 1
    TEST = 2


SKIPPED = -1
"""Part of an image that could not be decoded: none."""


class Opened(NamedTuple):
    """A decoded image, and what was done to it."""

    image: Image.Image
    """RGB, at its own size."""
    conversions: tuple[str, ...] = ()
    """Kinds of conversions it took to get there, such as `greyscale`."""


@dataclass(frozen=True)
class Listing:
    """The images of a source before they are decoded."""

    class_names: tuple[str, ...]
    labels: Labels
    """Index into `class_names` of every image, [N]."""
    parts: Parts
    """The `Part` every image came in, or `SKIPPED`, [N]."""
    open_image: Callable[[int], Opened]
    """Decode image i."""
    names: Callable[[int], str]
    """What image i is called in messages."""

    def __len__(self) -> int:
        return len(self.labels)


class Source(Protocol):
    """A set of images."""

    @property
    def name(self) -> str:
        """What it is called in the results."""

    def identity(self) -> str:
        """A text that changes when the images do; cheap to work out, nothing is decoded for it.

        Raises:
            RequestError: the images are not there.
        """

    def list_images(self) -> Listing:
        """Find all images.

        Raises:
            RequestError: they are not there and cannot be fetched, or cannot be used.
        """

    def preview(self) -> Listing:
        """As `list_images`, but nothing is downloaded for it.

        Of a set that is not here yet, numbers of images and classes are right, and the labels made up.

        Raises:
            RequestError: the images cannot be used.
        """


def find_source(spec: DataSpec, data_dir: Path | None = None, *, download: bool = True) -> Source:
    """The source that `data.dataset` names.

    Args:
        spec: the data settings.
        data_dir: folder of the images or the download; goes before `data.path`.
        download: whether it may fetch what is not here.

    Raises:
        RequestError: there is no such source.
    """
    from tune_swa.data.digits import Digits
    from tune_swa.data.folders import ImageFolders
    from tune_swa.data.torchvision_sets import SETS, TorchvisionSet

    folder = None
    if data_dir is not None:
        folder = expanded(data_dir, "--data-dir")
    elif spec.path is not None:
        folder = expanded(spec.path, "data.path:")
    if spec.dataset == "digits":
        if folder is not None:
            raise RequestError(
                f"data.dataset: digits come with scikit-learn and are not read from {folder}. Leave the "
                "folder out, or set data.dataset to folder for your own images there"
            )
        return Digits()
    if spec.dataset == "folder":
        return ImageFolders(folder, exif_rotation=spec.exif_rotation)
    if spec.dataset in SETS:
        return TorchvisionSet(spec.dataset, folder, download=download)
    known = ["digits", "folder", *SETS]
    close = difflib.get_close_matches(spec.dataset, known, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise RequestError(f"data.dataset: no set is called {spec.dataset!r}.{hint} Known: {', '.join(known)}")
