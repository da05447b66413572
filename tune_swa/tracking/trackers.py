"""How do MLflow and Weights & Biases learn of a search?

Through Ray Tune's own callbacks for them, but called with what is new in the journal instead of by Ray:
so runs have our names, taken-over epochs are there, and a trial that is retried or resumed goes on in
its run. The callbacks work on a thread of their own, since a server may take its time and the
driver decides how the trials go on.
"""

from __future__ import annotations

import logging
import queue
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tune_swa.config import Experiment, format_value
from tune_swa.errors import RequestError
from tune_swa.experiment.state import ExperimentState
from tune_swa.experiment.trial_state import TrialState
from tune_swa.experiment.updates import SCALARS, Follower
from tune_swa.text import first_line

logger = logging.getLogger(__name__)

PACKAGES = {"mlflow": "MLflow", "wandb": "Weights & Biases"}
"""What `--log` takes: names of packages, and how messages call them."""


@dataclass(frozen=True)
class Run:
    """What the callbacks ask of a trial of Ray's: its names and its settings."""

    name: str
    trial_id: str
    """Also tells experiments of the same name apart."""
    config: dict[str, Any] = field(compare=False)
    experiment_dir_name: str = field(compare=False)

    def __str__(self) -> str:
        return self.name


class Runs(Protocol):
    """A callback of Ray's, and what it needs to go on with the runs of an earlier session."""

    def setup(self) -> None: ...
    def log_trial_start(self, trial: Run) -> None: ...
    def log_trial_result(self, iteration: int, trial: Run, result: dict[str, Any]) -> None: ...
    def log_trial_end(self, trial: Run, failed: bool = False) -> None: ...
    def on_experiment_end(self, trials: list[Run]) -> None: ...

    def is_complete(self, trial: Run) -> bool:
        """Whether an earlier session has told all of a trial that has ended."""

    def next_epoch(self, trial: Run) -> int:
        """First epoch that a run which was started has not got."""


@dataclass(frozen=True)
class _Letter:
    """What is new of a trial, as it was when it was new: the driver goes on meanwhile."""

    run: Run
    begins: bool
    results: list[dict[str, Any]]
    status: str | None
    """How it has ended."""


class Courier:
    """Carries what is new in the journal to one of the callbacks.

    Args:
        name: `mlflow` or `wandb`.
        experiment: the settings.
        folder: the experiment's folder, for what is kept on this machine.
    """

    def __init__(self, name: str, experiment: Experiment, folder: Path) -> None:
        self.name = name
        self.what = f"the runs for {PACKAGES[name]}"
        self._experiment, self._folder = experiment, folder
        self._follower = Follower()
        self._letters: queue.SimpleQueue[_Letter | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._callback: Runs | None = None

    def prepare(self) -> None:
        """Make the connection.

        Raises:
            RequestError: it cannot be made.
        """
        try:
            self._callback = _callback(self.name, self._experiment, self._folder)
            self._callback.setup()
        except Exception as error:
            raise RequestError(
                f"--log {self.name}: {PACKAGES[self.name]} cannot be used ({first_line(error, 300)}). Put "
                f"that right, or leave --log {self.name} out"
            ) from error

    def __call__(self, state: ExperimentState, folder: Path) -> None:
        """Hand over what is new; returns at once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._deliver, name=f"log-{self.name}", daemon=True)
            self._thread.start()
        for news in self._follower.news(state):
            trial = news.trial
            results = [
                {"training_iteration": record["epoch"], "timestamp": time}
                | {name: record[name] for name in SCALARS if record.get(name) is not None}
                for record, time in zip(
                    trial.records[news.since :], trial.reported[news.since :], strict=True
                )
            ]
            status = trial.status if news.ends else None
            self._letters.put(_Letter(self._run(trial, state), news.begins, results, status))

    def close(self, patience: float) -> None:
        """Wait until everything is delivered, so many seconds at most."""
        if self._thread is None:
            return
        self._letters.put(None)
        self._thread.join(patience)
        if self._thread.is_alive():
            logger.warning("%s are not complete: they were too slow for the end of the search", self.what)

    def _run(self, trial: TrialState, state: ExperimentState) -> Run:
        params = self._experiment.complete_configuration(trial.params, swa=trial.kind == "swa")
        config = {"kind": trial.kind, "stage": trial.stage, "seed": trial.seed} | {
            name: format_value(value) if isinstance(value, tuple) else value for name, value in params.items()
        }
        begun = int((state.header or {"time": 0})["time"])
        name = self._experiment.name
        return Run(trial.name, f"{name}-{begun:x}-{trial.name}", config, name)

    def _deliver(self) -> None:
        """The thread: everything the callback does after its setup."""
        assert self._callback is not None
        due: dict[Run, int] = {}
        try:
            while (letter := self._letters.get()) is not None:
                _hand_over(letter, self._callback, due)
            self._callback.on_experiment_end([])
        except Exception as error:  # what others show of a search is not worth its end
            logger.warning("%s end here: %s", self.what, error or type(error).__name__)


def _hand_over(letter: _Letter, callback: Runs, due: dict[Run, int]) -> None:
    """Call the callback; `due` has the first epoch to tell of every run that is under way."""
    run = letter.run
    if letter.begins and not (letter.status and callback.is_complete(run)):
        callback.log_trial_start(run)
        due[run] = callback.next_epoch(run)
    if run not in due:
        return
    for result in letter.results:
        if result["training_iteration"] >= due[run]:
            callback.log_trial_result(result["training_iteration"], run, result)
    if letter.status:
        callback.log_trial_end(run, failed=letter.status == "failed")
        del due[run]


def _callback(name: str, experiment: Experiment, folder: Path) -> Runs:
    if name == "mlflow":
        from tune_swa.tracking.mlflow_runs import MlflowRuns

        return MlflowRuns(experiment.name, folder)
    from tune_swa.tracking.wandb_runs import WandbRuns

    return WandbRuns(folder)
