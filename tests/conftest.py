"""Fixtures that several folders of tests share."""

from __future__ import annotations

import os

# before torch or ray are imported anywhere: the tests run beside one another on few cores
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest

from tune_swa.data.dataset import Dataset


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the user's cache of decoded images."""
    monkeypatch.setenv("TUNE_SWA_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def tiny_data() -> Dataset:
    """48 drawn images of 16 pixels in three classes that a network can tell apart."""
    return draw_dataset(train=28, val=12, test=8)


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
