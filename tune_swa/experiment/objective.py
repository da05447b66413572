"""The objective: the number of an epoch by which trials are compared, and which of two is better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from tune_swa.config import Experiment, Metric
from tune_swa.experiment.events import DamagedError
from tune_swa.experiment.trial_state import TrialState

METRICS: tuple[Metric, ...] = get_args(Metric)


@dataclass(frozen=True)
class Objective:
    """Compares trials. Whatever ranks, stops, samples or chooses asks it."""

    metric: Metric = "accuracy"

    @classmethod
    def of_experiment(cls, experiment: Experiment) -> Objective:
        return cls(experiment.objective.metric)

    @classmethod
    def of_spec(cls, spec: Mapping[str, Any]) -> Objective:
        """The objective of a space file as a journal has it; without one, as in older journals: accuracy.

        Raises:
            ValueError: this version does not know it.
        """
        metric = spec.get("objective", {}).get("metric", "accuracy")
        if metric not in METRICS:
            raise ValueError(f"objective.metric is {metric!r}"[:100])
        return _KNOWN[metric]

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        """What Optuna is to do with values."""
        return "minimize" if self.metric == "nll" else "maximize"

    @property
    def other(self) -> Metric:
        """The metric that is reported beside it."""
        return "accuracy" if self.metric == "nll" else "nll"

    def read_value(self, record: Mapping[str, Any]) -> float:
        """Return the metric of a record, in its own unit: a fraction of the images, or nats per image."""
        return cast(float, record[self.metric])

    def check_value(self, value: float) -> None:
        """Refuse a value that the metric cannot have.

        Raises:
            DamagedError: it is below 0, or an accuracy above 1.
        """
        if value < 0 or (self.metric == "accuracy" and value > 1):
            raise DamagedError(f"the {self.metric} is {value!r}")

    def orient_value(self, value: float) -> float:
        """Turn a value of the metric into one that is higher where it is better."""
        return -value if self.metric == "nll" else value

    def score_record(self, record: Mapping[str, Any]) -> float:
        """Return the objective of a record, higher is better."""
        return self.orient_value(self.read_value(record))

    def rank_trial(self, trial: TrialState) -> tuple[float, float, str]:
        """Sort key of trials that have reported, the best first: by the objective, the other metric, name.

        Everything that looks for the best trial uses this order, so ties have one answer.
        """
        return *self.rank_record(trial.records[-1]), trial.name

    def rank_record(self, record: Mapping[str, Any]) -> tuple[float, float]:
        """Sort key of records, the best first: by the objective, then the other metric."""
        nll = record.get("nll")
        keys = -record["accuracy"], math.inf if nll is None else nll
        return keys[::-1] if self.metric == "nll" else keys


_KNOWN = {metric: Objective(metric) for metric in METRICS}
