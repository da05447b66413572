"""A run as a plain Ray Tune trainable, for a Tuner, a scheduler and a search algorithm of the user's.

Nothing of a search of ours takes part: no journal, no shared trunks, no early stopping by phase.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from ray import tune
from rich.console import Console

from tune_swa.config import Experiment
from tune_swa.config.python_space import list_texts, load_space
from tune_swa.data.dataset import Dataset, prepare_dataset
from tune_swa.errors import RequestError
from tune_swa.execution.plugin_checks import check_augmentations, check_names
from tune_swa.execution.trial_config import read_settings
from tune_swa.files import expand_home
from tune_swa.hardware.allocator import keep_freed_memory
from tune_swa.hardware.gpu_memory import limit_memory, release_memory
from tune_swa.monitoring.decoding_progress import Decoding
from tune_swa.plugin_files import PluginSource
from tune_swa.plugins import install_plugins, list_sources, load_plugins
from tune_swa.training.checkpoint import load_checkpoint, save_checkpoint
from tune_swa.training.model import StateDict, hash_weights, resolve_weights
from tune_swa.training.network_checks import check_frozen, check_network, resolve_normalization
from tune_swa.training.numerics import decide_numerics
from tune_swa.training.run import Run

CHECKPOINT = "run.pt"
"""File in the folder of a checkpoint."""
SETTINGS = "settings"
"""Key in it of the run's settings."""
TRAINED = ("data", "model", "train", "averaging", "averages", "baseline", "objective", "merge", "space")
"""Sections of a space that a trial depends on, besides its seed. One of `merge` may have a batch size."""


