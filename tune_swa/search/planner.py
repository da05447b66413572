"""Define what plans the trials of a stage: the search's proposer, or the fixed list of a confirm step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from tune_swa.config import Params
from tune_swa.experiment.events import EpochRecord, Event, Kind, Stage


@dataclass(frozen=True)
class Suggestion:
    """One configuration to try."""

    kind: Kind
    index: int
    """Counts the suggestions of its kind, from 0."""
    params: Params
    source: str
    """Origin: `baseline`, `point`, or the sampler's name; `race` or `confirm`."""
    stage: Stage = "search"
    seed: int | None = None
    """Seed of the training; None: the search's."""
    name: str = ""
    """Name of the trial; by default its kind and number."""
    average: str | None = None
    """Label of the average that leads; None: the search's."""
    member: int = 0
    """Number among the members of SWAP, from 2 on; 0: a first one, or none."""

    @property
    def trial(self) -> str:
        """The trial's stable name."""
        return self.name or f"{self.kind}-{self.index:04d}"


class Later(Enum):
    """Why there is nothing to begin now although there will be."""

    HELD_BACK = "everything left waits for something"
    UNDECIDED = "what follows depends on how the live trials end"


PlannedTrial = tuple[Kind, Params, int | None]
"""The kind of a trial, its parameters, and its seed if that is not the search's."""

Accept = Callable[[Kind, Params, int | None], bool]


def accept_any(kind: Kind, params: Params, seed: int | None) -> bool:
    """Accept every configuration."""
    return True


class Planner(Protocol):
    """Plans the trials of one stage of an experiment, and learns what becomes of them."""

    def next_suggestion(self, accept: Accept = accept_any, *, draw: bool = True) -> Suggestion | Later | None:
        """Make the next suggestion, or return None when everything planned has been suggested.

        The suggestion counts once its `suggested` event arrives at `apply_event`.

        Args:
            accept: whether the turn of a configuration that was fixed beforehand has come; the first
                one in their order that is accepted is suggested.
            draw: whether a sampler may be asked, which commits to its answer.
        """

    def planned_trials(self) -> Iterator[PlannedTrial]:
        """Yield what was fixed beforehand, suggested or not."""

    def unsuggested_trials(self) -> Iterator[PlannedTrial]:
        """Yield what of it was not suggested yet."""

    def draws_more(self, trunk: str | None = None) -> bool:
        """Whether a sampler has suggestions left to make; if a trunk is named, such as may have it."""

    def report_epoch(self, trial: str, record: EpochRecord) -> None:
        """Take in the record of an epoch of a trial of the stage."""

    def apply_event(self, event: Event) -> None:
        """Take in one event of the journal, new or replayed, if it is of the stage.

        Raises:
            ValueError: the event does not fit those before it.
        """
