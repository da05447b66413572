"""Find what a log does not have yet of the state of an experiment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tune_swa.experiment.state import ExperimentState
from tune_swa.experiment.trial_state import TrialState

SCALARS = ("accuracy", "live_accuracy", "nll", "ece", "train_loss", "learning_rate", "n_averaged")
"""Fields of every epoch in logs; named as in epochs.parquet."""


class Log(Protocol):
    """Keeps a log of another program up to date with the journal."""

    what: str
    """Name of the log in messages."""

    def __call__(self, state: ExperimentState, folder: Path) -> None:
        """Log what is new. Called while the search runs, and once more when it is over.

        Args:
            state: the fold of the journal.
            folder: the experiment's folder.
        """


@dataclass(frozen=True)
class TrialUpdate:
    """Part of one trial that a log does not have yet."""

    trial: TrialState
    begins: bool
    """Whether the log has nothing of it."""
    since: int
    """The first epoch that is new."""
    ends: bool
    """Whether it has ended since the last update."""


class UpdateCursor:
    """Remembers what was reported of each trial, so that every epoch is reported once, in order."""

    def __init__(self) -> None:
        self._reported: dict[str, tuple[int, bool]] = {}

    def mark_reported(self, trial: str, epochs: int, *, ended: bool) -> None:
        """Regard this much of a trial as reported."""
        self._reported[trial] = (epochs, ended)

    def trial_updates(self, state: ExperimentState) -> Iterator[TrialUpdate]:
        """Yield what was not reported yet, trial by trial in the order of their suggestions.

        An update counts as reported when the next one is asked for, and not if the loop is left by an error.
        """
        for trial in state.trials.values():
            reported = self._reported.get(trial.name)
            epochs, ended = reported or (0, False)
            now = (len(trial.records), trial.ended)
            if now != reported:
                yield TrialUpdate(trial, reported is None, epochs, trial.ended and not ended)
                self._reported[trial.name] = now
