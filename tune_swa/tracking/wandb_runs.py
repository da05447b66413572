"""Log trials to Weights & Biases through Ray's callback, and continue runs of an earlier session."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import wandb
from ray.air.integrations.wandb import WandbLoggerCallback

from tune_swa.tracking.base import TrackedRun

PROJECT = "tune_swa"
"""Unless WANDB_PROJECT says otherwise."""


class WandbRuns(WandbLoggerCallback):
    """One run of Weights & Biases for each trial, in a group of the experiment's name.

    Ray's starts two processes for each trial, one that holds the run and one that passes it data. A search of
    thousands of short trials would spend its time on these, so the runs are held in this process.

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
        self._runs: dict[TrackedRun, Any] = {}

    def setup(self, *args: Any, **kwargs: Any) -> None:
        """Look for credentials where wandb itself does; Ray's way makes wandb print a warning."""
        online = os.environ.get("WANDB_MODE", "online") in ("online", "shared")
        if online and not wandb.login(prompt=False):
            raise ValueError("no API key: run `wandb login`, set WANDB_API_KEY, or WANDB_MODE=offline")

    def is_complete(self, trial: TrackedRun) -> bool:
        """Look at the files on this machine: an offline search cannot ask the service.

        A kill -9 right after the end of a trial can take its last epochs from its run.
        """
        return any(self._directory.glob(f"*run-*-{trial.trial_id}"))

    def next_epoch(self, trial: TrackedRun) -> int:
        """Log every epoch again under the same number where a run continues offline."""
        run = self._runs[trial]
        return int(run.step) if run.resumed else 0

    def _start_logging_actor(self, trial: TrackedRun, exclude_results: list[str], **settings: Any) -> None:
        self._runs[trial] = wandb.init(**settings)

    def log_trial_result(self, iteration: int, trial: TrackedRun, result: dict[str, Any]) -> None:
        self._runs[trial].log(result["scalars"], step=iteration)

    def log_trial_end(self, trial: TrackedRun, failed: bool = False) -> None:
        self._runs.pop(trial).finish(exit_code=int(failed))

    def on_experiment_end(self, trials: list[TrackedRun], **info: Any) -> None:
        """Close the runs that have not ended, and wait until all is written or sent."""
        for trial in list(self._runs):
            self.log_trial_end(trial)
        wandb.teardown()

    def __del__(self) -> None:
        """Do nothing: Ray's would look for its processes."""
