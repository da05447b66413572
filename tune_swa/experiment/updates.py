"""What does the fold of a journal say that a log does not have yet?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tune_swa.experiment.state import ExperimentState
from tune_swa.experiment.trial_state import TrialState

SCALARS = ("accuracy", "live_accuracy", "nll", "ece", "train_loss", "learning_rate", "n_averaged")
"""What other programs are told of every epoch; named as in epochs.parquet."""


class Log(Protocol):
    """Keeps what another program reads up to date with the journal."""

    what: str
    """What messages call it."""

    def __call__(self, state: ExperimentState, folder: Path) -> None:
        """Tell what is new; called while the search runs, and once more when it is over.

        Args:
            state: the fold of the journal.
            folder: the experiment's folder.
        """


@dataclass(frozen=True)
class News:
    """What is new of one trial."""

    trial: TrialState
    begins: bool
    """Whether nothing of it was told before."""
    since: int
    """First of its epochs that is new."""
    ends: bool
    """Whether it has one of the statuses that it does not leave again, since the last time."""


class Follower:
    """Remembers what was told of each trial, so that every epoch is told once, in order."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[int, bool]] = {}

    def remember(self, trial: str, epochs: int, *, ended: bool) -> None:
        """Take this much of a trial for told."""
        self._told[trial] = (epochs, ended)

    def news(self, state: ExperimentState) -> Iterator[News]:
        """What was not told yet, trial by trial in the order of their suggestions.

        An item counts as told when the next one is asked for, and not if the loop is left by an error.
        """
        for trial in state.trials.values():
            told = self._told.get(trial.name)
            epochs, ended = told or (0, False)
            now = (len(trial.records), trial.ended)
            if now != told:
                yield News(trial, told is None, epochs, trial.ended and not ended)
                self._told[trial.name] = now
