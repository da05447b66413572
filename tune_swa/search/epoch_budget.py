"""Count the epochs that a search has trained and that its trials are still to train, against its budget."""

from __future__ import annotations

from tune_swa.experiment.events import EpochRecord, Event, TrialEnded, TrialReopened, TrialSuggested


class EpochBudget:
    """Says whether a search may begin one more trial.

    Args:
        limit: epochs that it trains, the baselines' included; None: as many as its trials take.
        epochs: of a run.
    """

    def __init__(self, limit: int | None, epochs: int) -> None:
        self._limit, self._epochs = limit, epochs
        self.trained = 0
        """Epochs that trials have trained themselves."""
        self._left: dict[str, int] = {}
        """Epochs that each trial which has not ended may still train."""

    @property
    def is_spent(self) -> bool:
        """Whether no further trial begins, whatever becomes of the running ones."""
        return self._limit is not None and self.trained >= self._limit

    @property
    def has_room(self) -> bool:
        """Whether a trial may begin now."""
        return self._limit is None or self.trained + sum(self._left.values()) < self._limit

    def report_epoch(self, trial: str, record: EpochRecord) -> None:
        """Take in an epoch of a trial. One that it took over cost nothing."""
        self.trained += record.get("shared_from") is None
        self._left[trial] = self._epochs - record["epoch"] - 1

    def apply_event(self, event: Event) -> None:
        """Take in one event of the search; epochs come through `report_epoch`, also those taken over."""
        if isinstance(event, TrialSuggested | TrialReopened):
            self._left[event.trial] = self._epochs
        elif isinstance(event, TrialEnded) and event.status != "interrupted":
            self._left.pop(event.trial, None)
