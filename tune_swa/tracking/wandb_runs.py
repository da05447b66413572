"""Ray's callback for Weights & Biases, in one process, with runs that an earlier session has begun."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import wandb
from ray.air.integrations.wandb import WandbLoggerCallback

from tune_swa.experiment.updates import SCALARS
from tune_swa.tracking.trackers import Run

PROJECT = "tune_swa"
"""Unless WANDB_PROJECT says otherwise."""


class WandbRuns(WandbLoggerCallback):
    """One run of Weights & Biases for each trial, in a group of the experiment's name.

    Ray's has two processes of its own for each trial, one that holds the run and one for the way there. A
    search of thousands of short trials would mostly start these, so the runs are held here.

    Args:
        folder: the experiment's folder, where `wandb/` goes unless WANDB_DIR says otherwise.
    """

    def __init__(self, folder: Path) -> None:
        directory = Path(os.environ.get("WANDB_DIR") or folder)
        super().__init__(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            group=os.environ.get("WANDB_RUN_GROUP"),
            # for wandb.init, of each run
            dir=directory,
            reinit="create_new",
            resume="allow",
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, save_code=False),
        )
        self._directory = directory / "wandb"
        self._runs: dict[Run, Any] = {}

    def setup(self, *args: Any, **kwargs: Any) -> None:
        """Look for credentials where wandb itself does; Ray's asks in a way that wandb warns about."""
        online = os.environ.get("WANDB_MODE", "online") in ("online", "shared")
        if online and not wandb.login(prompt=False):
            raise ValueError("no API key: run `wandb login`, set WANDB_API_KEY, or WANDB_MODE=offline")

    def is_complete(self, trial: Run) -> bool:
        """By what is on this machine: the service cannot be asked when it is not connected.

        A kill -9 right after the end of a trial can take its last epochs from its run.
        """
        return any(self._directory.glob(f"*run-*-{trial.trial_id}"))

    def next_epoch(self, trial: Run) -> int:
        """A run that goes on without a connection is told every epoch again, under the same number."""
        run = self._runs[trial]
        return int(run.step) if run.resumed else 0

    def _start_logging_actor(self, trial: Run, exclude_results: list[str], **settings: Any) -> None:
        self._runs[trial] = wandb.init(**settings)

    def log_trial_result(self, iteration: int, trial: Run, result: dict[str, Any]) -> None:
        self._runs[trial].log({name: result[name] for name in SCALARS if name in result}, step=iteration)

    def log_trial_end(self, trial: Run, failed: bool = False) -> None:
        self._runs.pop(trial).finish(exit_code=int(failed))

    def on_experiment_end(self, trials: list[Run], **info: Any) -> None:
        """Put down the runs that are not at their end, and wait until all is on the disk or sent."""
        for trial in list(self._runs):
            self.log_trial_end(trial)
        wandb.teardown()

    def __del__(self) -> None:
        """Ray's would look for its processes."""
