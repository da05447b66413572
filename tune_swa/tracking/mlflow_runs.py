"""Log trials to MLflow through Ray's callback, and continue runs of an earlier session."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from mlflow.entities import Metric
from ray.air.integrations.mlflow import MLflowLoggerCallback

from tune_swa.experiment.updates import SCALARS
from tune_swa.tracking.base import TrackedRun

STORE = "mlflow.db"
"""Place of the runs in the experiment's folder, unless MLFLOW_TRACKING_URI is set."""
EXPERIMENT_TAG, RUN_TAG = "tune_swa.experiment", "tune_swa.run"


class MlflowRuns(MLflowLoggerCallback):
    """One run of MLflow for each trial, in the experiment's own MLflow experiment.

    Args:
        name: of the experiment; MLFLOW_EXPERIMENT_NAME overrides it for MLflow.
        folder: the experiment's folder.
    """

    def __init__(self, name: str, folder: Path) -> None:
        for noisy in ("mlflow", "alembic"):  # they report every table that they create
            logging.getLogger(noisy).setLevel(logging.ERROR)
        super().__init__(
            tracking_uri=os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / STORE}",
            experiment_name=os.environ.get("MLFLOW_EXPERIMENT_NAME") or name,
            tags={EXPERIMENT_TAG: name},
        )
        self._name = name
        self._earlier: dict[str, Any] = {}
        """Runs of earlier sessions by their tag."""

    def setup(self, *args: Any, **kwargs: Any) -> None:
        """Connect, and look for runs of earlier sessions."""
        super().setup(*args, **kwargs)
        self._client = self.mlflow_util._get_client()
        token = None
        while True:
            page = self._client.search_runs(
                [self.mlflow_util.experiment_id],
                filter_string=f"tags.`{EXPERIMENT_TAG}` = '{self._name}'",
                page_token=token,
            )
            self._earlier |= {run.data.tags.get(RUN_TAG): run for run in page}
            token = page.token
            if not token:
                return

    def is_complete(self, trial: TrackedRun) -> bool:
        run = self._earlier.get(trial.trial_id)
        return run is not None and run.info.status != "RUNNING"

    def next_epoch(self, trial: TrackedRun) -> int:
        if trial.trial_id not in self._earlier:
            return 0
        known = self._client.get_metric_history(self._trial_runs[trial], SCALARS[0])
        return max((metric.step + 1 for metric in known), default=0)

    def log_trial_start(self, trial: TrackedRun) -> None:
        if trial.trial_id in self._earlier:
            self._trial_runs[trial] = self._earlier[trial.trial_id].info.run_id
        else:
            self.tags[RUN_TAG] = trial.trial_id
            super().log_trial_start(trial)

    def log_trial_result(self, iteration: int, trial: TrackedRun, result: dict[str, Any]) -> None:
        """Log an epoch in one request, with its own time; Ray's makes two requests for each number."""
        time = int(1000 * result["timestamp"])
        metrics = [Metric(name, value, time, iteration) for name, value in result["scalars"].items()]
        self._client.log_batch(self._trial_runs[trial], metrics=metrics)
