"""Count the trials and epochs that are done and left, and estimate how long the rest takes."""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass

from tune_swa.config import Experiment
from tune_swa.experiment.events import Kind, Stage
from tune_swa.experiment.objective import Objective
from tune_swa.experiment.state import ExperimentState
from tune_swa.experiment.trial_state import TrialState
from tune_swa.search.confirmation import Step

LEAST_EPOCHS = 3
"""Epochs before the time left is estimated."""
EPOCHS_PER_SLOT = 20
"""Number of last epochs of each slot that the estimate rests on: the machine may be shared."""


@dataclass
class RunningTrial:
    """A trial in a slot."""

    trial: TrialState
    since: float
    """When its slot began to work on the epoch it is in."""


class TrialCounts:
    """Totals of a stage, kept up event by event.

    Args:
        experiment: the settings.
        state: the fold of the journal so far.
        slots: how many trials run at once.
        now: when it begins.
        step: the runs after the search that are counted; None: the search.
    """

    def __init__(
        self,
        experiment: Experiment,
        state: ExperimentState,
        slots: int,
        now: float,
        step: Step | None = None,
    ) -> None:
        self.name = experiment.name
        self._experiment = experiment
        self.objective = Objective.of_experiment(experiment)
        self.epochs = experiment.train.epochs
        self.slots = slots
        self.begun = now
        self.step = step
        self.stage: Stage = "search" if step is None else step.stage
        self._planned = _count_planned(experiment, step)
        self.budget = experiment.search.epochs if step is None else None
        """Epochs that the search trains, if it has a limit."""
        self.has_open_end = self.budget is not None and experiment.search.trials is None
        """Whether the epochs alone limit the SWA trials; then as many are planned as they allow at least."""
        self._suggested: Counter[Kind] = Counter()
        self.ended: Counter[Kind] = Counter()
        self.statuses: Counter[str] = Counter()
        self.epochs_done = 0
        """Epochs that were trained."""
        self.epochs_shared = 0
        """Epochs that trials took over instead."""
        self._shared: Counter[str] = Counter()
        self._unended_epochs = 0
        """Epochs among these of trials that have not ended."""
        self._swa_lengths: list[int] = [0, 0]
        """Number of the SWA trials that completed or were pruned, and epochs that they trained."""
        self.best: dict[Kind, TrialState] = {}
        """The best completed trial of each kind."""
        self.running: dict[str, RunningTrial] = {}
        self._freed: deque[float] = deque()
        """When slots became free that are free still."""
        self._durations: deque[float] = deque(maxlen=EPOCHS_PER_SLOT * slots)
        """Seconds of the last epochs, each in its slot."""
        names = None if step is None else set(step.names)
        for trial in state.trials.values():
            if trial.stage == self.stage and (names is None or trial.name in names):
                self._add_earlier(trial, now)

    def _add_earlier(self, trial: TrialState, now: float) -> None:
        """Count a trial of before, with all that it did."""
        self.suggest_trial(trial)
        self.share_epochs(trial, sum(r.get("shared_from") is not None for r in trial.records))
        trained = trial.next_epoch - self._shared[trial.name]
        self.epochs_done += trained
        self._unended_epochs += trained
        if trial.status == "running":
            self.start_trial(trial, now)
        elif trial.ended:
            self.end_trial(trial, now)

    def count_planned(self, kind: Kind) -> int:
        """Return how many trials are planned, or how many there are: a resume may plan fewer."""
        return max(self._planned[kind], self._suggested[kind])

    def label_trial(self, trial: TrialState) -> str:
        """Return a trial's configuration, with what the space fixes, and the average that was chosen for it;
        while it runs, that may still change."""
        average = trial.chosen_average if trial.ended else trial.average
        return self._experiment.format_label(trial.params, average, swa=trial.kind == "swa")

    @property
    def trials(self) -> int:
        return self.count_planned("baseline") + self.count_planned("swa")

    @property
    def epochs_left(self) -> int:
        """Epochs that are left if no trial is stopped early from now on."""
        return int(min(self._planned_epochs_left, self._budget_left))

    @property
    def _planned_epochs_left(self) -> float:
        if self.has_open_end:
            return math.inf
        return (self.trials - self.ended.total()) * self.epochs - self._unended_epochs

    @property
    def _budget_left(self) -> float:
        """Epochs until no further trial begins, or all that began have ended; infinite without a budget."""
        if self.budget is None:
            return math.inf
        begun = (self._suggested.total() - self.ended.total()) * self.epochs - self._unended_epochs
        return max(begun, self.budget - self.epochs_done)

    def suggest_trial(self, trial: TrialState) -> None:
        self._suggested[trial.kind] += 1

    def share_epochs(self, trial: TrialState, epochs: int) -> None:
        self._shared[trial.name] += epochs
        self.epochs_shared += epochs
        self._unended_epochs += epochs

    def start_trial(self, trial: TrialState, now: float) -> bool:
        """Give the trial a slot; return whether it had one: its worker died, and another one took over."""
        if trial.name in self.running:
            return True
        # what passes between two trials is part of the time that epochs take
        since = self._freed.popleft() if self._freed else now
        self.running[trial.name] = RunningTrial(trial, since)
        return False

    def report_epoch(self, trial: TrialState, now: float) -> None:
        if trial.records[-1].get("shared_from") is None:
            self.epochs_done += 1
            self._unended_epochs += 1
        else:
            self.share_epochs(trial, 1)
        running = self.running.get(trial.name)
        if running is not None:
            self._durations.append(now - running.since)
            running.since = now

    def end_trial(self, trial: TrialState, now: float) -> None:
        if self.running.pop(trial.name, None) is not None:
            self._freed.append(now)
        if not trial.ended:  # interrupted: it goes on after a resume
            return
        self.ended[trial.kind] += 1
        self.statuses[trial.status] += 1
        self._unended_epochs -= trial.next_epoch
        if trial.kind == "swa" and trial.status != "failed":
            self._swa_lengths[0] += 1
            self._swa_lengths[1] += trial.next_epoch - self._shared[trial.name]
        if trial.status == "completed":
            best = self.best.get(trial.kind)
            if best is None or self.objective.rank_trial(trial) < self.objective.rank_trial(best):
                self.best[trial.kind] = trial

    def find_leader(self, kind: Kind) -> TrialState | None:
        """Return the best completed trial; before there is one, the best of the running ones."""
        running = (r.trial for r in self.running.values() if r.trial.kind == kind and r.trial.records)
        return self.best.get(kind) or min(running, key=self.objective.rank_trial, default=None)

    def seconds_left(self, now: float) -> float | None:
        """Estimate the time left; None while there is too little to go by.

        A trial that has begun counts to its last epoch, an SWA trial that is still to come with the
        mean length of those before it.
        """
        if len(self._durations) < LEAST_EPOCHS:
            return None
        pace = sum(self._durations) / len(self._durations)
        to_come = self.count_planned("swa") - self._suggested["swa"]
        unspent = to_come * (self.epochs - self._mean_swa_length())
        # a part of the epochs in training is done
        begun = {name: _fraction_done(now - r.since, pace) for name, r in self.running.items()}
        work = min(self._planned_epochs_left - unspent, self._budget_left) - sum(begun.values())
        longest = max(
            (self.epochs - r.trial.next_epoch - begun[name] for name, r in self.running.items()), default=0.0
        )
        side_by_side = max(1, min(self.slots, self.trials - self.ended.total()))
        return max(0.0, pace * max(work / side_by_side, longest))

    def _mean_swa_length(self) -> float:
        number, epochs = self._swa_lengths
        if number == 0:
            return self.epochs
        # those that are stopped early end first: alone they would make the mean too short
        running = [r.trial for r in self.running.values() if r.trial.kind == "swa"]
        to_the_end = sum(self.epochs - self._shared[trial.name] for trial in running)
        return (epochs + to_the_end) / (number + len(running))


def _fraction_done(seconds: float, pace: float) -> float:
    return min(1.0, seconds / pace) if pace > 0 else 0.0


def _count_planned(experiment: Experiment, step: Step | None) -> dict[Kind, int]:
    if step is None:
        swa, budget = experiment.swa_trials, experiment.search.epochs
        if budget is not None:
            least = budget // experiment.train.epochs - experiment.baseline_trials
            swa = max(1, least) if experiment.search.trials is None else swa
        return {"baseline": experiment.baseline_trials, "swa": swa}
    runs = Counter[Kind](suggestion.kind for suggestion in step.suggestions())
    return {kind: runs[kind] for kind in ("baseline", "swa")}
