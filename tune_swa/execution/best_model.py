"""The model that a search hands over: `best_model.pt` and what one needs to know to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tune_swa.config import Experiment, is_swa_setting
from tune_swa.experiment.state import ExperimentState
from tune_swa.experiment.trial_state import TrialState
from tune_swa.files import replace_files
from tune_swa.results.soups import choose_soup, list_soups
from tune_swa.storage import Store
from tune_swa.training import checkpoint as checkpoints
from tune_swa.training.networks import list_arguments

WEIGHTS = "best_model.pt"
MERGED_WEIGHTS = {"soup": "best_soup.pt", "swap": "best_swap.pt"}
"""Files of the best of each method that merges models."""


def export_best(
    trial: TrialState,
    state: ExperimentState,
    experiment: Experiment,
    folder: Path,
    store: Store,
    preprocessing: dict[str, Any],
) -> None:
    """Write the weights of `trial`'s last epoch and their description.

    The weights are a plain state_dict: the network of `model.arch` with as many outputs loads them with
    `torch.load(..., weights_only=True)`.

    Raises:
        tune_swa.training.checkpoint.CheckpointError: the trial's last checkpoint cannot be used.
        OSError: the disk refused.
    """
    source = read_state(store, trial.checkpoints[-1])
    _write_model(source, describe_model(trial, state, experiment, preprocessing), folder)


def export_merged(
    method: str,
    state: ExperimentState,
    experiment: Experiment,
    folder: Path,
    store: Store,
    preprocessing: dict[str, Any],
) -> None:
    """Write the weights of the best soup (`soup`), or the best mean of members (`swap`), if there is one, as
    `export_best` does; errors as there.

    The description is that of its first trial, with its recipe and what it reached.
    """
    soups = [soup for soup in list_soups(state) if soup.method == method]
    if not soups:
        return
    soup = choose_soup(soups, state.objective)
    description = describe_model(state.trials[soup.recipe[0]], state, experiment, preprocessing)
    description |= {
        "file": MERGED_WEIGHTS[method],
        "merge": soup.event.merge,
        "recipe": list(soup.recipe),
        "validation": {key: soup.metrics[key] for key in ("accuracy", "nll", "ece")},
    }
    _write_model(read_state(store, soup.event.file), description, folder)


def read_state(store: Store, name: str) -> dict[str, Any]:
    """Read a checkpoint.

    Raises:
        CheckpointError: it is missing, damaged or cannot be read.
    """
    try:
        with store.local(name) as path:
            return checkpoints.load_checkpoint(path)
    except OSError as error:
        raise checkpoints.CheckpointError(f"{name}: cannot be read ({error})") from error


def _write_model(source: dict[str, Any], description: dict[str, Any], folder: Path) -> None:
    weights = folder / description["file"]
    text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
    replace_files(
        {
            weights: lambda path: torch.save(checkpoints.extract_shipped_weights(source), path),
            weights.with_suffix(".json"): lambda path: path.write_text(text, encoding="utf-8"),
        }
    )


def describe_model(
    trial: TrialState, state: ExperimentState, experiment: Experiment, preprocessing: dict[str, Any]
) -> dict[str, Any]:
    """Describe what a completed trial ships, as `best_model.json` does."""
    assert state.header is not None
    assert trial.last is not None
    swa = trial.kind == "swa"
    constants = {n: v for n, v in experiment.constants.items() if swa or not is_swa_setting(n)}
    data, arithmetic = state.header.data, experiment.train.arithmetic
    return {
        "file": WEIGHTS,
        "arch": experiment.model.arch,
        **_describe_arguments(experiment),
        "num_classes": data["num_classes"],
        "class_names": data["class_names"],
        "preprocessing": preprocessing,
        "trial": trial.name,
        "kind": trial.kind,
        "configuration": experiment.format_label(trial.params, trial.chosen_average, swa=swa),
        "params": {**constants, **trial.params},
        "seed": trial.seed,
        "epoch": trial.last["epoch"],
        **({"average": _name_average(trial, experiment)} if swa and experiment.averages else {}),
        "n_averaged": trial.last.get("n_averaged"),
        "validation": {key: trial.last.get(key) for key in ("accuracy", "nll", "ece")},
        "validation_images": data["val"],
        "test": trial.tested.shipped if trial.tested else None,
        "test_images": data["test"],
        "calibration": describe_calibration(trial.tested.shipped if trial.tested else None),
        "numerics": state.header.numerics,
        **({"arithmetic": arithmetic.model_dump()} if arithmetic else {}),
        **({"plugins": state.header.plugins} if state.header.get("plugins") else {}),
        "hardware": state.header.hardware,
        "versions": state.header.versions,
    }


def _describe_arguments(experiment: Experiment) -> dict[str, Any]:
    """What the network is built with besides the number of classes, if anything."""
    arguments = list_arguments(experiment.model.arch, experiment.data.image_size)
    return {"arch_arguments": arguments} if arguments else {}


def _name_average(trial: TrialState, experiment: Experiment) -> str:
    return trial.chosen_average or experiment.averages[0].label


def describe_calibration(metrics: Mapping[str, float] | None) -> dict[str, Any] | None:
    """The temperature that was fitted for a model.

    Args:
        metrics: of the model on the test images; None: it was not tested.

    Returns:
        None where there is no temperature: not tested, or by an older version.
    """
    temperature = None if metrics is None else metrics.get("temperature")
    if temperature is None:
        return None
    return {
        "temperature": temperature,
        "probabilities": "softmax(outputs / temperature)",
        "fitted_on": "validation images",
    }
