"""Checks beside the verdict: validation against test accuracy, and configurations as good as the best."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike

PARTS_LEVEL = 0.01
"""Two-sided level of `compare_parts`: a remark that every report may make should rarely be wrong."""


@dataclass(frozen=True)
class PartsComparison:
    """Mean accuracy on the test images minus that on the validation images, of the same runs."""

    difference: float
    standard_error: float
    p_value: float
    """Two-sided, of both parts being drawn alike."""
    differ: bool
    """Whether `p_value` is below `level`."""
    level: float


def compare_parts(
    validation: ArrayLike, test: ArrayLike, validation_images: int, test_images: int
) -> PartsComparison:
    """Whether validation and test accuracy differ by more than images and seeds explain.

    Two independent sets of images, looked at by the same runs. However many runs there are, the images
    stay the same, so their part of the variance is that of two binomial shares with a common p (the score
    test of two proportions), as if the runs erred on the same images: it cannot be more. The runs' part
    is the variance of test minus validation over the runs, over their number. The sum errs on the side
    of no remark.

    Args:
        validation: shape (S,), accuracy of each run on the validation images, 0 to 1.
        test: shape (S,), of the same runs on the test images.
        validation_images: how many there are.
        test_images: how many there are.

    Raises:
        ValueError: no runs, not as many of both, or no images.
    """
    first, second = np.asarray(validation, dtype=np.float64), np.asarray(test, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(f"shapes {first.shape} and {second.shape}, expected twice the same (S,), S > 0")
    if validation_images < 1 or test_images < 1:
        raise ValueError(f"{validation_images} validation and {test_images} test images")
    images = validation_images + test_images
    p = float(first.mean() * validation_images + second.mean() * test_images) / images
    variance = p * (1 - p) * (1 / validation_images + 1 / test_images)
    if len(first) > 1:
        variance += float(np.var(second - first, ddof=1)) / len(first)
    difference, error = float(second.mean() - first.mean()), math.sqrt(max(0.0, variance))
    p_value = 1.0 if not difference else float(2 * scipy.stats.norm.sf(abs(difference) / error))
    return PartsComparison(difference, error, p_value, p_value < PARTS_LEVEL, PARTS_LEVEL)


@dataclass(frozen=True)
class OneError:
    """Number of configurations that are as good as the best."""

    count: int
    """Configurations within one standard error of the best, the best included."""
    standard_error: float
    """Standard error of the best one's accuracy."""


def count_within_one_error(accuracies: ArrayLike, images: int) -> OneError:
    """Count the configurations within one standard error of the best (Breiman et al. 1984).

    Args:
        accuracies: shape (N,), validation accuracy of each configuration, 0 to 1.
        images: validation images.

    Raises:
        ValueError: no configurations or no images.
    """
    values = np.asarray(accuracies, dtype=np.float64)
    if values.ndim != 1 or not len(values) or images < 1:
        raise ValueError(f"shape {values.shape} and {images} images, expected (N,), N > 0, and images")
    best = float(values.max())
    error = math.sqrt(best * (1 - best) / images)
    # accuracies are multiples of 1 / images, so a tie at the edge is one of rounding
    return OneError(int((values >= best - error - 1e-9).sum()), error)
