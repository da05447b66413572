"""Record everything that results depend on, and check that a resumed search has the same."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Sequence
from typing import Any

from msgspec import UNSET

import tune_swa
from tune_swa.config import Experiment
from tune_swa.config.network_names import TIMM
from tune_swa.config.sections import SCHEDULE_FREE
from tune_swa.data.dataset import Dataset
from tune_swa.errors import RequestError
from tune_swa.experiment.events import FORMAT, ExperimentCreated
from tune_swa.hardware.torch_probe import GpuSurvey
from tune_swa.plugins import describe_sources
from tune_swa.training.model import StateDict, hash_weights
from tune_swa.training.numerics import Numerics, describe_hardware
from tune_swa.training.run import LOOP_VERSION

OPTIONAL = ("schedulefree", "timm")
"""Libraries that some experiments alone depend on."""
SAMPLERS = ("optuna", "cmaes", "scipy", "numpy")
PACKAGES = ("torch", "torchvision", "ray", *SAMPLERS, "pillow", "pandas", "pyarrow", "scikit-learn")


def build_header(
    experiment: Experiment,
    data: Dataset,
    weights: StateDict | None,
    numerics: Numerics,
    surveys: Sequence[GpuSurvey] = (),
) -> ExperimentCreated:
    """The `created` event: everything that the results depend on.

    Args:
        experiment: the space file.
        data: the images.
        weights: that the network starts from.
        numerics: of all trials.
        surveys: of this machine or of each node, with the GPUs that are used; none: it is the CPU.
    """
    return ExperimentCreated(
        format=FORMAT,
        version=tune_swa.__version__,
        spec=experiment.model_dump(mode="json", by_alias=True),
        identity=experiment.fixed_settings(),
        data={
            "name": data.name,
            "fingerprint": data.fingerprint,
            "num_classes": data.num_classes,
            "class_names": list(data.class_names),
            "train": len(data.train),
            "val": len(data.val),
            "test": len(data.test),
            **data.image_notes.as_dict(),
        },
        weights=hash_weights(weights),
        numerics=numerics.as_dict(),
        loop=LOOP_VERSION,
        hardware={**describe_hardware(), **describe_gpus(surveys)},
        versions=package_versions() | _find_versions(experiment),
        seed=experiment.seed,
        plugins=describe_sources() or UNSET,
    )


def describe_gpus(surveys: Sequence[GpuSurvey]) -> dict[str, Any]:
    """The GPUs of the search, with the versions of what its numbers and times depend on there."""
    found: dict[str, Any] = {"gpus": [gpu.name for survey in surveys for gpu in survey.gpus]}
    if found["gpus"]:
        found["gpu_memory"] = [gpu.memory for survey in surveys for gpu in survey.gpus]
        for field in ("driver", "driver_cuda", "cuda", "cudnn"):
            values = list(dict.fromkeys(getattr(survey, field) for survey in surveys))
            found[field] = values[0] if len(values) == 1 else values
    return found


def package_versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {"python": platform.python_version(), "tune_swa": tune_swa.__version__}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _find_versions(experiment: Experiment) -> dict[str, str]:
    """Versions of the libraries whose optimizers or network trials have, if they have any of theirs."""
    used = {
        "schedulefree": SCHEDULE_FREE.intersection(experiment.list_extremes("train.optimizer")),
        "timm": experiment.model.arch.startswith(TIMM),
    }
    return {name: importlib.metadata.version(name) for name in OPTIONAL if used[name]}


def check_unchanged(
    begun: ExperimentCreated, data: Dataset | None, weights: StateDict | None, numerics: Numerics
) -> None:
    """A resumed search must go on with what it began with.

    Args:
        begun: what it began with.
        data: the images; None: they are not decoded yet.
        weights: that the network starts from.
        numerics: of all trials.

    Raises:
        RequestError: the images, the weights, the training or the numerics are others.
    """
    if data is not None and begun.data["fingerprint"] != data.fingerprint:
        raise RequestError(
            "the images are not those that this search began with (their fingerprint differs). Restore "
            "them, or start a new search with another --name"
        )
    if (begun.weights or None) != hash_weights(weights):
        raise RequestError(
            "model.weights: the starting weights are not those that this search began with (their content "
            "differs). Restore them, or start a new search with another --name"
        )
    loop = LOOP_VERSION if begun.loop is None else begun.loop  # a journal of before it was written down
    if loop != LOOP_VERSION:
        raise RequestError(
            f"this version of tune_swa trains in another way (loop {LOOP_VERSION}) than the one that the "
            f"search began with (loop {loop}), so its numbers could not be compared. Use tune_swa "
            f"{begun.version}, or start a new search with another --name"
        )
    before = {**begun.numerics, "torch": begun.versions.get("torch")}
    after = {**numerics.as_dict(), "torch": package_versions()["torch"]}
    for name in OPTIONAL:
        if name in begun.versions:
            before[name], after[name] = begun.versions[name], importlib.metadata.version(name)
    changed = [
        f"{key} was {before.get(key)}, is {after[key]}" for key in after if before.get(key) != after[key]
    ]
    if changed:
        raise RequestError(
            "this machine computes with other numerics than the search began with "
            f"({'; '.join(changed)}), so its numbers could not be compared. Use the same kind of "
            "machine, versions, --gpus and resources.cpus_per_trial, or another --name"
        )


def describe_sampler_changes(begun: ExperimentCreated) -> str | None:
    """A warning where the samplers are of other versions than the search began with; None: they are not."""
    now = package_versions()
    changed = [
        f"{package} was {begun.versions.get(package)}, is {now[package]}"
        for package in SAMPLERS
        if package in now and begun.versions.get(package) != now[package]
    ]
    if not changed:
        return None
    return f"{'; '.join(changed)}: what is suggested from here on may differ from what would have been"