@dataclass(frozen=True)
class _Plan:
    """What all trials have in common."""

    experiment: Experiment
    images_dir: Path | None
    """Absolute: workers run in folders of their own."""
    fingerprint: str
    """Of the images and their division, as they were where the trainable was made."""
    weights: str | None
    """Hash of those that every trial starts from."""
    plugins: tuple[PluginSource, ...]
    """Modules of the user's, which every worker runs."""

    def name_content(self) -> str:
        """Name what trials depend on by 8 hex digits, the same in every process."""
        settings = self.experiment.model_dump(mode="json", by_alias=True, include=set(TRAINED))
        del settings["data"]["path"], settings["model"]["weights"]  # the next two are what lies there
        plugins = [[source.name, source.digest] for source in self.plugins]
        facts = [settings, self.experiment.seed, self.fingerprint, self.weights, plugins]
        text = json.dumps(facts, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


class SwaTrainable(tune.Trainable):
    """One training run of a configuration: an epoch per step. Made by `trainable`.

    Every step reports the columns of epochs.parquet, `accuracy` among them: on the validation images, of the
    average with its batch-normalisation statistics refreshed once there is one, of the live model before.
    """

    plan: ClassVar[_Plan]

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """Ask for the space's own resources; `tune.with_resources` asks for others."""
        resources = cls.plan.experiment.resources
        bundle: dict[str, float] = {"CPU": resources.cpus_per_trial}
        if resources.gpus_per_trial != "auto" and resources.gpus_per_trial > 0:
            bundle["GPU"] = resources.gpus_per_trial
        return tune.PlacementGroupFactory([bundle])

    def setup(self, config: dict[str, Any]) -> None:
        """Open the images, and build the run of `config` at epoch 0.

        Raises:
            RequestError: the configuration cannot be, or the images or starting weights here are others.
        """
        install_plugins(self.plan.plugins)
        granted = self.trial_resources
        bundle = granted.required_resources if granted else {}
        self._cpus = int(bundle.get("CPU", self.plan.experiment.resources.cpus_per_trial)) or 1
        self._gpus = float(bundle.get("GPU", 0.0))
        self._data = self._open_images()
        self._weights = _read_weights(self.plan.experiment)
        if hash_weights(self._weights) != self.plan.weights:
            file = self.plan.experiment.model.weights
            raise RequestError(
                f"model.weights: {file} on {os.uname().nodename} has other weights than where the "
                "trainable was made"
            )
        self._run = self._build_run(config)

    def step(self) -> dict[str, Any]:
        """Train and evaluate one epoch.

        Raises:
            NonFiniteError: a loss or an output is NaN or infinite.
        """
        record = self._run.run_epoch()
        return {**record.as_dict(), "done": self._run.done}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write the state after the last epoch."""
        state = {**self._run.state_dict(), SETTINGS: self._dump_settings()}
        save_checkpoint(state, Path(checkpoint_dir) / CHECKPOINT)

    def load_checkpoint(self, checkpoint: str) -> None:
        """Go on from a checkpoint, as if the run had never stopped.

        Raises:
            CheckpointError: it is damaged.
            RequestError: it is of another configuration.
        """
        state = load_checkpoint(Path(checkpoint) / CHECKPOINT, self._run.device)
        before, now = json.loads(state.pop(SETTINGS)), json.loads(self._dump_settings())
        if before != now:
            raise RequestError(
                f"the checkpoint is of a run with other settings ({_name_differences(before, now)}), and a "
                "run keeps its settings. Take a scheduler that does not change the configuration of a "
                "trial: ASHA or HyperBand rather than population-based training"
            )
        self._run.load_state_dict(state)

    def _dump_settings(self) -> str:
        return self._run.settings.model_dump_json(exclude={"model": {"weights"}})  # which may have moved

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin the run of another configuration in this process (`reuse_actors`)."""
        del self._run
        if self._gpus:
            release_memory()
        self._run = self._build_run(new_config)
        return True

    def _open_images(self) -> Dataset:
        data = prepare_dataset(self.plan.experiment.data, self.plan.images_dir)
        if data.fingerprint != self.plan.fingerprint:
            raise RequestError(
                f"the images on {os.uname().nodename} differ from those of the program (fingerprint "
                f"{data.fingerprint[:12]}, expected {self.plan.fingerprint[:12]})"
            )
        return data

    def _build_run(self, config: dict[str, Any]) -> Run:
        settings = read_settings(self.plan.experiment, config)
        torch.set_num_threads(self._cpus)  # Ray sets one, however many cores a trial has
        if self._gpus:
            limit_memory(min(1.0, self._gpus))
        else:
            keep_freed_memory()
        numerics = decide_numerics(
            settings.train,
            self._data.images.shape[1],
            device="cuda" if self._gpus else "cpu",
            threads=self._cpus,
        )
        return Run(settings, self._data, numerics, self._weights)


def trainable(
    space: str | os.PathLike[str] | Mapping[str, Any],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    plugin: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    overrides: Mapping[str, Any] | None = None,
    **settings: Any,
) -> type[SwaTrainable]:
    """Return a Ray Tune trainable that trains configurations of a space, for a `ray.tune.Tuner`.

    A trial's configuration has the searched parameters of the space (`search_space` has their domains). It
    may have any other `train.*` or `averaging.*` setting, and `seed`; `swa_start: None` is plain training. A
    trial asks for the space's `resources`; `tune.with_resources(trainable(...), {"cpu": 1, "gpu": 0.25})`
    gives it a quarter of a GPU. The images are decoded here, once, into the cache that all trials read.

    Args:
        space: a space file, the name of a shipped space, or the content of one as a mapping.
        data_dir: where the images are; default: the space's `data.path`.
        plugin: modules of yours, or .py files, that register images or augmentations. They run here and in
            Ray's workers.
        overrides: values of settings by dotted name.
        settings: the same as keywords: `**{"train.epochs": 10}`.

    Raises:
        RequestError: the space, the network, the images or the starting weights are wrong.
    """
    load_plugins(list_texts(plugin))
    check_names()
    experiment = load_space(space, overrides, settings, arguments=("data_dir", "plugin", "overrides"))
    check_augmentations(experiment)
    check_network(experiment.model, experiment.data.image_size)
    check_frozen(experiment)
    experiment = resolve_normalization(_fix_paths(experiment))
    path = data_dir or experiment.data.path
    folder = None if path is None else expand_home(os.fspath(path), "data_dir").absolute()
    weights = _read_weights(experiment)  # what is wrong with them is better known before trials begin
    with Decoding(Console(stderr=True)) as decoding:
        data = prepare_dataset(experiment.data, folder, progress=decoding, verify=True)
    plan = _Plan(experiment, folder, data.fingerprint, hash_weights(weights), list_sources())
    # a class of its own, which Ray sends to its workers with the plan in it, and knows by its name alone
    name = f"{SwaTrainable.__name__}_{plan.name_content()}"
    return type(name, (SwaTrainable,), {"plan": plan, "__doc__": SwaTrainable.__doc__})


def _name_differences(before: Mapping[str, Any], now: Mapping[str, Any], above: str = "") -> str:
    """Name the settings that differ, with both values."""
    names = []
    for key, value in now.items():
        other = before.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            names.append(_name_differences(other, value, f"{above}{key}."))
        elif other != value:
            names.append(f"{above}{key} was {other}, is {value}")
    return ", ".join(filter(None, names))


def _read_weights(experiment: Experiment) -> StateDict | None:
    return resolve_weights(experiment.model, image_size=experiment.data.image_size)


def _fix_paths(experiment: Experiment) -> Experiment:
    """Make the path of the starting weights absolute."""
    weights = experiment.model.weights
    if weights in ("none", "imagenet"):
        return experiment
    path = str(expand_home(weights, "model.weights:").absolute())
    return experiment.model_copy(update={"model": experiment.model.model_copy(update={"weights": path})})
