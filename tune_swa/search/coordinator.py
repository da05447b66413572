"""Coordinate a search: choose the next trial, record what happens, decide how each trial goes on.

Ray calls the scheduler before the searcher and the callbacks, and swallows part of what callbacks raise. So
everything that must not be lost passes here first, in the driver: the coordinator is the one writer of the
journal, and whoever else wants to know listens to it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection
from pathlib import Path
from typing import Any

from msgspec import UNSET, UnsetType

from tune_swa.config import Experiment, Params
from tune_swa.errors import RequestError
from tune_swa.experiment.events import (
    Decision,
    EndStatus,
    EpochRecord,
    EpochReported,
    Event,
    Kind,
    LookJudged,
    LookPlanned,
    Stage,
    Stop,
    TrialEnded,
    TrialSuggested,
    TrunkShared,
)
from tune_swa.experiment.objective import Objective
from tune_swa.experiment.state import ExperimentState
from tune_swa.experiment.trial_state import TrialState
from tune_swa.results.look_evaluation import read_and_evaluate_look
from tune_swa.search.asha import PhaseAsha, RungDecision
from tune_swa.search.confirm_planner import ConfirmPlanner
from tune_swa.search.confirmation import Step
from tune_swa.search.event_recorder import EventRecorder
from tune_swa.search.members import plan_step
from tune_swa.search.merging import MergeJob, Merging
from tune_swa.search.planner import Later, Planner, Suggestion
from tune_swa.search.proposer import Proposer
from tune_swa.search.retention import Retention
from tune_swa.search.trunk_names import TrunkNamer
from tune_swa.search.trunk_sharing import TrunkSharing
from tune_swa.storage import FolderStore, Store

logger = logging.getLogger(__name__)


class Coordinator(EventRecorder):
    """Drives one search and writes its journal.

    Args:
        experiment: the settings.
        folder: the experiment's folder.
        state: the fold of what the journal already holds.
        store: where the trials keep their checkpoints; default: the experiment's folder.
        namer: names trunks; default: by their settings alone.
        confirm: whether fresh seeds follow the search.
    """

    def __init__(
        self,
        experiment: Experiment,
        folder: Path,
        state: ExperimentState,
        store: Store | None = None,
        namer: TrunkNamer | None = None,
        *,
        confirm: bool = False,
    ) -> None:
        super().__init__(folder, state)
        self.experiment = experiment
        self.objective = Objective.of_experiment(experiment)
        self.store = store or FolderStore(folder)
        self.namer = namer or TrunkNamer.by_settings()
        self.asha = PhaseAsha.of_experiment(experiment)
        self.confirms = confirm
        self.step: Step | None = None
        """The present runs after the search, once begun: members, a round of the race, or those of a look."""
        self._done = False  # whether nothing more is to be run after the search
        self._waiting: deque[str] | None = None
        """Trials that have begun or were suggested and do not run, oldest first; None: not looked for yet."""
        self.retention = Retention(experiment, state, self.store, self.record_event, self.sync_journal)
        self.merging = Merging(experiment, state, self, self.retention)
        self._begin_stage("search", Proposer(experiment))

    def next_trial(self, live: Collection[str | None], slots: int) -> str | MergeJob | Later | None:
        """Choose the trial that begins, or goes on after a resume.

        Args:
            live: names of the trials that run; None: a worker that is warmed up.
            slots: trials that run at once. At most this many sampler suggestions wait.

        Returns:
            Its name, a merge of ended trials, why there is none yet, or None when nothing is left to run.
        """
        if self._waiting is None:
            self._waiting = deque(self.unfinished_trials())
        running = [name for name in live if name is not None]
        name = self._next_of_stage(self._waiting, running, slots)
        if name is None and self.has_searched and (job := self.merging.take_job()) is not None:
            return job
        if name is None and live and self.may_go_on:
            return Later.UNDECIDED
        while name is None and self.begin_next_step():
            self._waiting.extend(self.unfinished_trials())
            name = self._next_of_stage(self._waiting, running, slots)
        return name

    def _next_of_stage(self, waiting: deque[str], live: list[str], slots: int) -> str | Later | None:
        """Choose a trial of the present stage that need not wait for the trunk of a live one."""

        def is_ready(kind: Kind, params: Params, seed: int | None) -> bool:
            sharing = self.sharing
            return sharing is None or sharing.is_ready(*sharing.locate_trunk(kind, params, seed), live)

        for name in list(waiting):
            if self._is_ready(name, live):
                waiting.remove(name)
                if self.take_over_trunk(name):
                    return name
        while not self.is_stopping:
            suggestion = self.planner.next_suggestion(is_ready, draw=len(waiting) < slots)
            if not isinstance(suggestion, Suggestion):
                return suggestion or (Later.HELD_BACK if waiting else None)
            self.add_trial(suggestion)
            if self.write_error is not None:
                break
            if not self._is_ready(suggestion.trial, live):
                waiting.append(suggestion.trial)
            elif self.take_over_trunk(suggestion.trial):
                return suggestion.trial
        return None

    def _is_ready(self, name: str, live: list[str]) -> bool:
        """Whether a trial can begin now. One with epochs of its own goes on with them."""
        trial, sharing = self.state.trials[name], self.sharing
        if sharing is None or trial.records:
            return True
        return sharing.is_ready(trial.trunk, sharing.last_shared_epoch(trial.fork_epoch), live)

    def requeue_trial(self, name: str) -> None:
        """Have a trial whose worker died go on next, from its last checkpoint, unless it has ended."""
        if self._waiting is not None and not self.state.trials[name].ended:
            self._waiting.appendleft(name)

    def unfinished_trials(self) -> list[str]:
        """Name the trials of the present stage that have begun and not ended, oldest first."""
        names = set(self.step.names) if self.step else None
        return [
            trial.name
            for trial in self.state.trials.values()
            if not trial.ended and (trial.stage == "search" if names is None else trial.name in names)
        ]

    def add_trial(self, suggestion: Suggestion) -> None:
        """Record that a configuration becomes a trial."""
        given = suggestion.kind, suggestion.params, suggestion.seed, suggestion.average, suggestion.member
        settings = self.experiment.run_settings(*given)
        self.record_event(
            TrialSuggested(
                trial=suggestion.trial,
                kind=suggestion.kind,
                stage=suggestion.stage,
                params=suggestion.params,
                seed=settings.seed,
                source=suggestion.source,
                index=suggestion.index,
                trunk=self.namer.name_trunk(settings),
                first_average=settings.fork_epoch,
                average=suggestion.average,
                member=suggestion.member,
            )
        )

    def take_over_trunk(self, name: str) -> bool:
        """Give a trial that begins the epochs of its trunk that others trained, unless a session before did.

        Returns:
            Whether there is still something to do: it ends here if its trunk was found too low, or
            diverges before the trial leaves it.
        """
        trial = self.state.trials[name]
        if self.sharing is None or trial.ended or (trial.records and trial.attempts):
            return not trial.ended
        epochs = 0 if trial.records else self.sharing.count_shared_epochs(trial)
        diverged = self.sharing.find_divergence(trial.trunk, trial.fork_epoch)
        stopped: list[int] = []
        if epochs > 0:
            rungs = self._judge_shared_epochs(trial, epochs)
            stopped = [rung for rung, decision in rungs.items() if decision == "stop"]
            taken = stopped[0] + 1 if stopped else epochs
            self.record_event(TrunkShared(trial=name, epochs=taken, rungs=rungs))
        if stopped:
            self.end_trial(trial, "pruned")
        elif diverged is not None:
            _, found_by, reason = diverged
            self.fail_trial(name, f"{reason} (found by {found_by}, which has the same trunk)")
        return not trial.ended

    def _judge_shared_epochs(self, trial: TrialState, epochs: int) -> dict[int, Decision]:
        """Judge the epochs that a trial takes over, up to the first stop; return each rung's decision."""
        rungs: dict[int, Decision] = {}
        for _, record in self.state.trunks[trial.trunk].records[:epochs]:
            decision = self._judge_epoch(trial, record)
            if decision.rung is not None:
                rungs[decision.rung] = "stop" if decision.stop else "continue"
            if decision.stop:
                break
        return rungs

    # ------------------------------------------------------------------------------ what is recorded

    def replay_event(self, event: Event) -> None:
        """Take in an event of an earlier session, which the fold of the journal has already.

        Raises:
            ValueError: the space has no such trial, or its sampler would not propose it.
        """
        if isinstance(event, TrialSuggested):
            params = self.state.trials[event.trial].params
            self.experiment.check_configuration(params, swa=event.kind == "swa")
            self.experiment.run_settings(event.kind, params, average=event.average)
        self._inform_planner(event)
        if isinstance(event, EpochReported):
            self._judge_epoch(self.state.trials[event.trial], event.record)
        elif isinstance(event, TrunkShared):
            self._judge_shared_epochs(self.state.trials[event.trial], event.epochs)

    def apply_event(self, event: Event) -> None:
        """Fold an event that was written, and inform the planner."""
        super().apply_event(event)
        self._inform_planner(event)

    def _inform_planner(self, event: Event) -> None:
        self.planner.apply_event(event)
        if isinstance(event, TrunkShared):
            for record in self.state.trials[event.trial].records[: event.epochs]:
                self.planner.report_epoch(event.trial, record)

    def record_epoch(
        self,
        name: str,
        record: dict[str, Any],
        checkpoint: str | None,
        *,
        taken_over: bool = False,
        published: dict[str, Any] | None = None,
        scores: dict[str, Any] | None = None,
    ) -> Decision:
        """Record an epoch and decide how the trial goes on.

        A worker that was started again repeats epochs that are recorded already; these change nothing.

        Args:
            name: the trial.
            record: what the epoch reports.
            checkpoint: file with the state after it, if there is one.
            taken_over: the training of this epoch came with the trunk's state.
            published: what the epoch reported before any average, if the trunk's state was published.
            scores: of its averages, where due.
        """
        trial, epoch = self.state.trials[name], record["epoch"]
        if trial.ended or self.is_stopping:
            return "stop"
        if epoch < trial.next_epoch:
            return "continue"
        if epoch > trial.next_epoch:
            self.fail_trial(name, f"epoch {epoch} was reported, but epoch {trial.next_epoch} never was")
            return "stop"
        rung = self._judge_epoch(trial, record)
        last, trunk = epoch == self.experiment.train.epochs - 1, self.state.trunks[trial.trunk]
        self.record_event(
            EpochReported(
                trial=name,
                record={**record, **trunk.name_origin(name, epoch, taken_over=taken_over)},
                decision="stop" if rung.stop and not last else "continue",
                rung=rung.rung,
                checkpoint=checkpoint,
                published=published,
                scores=scores or UNSET,
            )
        )
        if last:
            self.end_trial(trial, "completed", self.objective.read_value(record))
        elif rung.stop:
            self.end_trial(trial, "pruned")
        return "stop" if last or rung.stop else "continue"

    def _judge_epoch(self, trial: TrialState, record: EpochRecord) -> RungDecision:
        return self.asha.judge_epoch(trial, record["epoch"], self.objective.score_record(record))

    def fail_trial(
        self, name: str, reason: str, trunk_epoch: int | None = None, exhausted: float | None = None
    ) -> None:
        """Record that a trial has no result, and why.

        Args:
            name: the trial.
            reason: for people.
            trunk_epoch: the epoch in which its trunk diverged, if it failed by that.
            exhausted: the share of a GPU whose memory was too small, if it failed by that.
        """
        trial = self.state.trials[name]
        if not trial.ended:
            self.end_trial(trial, "failed", error=reason, trunk_epoch=trunk_epoch, exhausted=exhausted)

    def end_trial(
        self,
        trial: TrialState,
        status: EndStatus,
        value: float | None = None,
        error: str | None = None,
        trunk_epoch: int | UnsetType | None = UNSET,
        exhausted: float | None = None,
    ) -> None:
        """Record how a trial ended, and remove the files that nobody needs any more."""
        end = TrialEnded(trial=trial.name, status=status, value=value, error=error)
        end.trunk_epoch, end.exhausted = trunk_epoch, exhausted
        self.record_event(end)
        if self.write_error is None:
            self.retention.tidy_ended_trial(trial)

    # ------------------------------------------------------------------------------ stages and steps

    @property
    def has_searched(self) -> bool:
        """Whether the search stage has nothing more to do."""
        planner = self.planner
        left = planner.draws_more() or any(True for _ in planner.unsuggested_trials())
        return not left and all(t.ended for t in self.state.trials.values() if t.stage == "search")

    @property
    def may_go_on(self) -> bool:
        """Whether other runs may follow when the present stage has nothing more to suggest."""
        return not self._done and not self.is_stopping

    def begin_next_step(self) -> bool:
        """Plan and begin the next runs after the search. Nothing may be running or left to suggest.

        Returns:
            Whether there is something to run.
        """
        if not self.may_go_on:
            return False
        step = self._plan_step()
        if step is None:
            self._done = not self.is_stopping
            return False
        if not self.is_stopping and not step.is_recorded(self.state):
            self.record_event(step.to_event())
        if self.is_stopping:
            return False
        self._begin_step(step)
        return True

    def resume_step(self) -> None:
        """Go on with the runs that an earlier session planned, if the search has ended."""
        if self.has_searched:
            step = self._plan_step()
            if step is not None and step.is_recorded(self.state) and not self.is_stopping:
                self._begin_step(step)

    def _plan_step(self) -> Step | None:
        return plan_step(self.experiment, self.state, self._judge_look, confirm=self.confirms)

    def _begin_step(self, step: Step) -> None:
        self.step = step
        self._begin_stage(step.stage, ConfirmPlanner(step, self.state))
        # a choice has been made: what failed for memory before that is not tried again
        for trial in list(self.state.trials.values()):
            if trial.exhausted is not None:
                self.retention.tidy_trial(trial)

    def _begin_stage(self, stage: Stage, planner: Planner) -> None:
        self.planner = planner
        self.sharing: TrunkSharing | None = None
        if self.experiment.search.share:
            self.sharing = TrunkSharing(
                self.experiment, self.namer, self.state, planner, self.asha, stage=stage
            )
        self.retention.begin_stage(stage, planner, self.sharing)

    def _judge_look(self, event: LookPlanned) -> Stop | None:
        """Judge a look whose runs have all ended, once: what was recorded stands."""
        look = event.look
        if look not in self.state.stops:
            try:
                stop = read_and_evaluate_look(self.state, event, self.folder).stop
            except RequestError as error:
                self.halt_search(str(error))
                return None
            self.record_event(LookJudged(look=look, stop=stop))
        return self.state.stops.get(look)
