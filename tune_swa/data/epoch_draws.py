"""The random numbers of one epoch's augmentations, drawn for all its images at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tune_swa.data.gather import to_device
from tune_swa.seeds import derive_seed

ATTEMPTS = 10
"""Rectangles that are drawn for an image until one fits into it, as by torchvision."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class EpochDraws:
    """Where an epoch's random numbers come from. They go by an image's place in the order of the epoch, so
    they depend neither on the batch size nor on the device."""

    seed: int
    """Of the run."""
    epoch: int
    purpose: str
    """What the batches are for; each purpose draws on its own."""
    order: Tensor
    """Rows of the images, [n] int64 on the CPU."""
    shape: tuple[int, int]
    """Height and width of the images."""
    device: torch.device
    """Where the numbers are wanted."""

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self.order)

    def derive_seed(self, *path: str | int) -> int:
        """Return the seed of an augmentation, or of what `path` names."""
        return derive_seed(self.seed, self.epoch, self.purpose, *path)

    def open_torch_generator(self, name: str) -> torch.Generator:
        """Return torch's generator of an augmentation, on the CPU."""
        return torch.Generator().manual_seed(self.derive_seed(name))

    def open_generator(self, name: str) -> np.random.Generator:
        """Return numpy's generator of an augmentation."""
        return np.random.default_rng(self.derive_seed(name))

    def move_numbers(self, numbers: npt.NDArray[Any] | Tensor) -> Tensor:
        """Return numbers on the device: reals as float32, others as they are. The host does not wait."""
        tensor = torch.as_tensor(numbers)
        return to_device(tensor.float() if tensor.is_floating_point() else tensor, self.device)


def draw_crops(
    generator: np.random.Generator,
    count: int,
    shape: tuple[int, int],
    scale: Sequence[float],
    ratio: Sequence[float],
) -> npt.NDArray[np.int64]:
    """Draw the part that each image is cut to, by the rule of torchvision's RandomResizedCrop.

    Args:
        count: number of images.
        shape: their height and width.
        scale: bounds of the part's area, of the image's.
        ratio: bounds of its width, of its height.

    Returns:
        Top, left, height and width, [n, 4]. Where no attempt fits, the largest centred part of such a ratio.
    """
    height, width = shape
    areas, aspects = _draw_areas(generator, count, shape, scale, ratio)
    wide, high = np.rint(np.sqrt(areas * aspects)), np.rint(np.sqrt(areas / aspects))
    fits = (wide > 0) & (wide <= width) & (high > 0) & (high <= height)
    aspect = min(max(width / height, ratio[0]), ratio[1])
    spare = max(1, round(min(height, width / aspect))), max(1, round(min(width, height * aspect)))
    high, wide = _choose_first(fits, (high, wide), spare)
    top, left = _draw_corners(generator, height - high, width - wide)
    centred = ~fits.any(axis=1)
    top = np.where(centred, (height - high) // 2, top)
    left = np.where(centred, (width - wide) // 2, left)
    return np.stack([top, left, high, wide], axis=1).astype(np.int64)


def draw_erased(
    generator: np.random.Generator,
    count: int,
    shape: tuple[int, int],
    scale: Sequence[float],
    ratio: Sequence[float],
) -> npt.NDArray[np.int64]:
    """Draw the rectangle that is erased of each image, by the rule of torchvision's RandomErasing.

    Args:
        count: number of images.
        shape: their height and width.
        scale: bounds of the rectangle's area, of the image's.
        ratio: bounds of its height, of its width.

    Returns:
        Top, left, height and width, [n, 4]; of no size where no attempt fits.
    """
    height, width = shape
    areas, aspects = _draw_areas(generator, count, shape, scale, ratio)
    high, wide = np.rint(np.sqrt(areas * aspects)), np.rint(np.sqrt(areas / aspects))
    high, wide = _choose_first((high < height) & (wide < width), (high, wide), (0, 0))
    top, left = _draw_corners(generator, height - high, width - wide)
    return np.stack([top, left, high, wide], axis=1).astype(np.int64)


def draw_pasted(
    shares: Floats, generator: np.random.Generator, shape: tuple[int, int]
) -> npt.NDArray[np.int64]:
    """Draw the rectangle of each image that another image replaces, by the rule of torchvision's CutMix.

    Args:
        shares: part of the image that stays, before the rectangle is cut off at the border, [n].
        shape: height and width of the images.

    Returns:
        Top, left, bottom and right, [n, 4].
    """
    height, width = shape
    half = 0.5 * np.sqrt(1.0 - shares)
    columns = generator.integers(0, width, len(shares))
    rows = generator.integers(0, height, len(shares))
    across, down = np.floor(half * width), np.floor(half * height)
    edges = [
        np.maximum(rows - down, 0),
        np.maximum(columns - across, 0),
        np.minimum(rows + down, height),
        np.minimum(columns + across, width),
    ]
    return np.stack(edges, axis=1).astype(np.int64)


def _draw_areas(
    generator: np.random.Generator,
    count: int,
    shape: tuple[int, int],
    scale: Sequence[float],
    ratio: Sequence[float],
) -> tuple[Floats, Floats]:
    """Areas in pixels, uniform, and ratios, uniform in the logarithm: [n, ATTEMPTS] each."""
    areas = shape[0] * shape[1] * generator.uniform(scale[0], scale[1], (count, ATTEMPTS))
    logarithms = np.log(ratio)
    return areas, np.exp(generator.uniform(logarithms[0], logarithms[1], (count, ATTEMPTS)))


def _choose_first(
    fits: npt.NDArray[np.bool_], sides: tuple[Floats, Floats], spare: tuple[int, int]
) -> tuple[Floats, Floats]:
    """Both sides of the first attempt that fits, [n]; `spare` where none does."""
    first = fits.argmax(axis=1)[:, None]
    some = fits.any(axis=1)
    chosen = [np.take_along_axis(side, first, axis=1)[:, 0] for side in sides]
    return np.where(some, chosen[0], spare[0]), np.where(some, chosen[1], spare[1])


def _draw_corners(generator: np.random.Generator, rows: Floats, columns: Floats) -> tuple[Floats, Floats]:
    """Whole numbers from 0 up to `rows` and `columns`, each as likely."""
    drawn = generator.random((2, len(rows)))
    return np.floor(drawn[0] * (rows + 1)), np.floor(drawn[1] * (columns + 1))
