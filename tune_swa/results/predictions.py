"""Read the predictions of the runs on fresh seeds for the test images."""

from __future__ import annotations

import lzma
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.format import read_array, read_array_header_1_0, read_array_header_2_0, read_magic
from numpy.typing import NDArray

from tune_swa.errors import RequestError
from tune_swa.experiment.events import DamagedError
from tune_swa.experiment.layout import PROBABILITIES
from tune_swa.experiment.state import ExperimentState
from tune_swa.text import first_line

FOLDER = "predictions"
FIELDS = ("predicted", "probability", "confidence", "nll", "brier")
CALIBRATED = ("confidence", "nll", "brier")
"""Scores that a file has at the fitted temperature too, as `VARIANT.nll_calibrated`; older ones lack them."""
LEAST = 1e-3
"""Rounding that a probability or a score may show."""
SHIPPED, REFRESHED = "shipped", "refreshed"
"""Variants of a run's model: the one to ship, and a baseline's with refreshed statistics. Averages that the
run observed are further ones, by their labels."""


@dataclass(frozen=True)
class CalibratedScores:
    """Scores for N test images at the temperature that was fitted on the validation images."""

    confidence: NDArray[np.float64]
    nll: NDArray[np.float64]
    brier: NDArray[np.float64]


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
    calibrated: CalibratedScores | None = None
    """None: of a version that fitted no temperature."""

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Shape (N,)."""
        return np.equal(self.predicted, self.label)


RunPredictions = Mapping[str, TestPredictions]
"""Predictions of one model of each run, by the name of the run."""


def read_predictions(state: ExperimentState, folder: Path) -> dict[str, dict[str, TestPredictions]]:
    """Read the predictions of every tested trial and merged model of a fresh seed, by its name and variant.

    Raises:
        RequestError: a file is missing or damaged, or of another number of images than in the journal.
    """
    classes = int(state.header.data["num_classes"]) if state.header else 0
    images = {trial.name: trial.tested.images for trial in state.trials.values() if trial.tested}
    images |= {name: merged.images for name, merged in state.tested_merges.items()}
    found = {}
    for name, number in images.items():
        path = folder / FOLDER / f"{name}.npz"
        try:
            found[name] = _read_file(path, number, classes)
        except DamagedError as error:
            raise RequestError(
                f"{path}: the predictions on the test images cannot be read ({error}). Restore it from a copy"
            ) from None
    return found


def read_shipped(state: ExperimentState, folder: Path) -> dict[str, TestPredictions]:
    """Read the predictions of the models to ship; errors as in `read_predictions`."""
    return {name: variants[SHIPPED] for name, variants in read_predictions(state, folder).items()}


def find_damage(path: Path, images: int, classes: int) -> str | None:
    """Why a file of predictions cannot be used; None: it can be.

    Args:
        path: of the file.
        images: that the run was tested on.
        classes: that they have.
    """
    try:
        _read_file(path, images, classes)
    except DamagedError as error:
        return str(error)
    return None


def _read_file(path: Path, images: int, classes: int) -> dict[str, TestPredictions]:
    """Read the predictions of a run, by variant.

    Raises:
        DamagedError: the file is missing, or holds anything else.
    """
    with _name_damage(path), zipfile.ZipFile(path) as archive:
        arrays = {
            member.filename.removesuffix(".npy"): _read_array(archive, member, (images,))
            for member in archive.infolist()
            if not member.filename.endswith(f".{PROBABILITIES}.npy")
        }
        variants = [name.removesuffix(".predicted") for name in arrays if name.endswith(".predicted")]
        found = {variant: _select_variant(arrays, variant) for variant in variants}
        if SHIPPED not in found:
            raise ValueError("they are not those of the model to ship")
        for predictions in found.values():
            _check_values(predictions, classes)
    return found


def read_probabilities(path: Path, images: int, classes: int) -> dict[str, NDArray[np.float32]]:
    """Read the probabilities of every class, [N, C], by variant; empty where a run did not keep them.

    Args:
        path: of the run's file.
        images: that it was tested on.
        classes: that they have.

    Raises:
        DamagedError: the file is missing, or holds anything else.
    """
    found = {}
    with _name_damage(path), zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            variant, _, what = member.filename.removesuffix(".npy").rpartition(".")
            if what == PROBABILITIES:
                values = _read_array(archive, member, (images, classes)).astype(np.float32)
                if not ((values >= 0).all() and (abs(values.sum(axis=1) - 1) <= LEAST).all()):
                    raise ValueError(f"{member.filename} holds no probabilities")
                found[variant] = values
    return found


@contextmanager
def _name_damage(path: Path) -> Iterator[None]:
    """Turn what a damaged file raises into a DamagedError that says why."""
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is no file")  # reading a pipe would wait for ever
        yield
    except OSError as error:
        raise DamagedError(error.strerror or first_line(error)) from None
    except KeyError as error:
        raise DamagedError(f"{error.args[0]} is missing") from None
    except (ValueError, EOFError, MemoryError, NotImplementedError, RuntimeError) as error:
        raise DamagedError(first_line(error)) from None
    except (zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
        raise DamagedError(first_line(error)) from None


def _read_array(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, expected: tuple[int, ...]
) -> NDArray[np.generic]:
    """Read one array of a file, whose header is checked first: it may ask for more memory than there is.

    Raises:
        ValueError: it is not of numbers, in the expected shape.
    """
    with archive.open(member) as file:
        read_header = {(1, 0): read_array_header_1_0, (2, 0): read_array_header_2_0}
        version = read_magic(file)
        if version not in read_header:
            raise ValueError(f"{member.filename} is of an unknown format")
        shape, _, dtype = read_header[version](file)
    if shape != expected:
        raise ValueError(f"{member.filename} is of shape {shape}, not of {expected[0]} images")
    whole = member.filename.endswith(("label.npy", "predicted.npy"))
    if dtype.kind not in ("iu" if whole else "f") or dtype.itemsize > 8:
        raise ValueError(f"{member.filename} is of type {dtype}")
    with archive.open(member) as file:
        array: NDArray[np.generic] = read_array(file, allow_pickle=False)
    return array


def _check_values(predictions: TestPredictions, classes: int) -> None:
    """Refuse what no model predicts.

    Raises:
        ValueError: naming what is out of range.
    """
    limits = {"label": (0, classes - 1), "predicted": (0, classes - 1), "nll": (-LEAST, np.inf)}
    limits |= dict.fromkeys(("probability", "confidence"), (-LEAST, 1 + LEAST))
    limits["brier"] = (-LEAST, 2 + LEAST)
    values = {name: getattr(predictions, name) for name in limits}
    if predictions.calibrated is not None:
        limits |= {f"{name}_calibrated": limits[name] for name in CALIBRATED}
        values |= {f"{name}_calibrated": getattr(predictions.calibrated, name) for name in CALIBRATED}
    for name, (low, high) in limits.items():
        if not (np.isfinite(values[name]) & (values[name] >= low) & (values[name] <= high)).all():
            raise ValueError(f"{name} has a value that is not from {max(0, low):g} to {high:g}")


def _select_variant(arrays: Mapping[str, NDArray[np.generic]], variant: str) -> TestPredictions:
    fields = {field: arrays[f"{variant}.{field}"] for field in FIELDS}
    names = {name: f"{variant}.{name}_calibrated" for name in CALIBRATED}
    calibrated = None
    if any(name in arrays for name in names.values()):
        calibrated = CalibratedScores(**{n: arrays[name].astype(np.float64) for n, name in names.items()})
    return TestPredictions(
        label=arrays["label"].astype(np.int64),
        predicted=fields["predicted"].astype(np.int64),
        **{f: fields[f].astype(np.float64) for f in FIELDS if f != "predicted"},
        calibrated=calibrated,
    )
