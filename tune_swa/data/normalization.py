"""Find the channel statistics that images are normalised with: none, ImageNet's, or the set's own."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tune_swa.files import replace_file

Channels = tuple[float, float, float]
Statistics = tuple[Channels, Channels]
"""Means and deviations of the three channels, on the scale [0, 1]."""

NONE: Statistics = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation that torchvision's weights expect."""
CHUNK = 64
"""Images counted at a time: counting takes eight bytes for each value."""


def compute_statistics(
    images: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64], folder: Path
) -> Statistics:
    """Statistics of some images, exact whatever their number.

    Reading all of them takes a while and every worker asks, so the answer is kept in `folder`.

    Args:
        images: [N, H, W, 3] uint8.
        rows: which of them, [n].
        folder: the cache entry that the images are in.
    """
    name = hashlib.blake2b(rows.tobytes(), digest_size=8).hexdigest()
    file = folder / f"channels-{name}.json"
    try:
        mean, std = json.loads(file.read_text(encoding="utf-8"))
        return to_channels(mean), to_channels(std)
    except (OSError, ValueError, TypeError):
        mean, std = _count_values(images, rows)
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time, not results
        replace_file(file, json.dumps([mean, std]).encode(), exclusive=False)
    return mean, std


def _count_values(images: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64]) -> Statistics:
    """Compute both from counts of each of the 256 values in each channel: whole numbers, no rounding."""
    counts = np.zeros((3, 256), dtype=np.int64)
    for start in range(0, len(rows), CHUNK):
        pixels = images[rows[start : start + CHUNK]].reshape(-1, 3)
        for channel in range(3):
            counts[channel] += np.bincount(pixels[:, channel], minlength=256)
    shares = counts / counts.sum(axis=1, keepdims=True)
    values = np.arange(256) / 255
    mean = shares @ values
    variance = (shares * (values - mean[:, None]) ** 2).sum(axis=1)
    # a channel of one single value has no deviation to divide by
    return to_channels(mean), to_channels(np.where(variance > 0, np.sqrt(variance), 1.0))


def to_channels(values: Iterable[float]) -> Channels:
    """Return three numbers as those of red, green and blue."""
    first, second, third = (float(v) for v in values)
    return first, second, third
