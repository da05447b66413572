"""Divide images into training, validation and test: stratified by class, by a seed of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tune_swa.config import DataSpec
from tune_swa.data.folder_names import show_name
from tune_swa.data.sources import Labels, Part, Parts
from tune_swa.errors import RequestError
from tune_swa.seeds import derive_seed
from tune_swa.text import name_first

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Division:
    """Rows of the images in each part, rising."""

    train: Indices
    val: Indices
    test: Indices
    left_out: Indices = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """Taken out of train or val, since test or val, which the set brings, hold copies of them."""


@dataclass(frozen=True)
class _Drawing:
    """What is drawn from, and what a refusal of it says."""

    labels: Labels
    spec: DataSpec
    same: Indices
    class_names: Sequence[str]
    counts: Indices
    """Training images of each class before anything is held out, [classes]."""
    draws: int
    """Number of parts that are held out."""

    def name_classes(self, rows: Indices, below: int) -> str:
        """The classes with fewer than `below` of these rows, the smallest first, with their counts."""
        left = np.bincount(self.labels[rows], minlength=len(self.counts))
        few = [i for i in np.argsort(left, kind="stable") if self.counts[i] and left[i] < below]
        names = []
        for i in few:
            name = show_name(self.class_names[i]) if i < len(self.class_names) else f"class {i}"
            held = f", {left[i]} of them left to draw from" if left[i] < self.counts[i] else ""
            names.append(f"{name} has {self.counts[i]}{held}")
        return name_first(names, 10, separator="; ")


def divide_images(
    labels: Labels,
    parts: Parts,
    spec: DataSpec,
    same: Indices | None = None,
    *,
    class_names: Sequence[str] = (),
) -> Division:
    """Divide images as the settings say.

    Parts that the set brings are kept. Where it brings no test images they are held out of the
    training images first, then the validation images likewise; then `train_images` limits the rest.

    Args:
        labels: [N].
        parts: that each image came in, [N].
        spec: the data settings.
        same: of each image the first row that shows the same, [N]; all copies of an image are then put on
            one side of each draw, and those of images in a part that the set brings are taken out of the
            parts before it. None: copies are images like others.
        class_names: what the classes are called in a refusal.

    Raises:
        RequestError: too few images for a stratified division.
    """
    same = np.arange(len(labels)) if same is None else same
    rows = {part: np.flatnonzero(parts == part) for part in Part}
    test = rows[Part.TEST]
    val, in_test = _take_out(rows[Part.VAL], test, same)
    train, elsewhere = _take_out(rows[Part.TRAIN], np.concatenate([val, test]), same)
    draws = (not len(test)) + (not len(rows[Part.VAL]))
    drawing = _Drawing(labels, spec, same, class_names, np.bincount(labels[rows[Part.TRAIN]]), draws)
    if not len(test):
        train, test = _hold_out(train, spec.test_fraction, "test", drawing)
    if not len(rows[Part.VAL]):
        train, val = _hold_out(train, spec.val_fraction, "val", drawing)
    if spec.train_images is not None:
        train = _limit_training(train, spec.train_images, drawing)
    return Division(train, val, test, np.sort(np.concatenate([in_test, elsewhere])))


def _take_out(rows: Indices, others: Indices, same: Indices) -> tuple[Indices, Indices]:
    """Return (kept, taken out): rows that show what none, or one, of the others shows."""
    shown = np.isin(same[rows], same[others])
    return rows[~shown], rows[shown]


def _hold_out(rows: Indices, fraction: float, what: str, drawing: _Drawing) -> tuple[Indices, Indices]:
    """Return (kept, held out); one of all copies is drawn, and the others go where it goes."""
    from sklearn.model_selection import train_test_split

    every = rows
    _, first, number = np.unique(drawing.same[rows], return_index=True, return_inverse=True)
    rows = every[first]  # all of them, in this order, where no image has copies
    try:
        _, drawn = train_test_split(
            np.arange(len(rows)),
            test_size=fraction,
            stratify=drawing.labels[rows],
            random_state=derive_seed(drawing.spec.split_seed, what) % 2**32,
        )
    except ValueError as error:
        begun = f"data.{what}_fraction: {fraction} of {len(rows)} images cannot be held out by class"
        smallest = int(np.bincount(drawing.labels[rows]).min()) if len(rows) else 0
        begun += f" (the smallest class has {smallest})"
        later = drawing.draws - 1 if what == "test" else 0
        advice = _advise_fraction(len(rows), len(np.unique(drawing.labels[rows])), later)
        if few := drawing.name_classes(rows, 2 if advice else 2 + later):
            raise RequestError(
                f"{begun}: {few}. At least {1 + drawing.draws} images of each class are needed. Add images "
                "to these classes, or remove their folders"
            ) from None
        raise RequestError(
            f"{begun}: {advice or error}. Add images, or change data.{what}_fraction"
        ) from None
    held = np.isin(number, drawn)
    return every[~held], every[held]


def _advise_fraction(images: int, classes: int, later: int) -> str:
    """The fractions with which every class has images on both sides; empty where there is none.

    Args:
        images: that are drawn from.
        classes: that they have.
        later: draws that follow, from what this one leaves.
    """
    most = images - (1 + later) * classes
    if classes > most:
        return ""
    least, highest = _find_fraction(classes, images), _find_fraction(most, images)
    return f"{classes:,} classes need an image each on both sides, so it has to be from {least} to {highest}"


def _find_fraction(held: int, images: int) -> float:
    """The shortest decimal of which scikit-learn, which rounds up, holds out `held` of the images."""
    for digits in range(2, 9):
        scale = 10.0**digits
        fraction = math.floor(held / images * scale) / scale
        if math.ceil(fraction * images) == held:
            return fraction
    return held / images


def _limit_training(rows: Indices, count: int, drawing: _Drawing) -> Indices:
    if count > len(rows):
        raise RequestError(
            f"data.train_images: {count} were asked for, but only {len(rows)} training "
            f"images are there after the division. Ask for at most {len(rows)}, or leave it out"
        )
    if count == len(rows):
        return rows
    classes = len(np.unique(drawing.labels[rows]))
    # scikit-learn wants an image of each class on both sides
    if not classes <= count <= len(rows) - classes:
        raise RequestError(
            f"data.train_images: {count} of {len(rows)} images cannot be drawn evenly over "
            f"{classes} classes. Ask for {classes} to {len(rows) - classes}, or leave it out to have all"
        )
    from sklearn.model_selection import train_test_split

    try:
        kept, _ = train_test_split(
            rows,
            train_size=count,
            stratify=drawing.labels[rows],
            random_state=derive_seed(drawing.spec.split_seed, "train") % 2**32,
        )
    except ValueError as error:  # a class of one image
        raise RequestError(
            f"data.train_images: {count} of {len(rows)} images cannot be drawn by class: "
            f"{drawing.name_classes(rows, 2) or error}. Add images to the smallest classes, or leave it out "
            "to have all"
        ) from None
    limited: Indices = np.sort(kept)
    return limited
