"""Plan the runs of a step on fresh seeds: a fixed list."""

from __future__ import annotations

from collections.abc import Iterator

from tune_swa.experiment.events import EpochRecord, Event, TrialSuggested
from tune_swa.experiment.state import ExperimentState
from tune_swa.search.confirmation import Step
from tune_swa.search.planner import Accept, Later, PlannedTrial, Suggestion, accept_any


class ConfirmPlanner:
    """The planner of a step: a fixed list of runs."""

    def __init__(self, step: Step, state: ExperimentState) -> None:
        self._all = {suggestion.trial: suggestion for suggestion in step.suggestions()}
        self._left = {name: s for name, s in self._all.items() if name not in state.trials}

    def next_suggestion(self, accept: Accept = accept_any, *, draw: bool = True) -> Suggestion | Later | None:
        for suggestion in self._left.values():
            if accept(suggestion.kind, suggestion.params, suggestion.seed):
                return suggestion
        return Later.HELD_BACK if self._left else None

    def planned_trials(self) -> Iterator[PlannedTrial]:
        for suggestion in self._all.values():
            yield suggestion.kind, suggestion.params, suggestion.seed

    def unsuggested_trials(self) -> Iterator[PlannedTrial]:
        for suggestion in self._left.values():
            yield suggestion.kind, suggestion.params, suggestion.seed

    def draws_more(self, trunk: str | None = None) -> bool:
        return False

    def report_epoch(self, trial: str, record: EpochRecord) -> None:
        """Do nothing: the list is fixed, so there is nothing to learn."""

    def apply_event(self, event: Event) -> None:
        if isinstance(event, TrialSuggested):
            self._left.pop(event.trial, None)
