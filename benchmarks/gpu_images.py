"""Images for benchmarks/gpu.py, drawn with numpy and Pillow: JPEG folders, and small sets in memory."""

from __future__ import annotations

import multiprocessing
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from tune_swa.config import DataSpec
from tune_swa.data.dataset import Dataset

CLASSES = 6
SIDE = 150
"""Pixels of the JPEG files, as of the tutorial's images."""
PARTS = (("train", 0.8), ("val", 0.2))
"""Shares of the images. `test` gets two images of each class, for the benchmarks never read them."""


@cache
def _draw_landscape(side: int = 1024) -> npt.NDArray[np.int16]:
    """Noise at every scale, [side, side, 3], which JPEG compresses about as it does a photograph."""
    drawn = np.random.default_rng(0)
    total = np.zeros((side, side, 3))
    for cells in (8, 32, 128, 512):
        grid = drawn.integers(0, 255, (cells, cells, 3), dtype=np.uint8)
        enlarged = Image.fromarray(grid).resize((side, side), Image.Resampling.BICUBIC)
        total += np.asarray(enlarged, dtype=float) * (8 / cells) ** 0.5
    return ((total - total.mean()) / total.std() * 45).astype(np.int16)


def _write_some(job: tuple[Path, list[int]]) -> None:
    """Write the images of one folder: crops whose mean colour is their class's."""
    folder, numbers = job
    landscape = _draw_landscape()
    colours = np.random.default_rng(1).integers(80, 175, (CLASSES, 3))
    for number in numbers:
        kind = number % CLASSES
        target = folder / f"class-{kind}"
        target.mkdir(parents=True, exist_ok=True)
        top, left = np.random.default_rng(number).integers(0, len(landscape) - SIDE, 2)
        crop = landscape[top : top + SIDE, left : left + SIDE] + colours[kind]
        image = Image.fromarray(np.clip(crop, 0, 255).astype(np.uint8))
        image.save(target / f"{number:05d}.jpg", quality=90)


def write_folders(root: Path, count: int, processes: int) -> None:
    """Write JPEG files as `root/{train,val,test}/class-*/*.jpg`.

    Args:
        root: gets the three folders.
        count: images of train and val together.
        processes: how many draw at once.
    """
    names = [name for name, _ in PARTS]
    first = round(count * PARTS[0][1])
    parts = dict(zip(names, (range(first), range(first, count)), strict=True))
    parts["test"] = range(count, count + 2 * CLASSES)
    jobs = [
        (root / name, list(numbers[start : start + 500]))
        for name, numbers in parts.items()
        for start in range(0, len(numbers), 500)
    ]
    if len(jobs) <= 3 or processes == 1:
        for job in jobs:
            _write_some(job)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        pool.map(_write_some, jobs)


def folder_spec(size: int) -> DataSpec:
    """The images of `write_folders`, in their own three parts, which needs no scikit-learn to divide."""
    return DataSpec.model_validate({"dataset": "folder", "image_size": size})


def draw_dataset(train: int, val: int, size: int, *, seed: int = 0, classes: int = 3) -> Dataset:
    """Noise whose mean colour is the class's, in memory.

    Args:
        train: images to train with.
        val: images to validate with, and as many to test with.
        size: pixels of a side.
        seed: of the noise.
        classes: number of them.
    """
    drawn = np.random.default_rng(seed)
    count = train + 2 * val
    labels = np.arange(count, dtype=np.int64) % classes
    colours = np.array([[60, 120, 180], [180, 60, 120], [120, 180, 60]])[:classes]
    images = np.empty((count, size, size, 3), dtype=np.uint8)
    for row, label in enumerate(labels):  # one by one, as the noise of many large ones takes gigabytes
        noise = drawn.normal(0, 30, (size, size, 3))
        images[row] = np.clip(colours[label] + noise, 0, 255)
    order = np.arange(count, dtype=np.int64)
    return Dataset.from_arrays(
        images, labels, order[:train], order[train : train + val], order[train + val :],
        class_names=tuple("abc"[:classes]), name="drawn",
    )  # fmt: skip
