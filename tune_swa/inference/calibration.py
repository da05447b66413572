"""Calibration: accuracy against confidence, bin by bin, and the expected calibration error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tune_swa.inference.statistics import Floats, check_finite

_Bin = tuple[float, float, NDArray[np.intp]]
"""Lower and upper edge of confidence, and the images between them."""


@dataclass(frozen=True)
class Reliability:
    """Accuracy against confidence, bin by bin; bins without images are left out."""

    low: Floats
    """Lower edges of confidence, shape (B,)."""
    high: Floats
    confidence: Floats
    """Mean confidence of the images in a bin."""
    accuracy: Floats
    """Fraction of them that is right."""
    images: NDArray[np.int64]

    @property
    def ece(self) -> float:
        """Expected calibration error (Guo et al. 2017): the mean gap, weighted by images."""
        return float((np.abs(self.accuracy - self.confidence) * self.images).sum() / self.images.sum())


def bin_reliability(
    confidence: ArrayLike, correct: ArrayLike, bins: int = 15, *, equal_mass: bool = False
) -> Reliability:
    """Sort images into bins of confidence.

    Args:
        confidence: shape (N,), probability of the class that was chosen.
        correct: shape (N,), whether it is the image's class.
        bins: how many at most.
        equal_mass: as many images in each (Nixon et al. 2019), instead of edges at equal distances.
            An image on an edge belongs to the bin above, and the last bin holds 1 too, so that every
            image is in one bin: as in `tune_swa.training.metrics`, which the recorded ECE comes from.

    Raises:
        ValueError: no images, other shapes, or confidences outside [0, 1].
    """
    given, hits = check_finite(confidence, 1), np.asarray(correct, dtype=bool)
    if given.shape != hits.shape or not len(given):
        raise ValueError(f"shapes {given.shape} and {hits.shape}, expected twice the same (N,), N > 0")
    if given.min() < 0 or given.max() > 1 + 1e-6:
        raise ValueError("a confidence is not between 0 and 1")
    bins_of_images = _split_by_mass(given, bins) if equal_mass else _split_by_width(given, bins)
    return Reliability(
        low=np.array([low for low, _, _ in bins_of_images]),
        high=np.array([high for _, high, _ in bins_of_images]),
        confidence=np.array([given[images].mean() for _, _, images in bins_of_images]),
        accuracy=np.array([hits[images].mean() for _, _, images in bins_of_images]),
        images=np.array([len(images) for _, _, images in bins_of_images]),
    )


def _split_by_mass(confidence: Floats, bins: int) -> list[_Bin]:
    """Bins of equally many images, from the lowest to the highest confidence."""
    order = np.argsort(confidence, kind="stable")
    groups = [group for group in np.array_split(order, bins) if len(group)]
    return [(confidence[group].min(), confidence[group].max(), group) for group in groups]


def _split_by_width(confidence: Floats, bins: int) -> list[_Bin]:
    """Bins of equal width; an image on an edge is in the one above, and the last one holds 1."""
    number = np.clip((confidence * bins).astype(int), 0, bins - 1)
    groups = [(b, np.flatnonzero(number == b)) for b in range(bins)]
    return [(b / bins, (b + 1) / bins, group) for b, group in groups if len(group)]
