"""Ensembles of the runs on fresh seeds: deep ensembles, MultiSWA and MultiSWAG, of equal sizes.

The runs of an arm are independent: other seeds, other initial weights, another order of images. So groups of
them are ensembles that cost no further training, and disjoint groups are repetitions that tell how much
ensembles differ by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tune_swa.errors import RequestError
from tune_swa.experiment.events import DamagedError
from tune_swa.experiment.state import ExperimentState
from tune_swa.inference.calibration import bin_reliability
from tune_swa.results.average_contrasts import REFRESHED_LABEL, AverageContrast, Predictions, compare_entries
from tune_swa.results.contrasts import TestedArm, Verdict
from tune_swa.results.predictions import FOLDER, REFRESHED, SHIPPED, TestPredictions, read_probabilities
from tune_swa.results.provenance import require_header, restore_experiment

DEEP_ENSEMBLE = "deep ensemble"


@dataclass(frozen=True)
class Ensemble:
    """A group of runs of one arm whose probabilities are averaged."""

    arm: TestedArm
    method: str
    """`deep ensemble` of plain training (Lakshminarayanan et al. 2017), `MultiSWA` and `MultiSWAG` (Wilson
    and Izmailov 2020), or `ensemble of` another average."""
    variant: str
    """Of the runs' models, as their files of predictions name it."""
    group: int
    """From 0."""
    seeds: tuple[int, ...]
    predictions: TestPredictions

    def compute_metrics(self) -> dict[str, float]:
        """Means over the test images, and the calibration error."""
        said = self.predictions
        return {
            "accuracy": float(said.correct.mean()),
            "nll": float(said.nll.mean()),
            "ece": bin_reliability(np.minimum(said.confidence, 1), said.correct).ece,
            "brier": float(said.brier.mean()),
        }


def build_ensembles(
    found: Verdict, predictions: Predictions, state: ExperimentState, folder: Path
) -> list[Ensemble]:
    """Group the runs of the finalists and of all plain arms of a look, in the order of their seeds.

    Runs that were tested before `confirm.ensemble` was set have no probabilities, and are in no group.

    Args:
        found: verdict of the look.
        predictions: of all variants of its runs.
        state: the fold of the journal.
        folder: the experiment's folder, which has the predictions.

    Raises:
        RequestError: the journal is empty, or the predictions cannot be read.
    """
    experiment = restore_experiment(state)
    size = experiment.confirm.ensemble
    if size is None:
        return []
    classes = int(require_header(state).data["num_classes"])
    ensembles: list[Ensemble] = []
    for arm in (*found.finalists, *found.plain):
        runs = {run.seed: _read_run(folder, run.name, found.images, classes) for run in arm.runs}
        labels = [predictions[run.name][SHIPPED].label for run in arm.runs[:1]]
        variants = [SHIPPED, REFRESHED]
        if arm.kind == "swa":
            variants = [average.label for average in experiment.averages] or [SHIPPED]
        for variant in variants:
            method = _name_method(arm, "swa" if variant == SHIPPED else variant)
            having = {seed: said[variant] for seed, said in runs.items() if variant in said}
            for group, seeds in enumerate(_split_evenly(tuple(having), size)):
                mean = np.stack([having[seed] for seed in seeds]).mean(axis=0, dtype=np.float64)
                ensembles.append(
                    Ensemble(arm, method, variant, group, seeds, predict_classes(mean, labels[0]))
                )
    return ensembles


def compare_ensembles(found: Verdict, ensembles: Sequence[Ensemble]) -> tuple[AverageContrast, ...]:
    """Compare the ensembles of averages with deep ensembles of plain training of the same size.

    As for single models, "better" is ahead of the deep ensembles of every plain arm.
    """
    best = found.best_plain
    by_method: dict[tuple[str, str], dict[int, TestPredictions]] = {}
    for ensemble in ensembles:
        by_method.setdefault((ensemble.arm.name, ensemble.method), {})[ensemble.group] = ensemble.predictions
    rivals = {arm: groups for (arm, method), groups in by_method.items() if method == DEEP_ENSEMBLE}
    if best is None or best.name not in rivals:
        return ()
    arms = {arm.name: arm for arm in found.arms}
    entries = [
        (arms[arm], method, groups)
        for (arm, method), groups in by_method.items()
        if method != DEEP_ENSEMBLE and (arms[arm].kind == "swa" or arm == best.name)
    ]
    return compare_entries(found, best, entries, rivals)


def ensemble_records(ensembles: Sequence[Ensemble]) -> list[dict[str, Any]]:
    """Rows of ensembles.parquet."""
    return [
        {
            "configuration": ensemble.arm.configuration,
            "arm": ensemble.arm.name,
            "method": ensemble.method,
            "group": ensemble.group,
            "seeds": "+".join(map(str, ensemble.seeds)),
            "runs": len(ensemble.seeds),
            **ensemble.compute_metrics(),
        }
        for ensemble in ensembles
    ]


def predict_classes(probabilities: NDArray[np.float64], label: NDArray[np.int64]) -> TestPredictions:
    """Predictions of an ensemble.

    Args:
        probabilities: of every class, shape (N, C); zeros count as the smallest positive number.
        label: class of each image, shape (N,).
    """
    predicted = probabilities.argmax(axis=1)
    of_label = np.take_along_axis(probabilities, label[:, None], axis=1)[:, 0]
    truth = np.eye(probabilities.shape[1])[label]
    return TestPredictions(
        label=label,
        predicted=predicted,
        probability=of_label,
        confidence=probabilities.max(axis=1),
        nll=-np.log(np.maximum(of_label, np.finfo(np.float64).tiny)),
        brier=np.square(probabilities - truth).sum(axis=1),
    )


def _name_method(arm: TestedArm, label: str) -> str:
    if arm.kind == "baseline":
        return f"{DEEP_ENSEMBLE} ({REFRESHED_LABEL})" if label == REFRESHED else DEEP_ENSEMBLE
    if label == "swa":
        return "MultiSWA"
    return f"MultiSWAG ({label})" if label.startswith("swag") else f"ensemble of {label}"


def _split_evenly(seeds: tuple[int, ...], size: int) -> list[tuple[int, ...]]:
    """Disjoint groups of a size; seeds that are left over are in none."""
    return [seeds[start : start + size] for start in range(0, len(seeds) - size + 1, size)]


def _read_run(folder: Path, name: str, images: int, classes: int) -> dict[str, NDArray[np.float32]]:
    path = folder / FOLDER / f"{name}.npz"
    try:
        return read_probabilities(path, images, classes)
    except DamagedError as error:
        raise RequestError(
            f"{path}: the probabilities on the test images cannot be read ({error}). Restore it from a copy"
        ) from None
