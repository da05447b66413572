"""Read the predictions of the runs on fresh seeds for the test images."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tune_swa.errors import RequestError
from tune_swa.experiment.state import ExperimentState
from tune_swa.text import first_line

FOLDER = "predictions"
FIELDS = ("predicted", "probability", "confidence", "nll", "brier")
SHIPPED, REFRESHED = "shipped", "refreshed"
"""Variants of a run's model: the one to ship, and a baseline's with refreshed statistics."""


@dataclass(frozen=True)
class TestPredictions:
    """Predictions of one model for N test images, in their order."""

    label: NDArray[np.int64]
    predicted: NDArray[np.int64]
    probability: NDArray[np.float64]
    """Probability of the label."""
    confidence: NDArray[np.float64]
    """Probability of the predicted class."""
    nll: NDArray[np.float64]
    brier: NDArray[np.float64]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Shape (N,)."""
        return np.equal(self.predicted, self.label)


RunPredictions = Mapping[str, TestPredictions]
"""Predictions of one model of each run, by the name of the run."""


def read_predictions(state: ExperimentState, folder: Path) -> dict[str, dict[str, TestPredictions]]:
    """Read the predictions of every tested trial, by trial and variant.

    Raises:
        RequestError: a file is missing or damaged, or of another number of images than in the journal.
    """
    return {
        trial.name: _read_file(folder / FOLDER / f"{trial.name}.npz", trial.tested.images)
        for trial in state.trials.values()
        if trial.tested is not None
    }


def read_shipped(state: ExperimentState, folder: Path) -> dict[str, TestPredictions]:
    """Read the predictions of the models to ship; errors as in `read_predictions`."""
    return {name: variants[SHIPPED] for name, variants in read_predictions(state, folder).items()}


def _read_file(path: Path, images: int) -> dict[str, TestPredictions]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        found = {v: _select_variant(arrays, v) for v in (SHIPPED, REFRESHED) if f"{v}.predicted" in arrays}
        sizes = {len(array) for array in arrays.values()}
        if sizes != {images} or SHIPPED not in found:
            raise ValueError(f"it is not of {images} images")
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or first_line(error)
        raise RequestError(
            f"{path}: the predictions on the test images cannot be read ({reason}). Restore it from a copy"
        ) from None
    return found


def _select_variant(arrays: Mapping[str, NDArray[np.generic]], variant: str) -> TestPredictions:
    fields = {field: arrays[f"{variant}.{field}"] for field in FIELDS}
    return TestPredictions(
        label=arrays["label"].astype(np.int64),
        predicted=fields["predicted"].astype(np.int64),
        **{f: fields[f].astype(np.float64) for f in FIELDS if f != "predicted"},
    )
