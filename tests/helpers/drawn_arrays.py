"""A data set that is drawn in memory, for tests that train."""

from __future__ import annotations

import numpy as np

from tune_swa.data.dataset import Dataset


def draw_dataset(*, train: int, val: int, test: int, size: int = 16, classes: int = 3) -> Dataset:
    """Noise whose mean colour is the class's, so that there is something to learn."""
    rng = np.random.default_rng(0)
    count = train + val + test
    labels = np.arange(count, dtype=np.int64) % classes
    colours = rng.integers(40, 200, size=(classes, 3))
    noise = rng.normal(0, 40, size=(count, size, size, 3))
    images = np.clip(colours[labels][:, None, None, :] + noise, 0, 255).astype(np.uint8)
    order = np.arange(count, dtype=np.int64)
    return Dataset.from_arrays(
        images,
        labels,
        train=order[:train],
        val=order[train : train + val],
        test=order[train + val :],
        class_names=tuple("abcdefghij"[:classes]),
        name="drawn",
    )
