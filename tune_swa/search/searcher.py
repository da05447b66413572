"""Ray's searcher interface over the proposer: which trial is started next, under our own names."""

from __future__ import annotations

from collections import deque
from typing import Any

from ray.tune.search import Searcher

from tune_swa.search.recorder import Recorder, settings_of
from tune_swa.search.trunks import TrunkNamer


class TrialSearcher(Searcher):
    """Hands out unfinished trials of earlier sessions first, then what the proposer suggests.

    At most `slots` trials are out at once, so that a suggestion is made when a place is free for
    it, knowing everything that is known by then.
    """

    def __init__(self, recorder: Recorder, namer: TrunkNamer, slots: int, unfinished: list[str]) -> None:
        super().__init__()
        self.recorder = recorder
        self.namer = namer
        self.slots = slots
        self._unfinished = deque(unfinished)
        self._live: dict[str, str] = {}  # Ray's trial id to our name
        self.stopping = False

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """A trial's configuration; None while all slots are taken; FINISHED at the end."""
        if self.stopping or self.recorder.stopping:
            return str(Searcher.FINISHED)
        if len(self._live) >= self.slots:
            return None
        name = self._unfinished.popleft() if self._unfinished else self._suggest_new()
        if name is None:
            return str(Searcher.FINISHED)
        self._live[trial_id] = name
        trial = self.recorder.state.trials[name]
        settings = settings_of(self.recorder.experiment, trial.kind, trial.params, trial.seed)
        return {
            "trial": name,
            "settings": settings.model_dump(mode="json"),
            "recorded_epochs": trial.next_epoch,
        }

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Free the slot. Ray also says this of trials that were stopped and have ended well."""
        name = self._live.pop(trial_id, None)
        if name is not None and not self.stopping and not self.recorder.stopping:
            reason = "could not be started" if error else "ended without finishing its epochs"
            self.recorder.fail(name, f"the worker {reason}")

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """The recorder has it already."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the journal has everything."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the journal has everything."""

    @property
    def live(self) -> list[str]:
        """Names of the trials that are out."""
        return list(self._live.values())

    def _suggest_new(self) -> str | None:
        suggestion = self.recorder.proposer.next()
        if suggestion is None:
            return None
        experiment = self.recorder.experiment
        settings = settings_of(experiment, suggestion.kind, suggestion.params, experiment.seed)
        self.recorder.suggest(
            suggestion,
            trunk=self.namer.name(settings),
            first_average=settings.fork_epoch,
            seed=settings.seed,
        )
        return suggestion.trial if self.recorder.failure is None else None
