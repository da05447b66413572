"""How images are divided into training, validation and test: stratified by class, by a seed of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tune_swa.data.sources import Labels, Part, Parts
from tune_swa.errors import RequestError
from tune_swa.randomness import derive_seed
from tune_swa.spec import DataSpec

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Division:
    """Rows of the images in each part, rising."""

    train: Indices
    val: Indices
    test: Indices


def divide(labels: Labels, parts: Parts, spec: DataSpec) -> Division:
    """Divide images as the settings say.

    Parts that the set brings are kept. Where it brings no test images they are held out of the
    training images first, then the validation images likewise; then `train_images` limits the rest.

    Raises:
        RequestError: too few images for a stratified division.
    """
    rows = {part: np.flatnonzero(parts == part) for part in Part}
    train, val, test = rows[Part.TRAIN], rows[Part.VAL], rows[Part.TEST]
    if not len(test):
        train, test = _hold_out(train, labels, spec.test_fraction, spec, "test")
    if not len(val):
        train, val = _hold_out(train, labels, spec.val_fraction, spec, "val")
    if spec.train_images is not None:
        train = _limit(train, labels, spec)
    return Division(train, val, test)


def _hold_out(
    rows: Indices, labels: Labels, fraction: float, spec: DataSpec, what: str
) -> tuple[Indices, Indices]:
    """Return (kept, held out)."""
    from sklearn.model_selection import train_test_split

    try:
        kept, held = train_test_split(
            rows,
            test_size=fraction,
            stratify=labels[rows],
            random_state=derive_seed(spec.split_seed, what) % 2**32,
        )
    except ValueError as error:
        smallest = int(np.bincount(labels[rows]).min()) if len(rows) else 0
        raise RequestError(
            f"data.{what}_fraction: {fraction} of {len(rows)} images cannot be held out by class (the "
            f"smallest class has {smallest}): {error}. Add images, or change data.{what}_fraction"
        ) from None
    return np.sort(kept), np.sort(held)


def _limit(rows: Indices, labels: Labels, spec: DataSpec) -> Indices:
    assert spec.train_images is not None
    if spec.train_images > len(rows):
        raise RequestError(
            f"data.train_images: {spec.train_images} were asked for, but only {len(rows)} training "
            f"images are there after the division. Ask for at most {len(rows)}, or leave it out"
        )
    if spec.train_images == len(rows):
        return rows
    classes = len(np.unique(labels[rows]))
    # scikit-learn wants an image of each class on both sides
    if not classes <= spec.train_images <= len(rows) - classes:
        raise RequestError(
            f"data.train_images: {spec.train_images} of {len(rows)} images cannot be drawn evenly over "
            f"{classes} classes. Ask for {classes} to {len(rows) - classes}, or leave it out to have all"
        )
    from sklearn.model_selection import train_test_split

    try:
        kept, _ = train_test_split(
            rows,
            train_size=spec.train_images,
            stratify=labels[rows],
            random_state=derive_seed(spec.split_seed, "train") % 2**32,
        )
    except ValueError as error:  # a class of one image
        raise RequestError(
            f"data.train_images: {spec.train_images} of {len(rows)} images cannot be drawn by class: "
            f"{error}. Add images to the smallest classes, or leave it out to have all"
        ) from None
    limited: Indices = np.sort(kept)
    return limited
