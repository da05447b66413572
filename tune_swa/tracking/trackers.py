"""Log a search to MLflow and Weights & Biases, through Ray Tune's callbacks for them.

The callbacks are called with updates of the journal instead of by Ray: so runs have our names, shared
epochs are included, and a trial that is retried or resumed continues its run. They work on a thread of
their own, since a server may be slow and the driver decides how the trials go on.
"""

from __future__ import annotations

import logging
import queue
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tune_swa.config import Experiment, format_value
from tune_swa.errors import RequestError
from tune_swa.experiment.state import ExperimentState
from tune_swa.experiment.trial_state import TrialState
from tune_swa.experiment.updates import UpdateCursor
from tune_swa.text import first_line
from tune_swa.tracking.base import RunLogger, TrackedRun, describe_settings, select_scalars

logger = logging.getLogger(__name__)

TITLES = {"mlflow": "MLflow", "wandb": "Weights & Biases"}
"""Trackers that `--log` takes, each named after its package."""


@dataclass(frozen=True)
class _Update:
    """A copy of what is new of a trial: the driver goes on meanwhile."""

    run: TrackedRun
    begins: bool
    results: list[dict[str, Any]]
    status: str | None
    """Status in which the trial ended; None: it has not."""


class TrackerThread:
    """Passes updates of the journal to one tracker.

    Args:
        name: `mlflow` or `wandb`.
        experiment: the settings.
        folder: the experiment's folder, for what is kept on this machine.
    """

    def __init__(self, name: str, experiment: Experiment, folder: Path) -> None:
        self.name = name
        self.what = f"the runs for {TITLES[name]}"
        self._experiment, self._folder = experiment, folder
        self._cursor = UpdateCursor()
        self._updates: queue.SimpleQueue[_Update | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._run_logger: RunLogger | None = None

    def connect(self) -> None:
        """Connect to the tracker.

        Raises:
            RequestError: it cannot be used.
        """
        try:
            self._run_logger = _make_run_logger(self.name, self._experiment, self._folder)
            self._run_logger.setup()
        except Exception as error:
            raise RequestError(
                f"--log {self.name}: {TITLES[self.name]} cannot be used ({first_line(error, 300)}). Put "
                f"that right, or leave --log {self.name} out"
            ) from error

    def __call__(self, state: ExperimentState, folder: Path) -> None:
        """Queue what is new; returns at once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._deliver_all, name=f"log-{self.name}", daemon=True)
            self._thread.start()
        for update in self._cursor.trial_updates(state):
            trial = update.trial
            new = slice(update.since, None)
            results = [
                {
                    "training_iteration": record["epoch"],
                    "timestamp": time,
                    "scalars": select_scalars(record, trial),
                }
                for record, time in zip(trial.records[new], trial.reported[new], strict=True)
            ]
            status = trial.status if update.ends else None
            self._updates.put(_Update(self._describe_run(trial, state), update.begins, results, status))

    def close(self, patience: float) -> None:
        """Wait until everything is delivered, `patience` seconds at most."""
        if self._thread is None:
            return
        self._updates.put(None)
        self._thread.join(patience)
        if self._thread.is_alive():
            logger.warning("%s are not complete: they were too slow for the end of the search", self.what)

    def _describe_run(self, trial: TrialState, state: ExperimentState) -> TrackedRun:
        config = {
            name: format_value(value) if isinstance(value, tuple) else value
            for name, value in describe_settings(trial, self._experiment).items()
        }
        begun = int(state.header.time if state.header else 0)
        name = self._experiment.name
        return TrackedRun(trial.name, f"{name}-{begun:x}-{trial.name}", config, name)

    def _deliver_all(self) -> None:
        """Run the thread: everything the tracker does after `connect`."""
        assert self._run_logger is not None
        next_epochs: dict[TrackedRun, int] = {}
        try:
            while (update := self._updates.get()) is not None:
                _deliver(update, self._run_logger, next_epochs)
            self._run_logger.on_experiment_end([])
        except Exception as error:  # a tracker that fails must not end a search
            logger.warning("%s end here: %s", self.what, error or type(error).__name__)


def _deliver(update: _Update, run_logger: RunLogger, next_epochs: dict[TrackedRun, int]) -> None:
    """Log one update; `next_epochs` has the first epoch to log of every run under way."""
    run = update.run
    if update.begins and not (update.status and run_logger.is_complete(run)):
        run_logger.log_trial_start(run)
        next_epochs[run] = run_logger.next_epoch(run)
    if run not in next_epochs:
        return
    for result in update.results:
        if result["training_iteration"] >= next_epochs[run]:
            run_logger.log_trial_result(result["training_iteration"], run, result)
    if update.status:
        run_logger.log_trial_end(run, failed=update.status == "failed")
        del next_epochs[run]


def _make_run_logger(name: str, experiment: Experiment, folder: Path) -> RunLogger:
    if name == "mlflow":
        from tune_swa.tracking.mlflow_runs import MlflowRuns

        return MlflowRuns(experiment.name, folder)
    from tune_swa.tracking.wandb_runs import WandbRuns

    return WandbRuns(folder)
