"""The report's section on test images that one side classifies correctly and the other does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tune_swa.inference.statistics import mcnemar_test
from tune_swa.results.contrasts import Contrast
from tune_swa.results.predictions import RunPredictions, TestPredictions
from tune_swa.results.report.style import encode_png

MOST_CHANGED = 24
"""Images shown that changed sides."""

Thumbnail = Callable[[int], "tuple[bytes, str] | None"]
"""PNG and name of a test image by its number; None where it is not at hand."""


@dataclass(frozen=True)
class ChangedImage:
    """An image on which the finalist and the baseline disagree."""

    number: int
    name: str
    label: str
    gained: int
    """Seeds on which only the finalist is right, less those on which only the baseline is."""
    picture: str | None
    """As a data URI."""


def list_changed_images(
    c: Contrast,
    predictions: RunPredictions,
    class_names: Sequence[str],
    thumbnail: Thumbnail | None,
) -> Iterator[ChangedImage]:
    """The images that changed sides on the most seeds."""
    each = [a.correct.astype(int) - b.correct for _, a, b in _pair_runs(c, predictions)]
    gained = np.sum(each, axis=0)
    order = sorted(np.flatnonzero(gained), key=lambda i: (-abs(gained[i]), gained[i], i))
    labels = next(iter(predictions.values())).label
    for i in order[:MOST_CHANGED]:
        shown = thumbnail(int(i)) if thumbnail else None
        yield ChangedImage(
            number=int(i),
            name=shown[1] if shown else f"test image {i}",
            label=class_names[labels[i]] if labels[i] < len(class_names) else str(labels[i]),
            gained=int(gained[i]),
            picture=encode_png(shown[0]) if shown else None,
        )


def count_changes(c: Contrast, predictions: RunPredictions) -> list[list[object]]:
    """Images gained and lost by seed, and the p-value of McNemar's test of that pair of runs."""
    pairs = [(seed, mcnemar_test(a.correct, b.correct)) for seed, a, b in _pair_runs(c, predictions)]
    return [[seed, pair.gained, pair.lost, f"{pair.p_value:.2g}"] for seed, pair in pairs]


def _pair_runs(
    c: Contrast, predictions: RunPredictions
) -> Iterator[tuple[int, TestPredictions, TestPredictions]]:
    """Each seed of a contrast, with the predictions of both sides."""
    runs = {run.seed: predictions[run.name] for run in c.arm.runs if run.seed in c.seeds}
    plain = {run.seed: predictions[run.name] for run in c.against.runs if run.seed in c.seeds}
    for seed in c.seeds:
        yield seed, runs[seed], plain[seed]
