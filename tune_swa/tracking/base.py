"""Describe what an experiment tracker is given: runs, and the numbers of their epochs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from tune_swa.config import Experiment, Value
from tune_swa.experiment.trial_state import TrialState
from tune_swa.experiment.updates import SCALARS


@dataclass(frozen=True)
class TrackedRun:
    """A trial as Ray's logger callbacks see one: its names and its settings."""

    name: str
    trial_id: str
    """Unique among experiments of the same name."""
    config: dict[str, Any] = field(compare=False)
    experiment_dir_name: str = field(compare=False)

    def __str__(self) -> str:
        return self.name


class RunLogger(Protocol):
    """A logger callback of Ray's that can continue the runs of an earlier session."""

    def setup(self) -> None: ...
    def log_trial_start(self, trial: TrackedRun) -> None: ...
    def log_trial_result(self, iteration: int, trial: TrackedRun, result: dict[str, Any]) -> None: ...
    def log_trial_end(self, trial: TrackedRun, failed: bool = False) -> None: ...
    def on_experiment_end(self, trials: list[TrackedRun]) -> None: ...

    def is_complete(self, trial: TrackedRun) -> bool:
        """Return whether an earlier session logged all of a trial that has ended."""

    def next_epoch(self, trial: TrackedRun) -> int:
        """Return the first epoch that a started run lacks."""


SCORES = ("accuracy", "nll", "ece")
"""Fields of an average's scores that trackers show, under its label: `ema-2/accuracy`."""


def select_scalars(record: Mapping[str, Any], trial: TrialState) -> dict[str, float]:
    """Return an epoch's numbers that trackers show, without those it does not have.

    Args:
        record: of the epoch.
        trial: which has the scores of its averages.
    """
    scalars = {name: record[name] for name in SCALARS if record.get(name) is not None}
    for label, score in trial.scores.get(record["epoch"], {}).items():
        scores = {name: score.get(name) for name in SCORES}
        scalars |= {f"{label}/{name}": value for name, value in scores.items() if value is not None}
    return scalars


def describe_settings(trial: TrialState, experiment: Experiment) -> dict[str, Value]:
    """Return what trackers show of a trial's settings."""
    swa = trial.kind == "swa"
    settings: dict[str, Value] = {"kind": trial.kind, "stage": trial.stage, "seed": trial.seed}
    if trial.average is not None:
        settings["average"] = trial.average
    return settings | experiment.complete_configuration(trial.params, swa=swa)
