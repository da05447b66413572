"""Interface of every source of images, and the list of its images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

Labels = npt.NDArray[np.int64]
Parts = npt.NDArray[np.int8]


class Part(IntEnum):
    """Part of a set that an image came in."""

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
    """Return the name of image i in messages."""
    names_known: bool = True
    """Whether `class_names` are the real ones; those of a set that is not here yet are made up."""
    optional: frozenset[int] = frozenset()
    """Images that are skipped where they cannot be decoded, whatever `data.unreadable` asks for: files of
    suffixes that are of other things as well."""

    def __len__(self) -> int:
        return len(self.labels)


class Source(Protocol):
    """A set of images."""

    @property
    def name(self) -> str:
        """Name in the results."""

    @property
    def folder_notes(self) -> tuple[str, ...]:
        """Which folders are which part, and what is not used; empty for a set that is no folder.

        Raises:
            RequestError: as `list_images`.
        """

    def identify_images(self) -> str:
        """A text that changes when the images do; cheap to work out, nothing is decoded for it.

        Raises:
            RequestError: the images are not there.
        """

    def list_images(self) -> Listing:
        """Find all images.

        Raises:
            RequestError: they are not there and cannot be fetched, or cannot be used.
        """

    def preview_images(self) -> Listing:
        """List the images without downloading anything.

        Of a set that is not here yet, numbers of images and classes are right, and the labels made up.

        Raises:
            RequestError: the images cannot be used.
        """
