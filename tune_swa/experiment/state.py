"""The state of an experiment: the fold of its journal."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from tune_swa.errors import RequestError
from tune_swa.experiment.events import (
    CheckpointsRemoved,
    DamagedError,
    EpochRecord,
    EpochReported,
    Event,
    ExperimentCreated,
    ImageFacts,
    Kind,
    LookJudged,
    LookPlanned,
    MembersPlanned,
    PlannedArm,
    RacePlanned,
    SearchFinished,
    SessionStarted,
    Stop,
    TrialEnded,
    TrialReopened,
    TrialStarted,
    TrialSuggested,
    TrialTested,
    TrialUntested,
    TrunkCollected,
    TrunkShared,
    WorkerLost,
    check_name,
    params_of,
)
from tune_swa.experiment.field_types import Metrics, convert_checked
from tune_swa.experiment.journal import describe_damage, read_events
from tune_swa.experiment.layout import CHECKPOINTS, KEPT_WHILE_RUNNING, state_name
from tune_swa.experiment.merge_checks import check_merge, check_merge_test
from tune_swa.experiment.merge_events import MergeTested, MergeUntested, ModelsMerged
from tune_swa.experiment.objective import Objective
from tune_swa.experiment.trial_state import OWN_COST, TrialState, TrunkState


@dataclass
class ExperimentState:
    """The fold of a journal."""

    header: ExperimentCreated | None = None
    """The `created` event, with the `spec` of the newest session."""
    sessions: int = 0
    storage: str | None = None
    """Folder or URI of the checkpoints, where it is not the experiment's folder."""
    trials: dict[str, TrialState] = field(default_factory=dict)
    trunks: dict[str, TrunkState] = field(default_factory=dict)
    member_plans: list[MembersPlanned] = field(default_factory=list)
    """Every plan of members of SWAP, in their order."""
    races: list[RacePlanned] = field(default_factory=list)
    """Every round of a race that was planned, in their order."""
    confirmations: list[LookPlanned] = field(default_factory=list)
    """Every look at fresh seeds that was planned, in their order."""
    stops: dict[int, Stop | None] = field(default_factory=dict)
    """For each look that was judged, why no more seeds follow; None: they do."""
    merges: dict[str, ModelsMerged] = field(default_factory=dict)
    """The last one of each, by the file of its weights."""
    tested_merges: dict[str, MergeTested] = field(default_factory=dict)
    """Recipes that were followed on fresh seeds, by the names of the merged models."""
    finished: str | None = None
    path: Path | None = field(default=None, compare=False)
    """The journal that was read, for messages."""

    def __post_init__(self) -> None:
        self.objective = Objective() if self.header is None else _check_spec(self.header.spec)
        """What its trials are compared by: kept, since every epoch of a journal asks for it."""

    @classmethod
    def read(cls, path: Path) -> ExperimentState:
        """Fold the journal at `path`; an absent one is an empty state."""
        if not path.exists():
            return cls(path=path)
        with _pause_gc():
            return cls.fold(read_events(path), path)

    @classmethod
    def fold(cls, events: Iterable[Event], path: Path) -> ExperimentState:
        """Fold the events of the journal at `path`, from its first line on.

        Raises:
            RequestError: an event cannot have happened; the message names its line.
        """
        state = cls(path=path)
        for number, event in enumerate(events, start=1):
            try:
                if state.header is None and not isinstance(event, ExperimentCreated):
                    raise DamagedError("it comes before the line that begins the experiment")
                state.apply(event)
            except DamagedError as error:
                raise describe_damage(path, number, error) from None
        return state

    def apply(self, event: Event) -> None:
        """Take in one event. Events of unknown kinds are left to newer versions.

        Raises:
            DamagedError: the event cannot have happened.
        """
        handler = _HANDLERS.get(type(event))
        if handler is None:
            return
        try:
            handler(self, event)
        except msgspec.ValidationError as error:
            raise DamagedError(str(error)) from None
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise DamagedError(f"{type(error).__name__}: {error}") from None

    @property
    def where(self) -> str:
        """Name of the journal in messages."""
        return str(self.path or "the journal")

    def damaged(self, why: DamagedError) -> RequestError:
        """The error of a journal whose events are in order, but whose values cannot be."""
        return RequestError(f"{self.where}: is damaged ({why}). Restore the file from a copy")

    def _find_trial(self, name: str) -> TrialState:
        trial = self.trials.get(name)
        if trial is None:
            raise DamagedError(f"no trial {name!r} was suggested before")
        return trial

    def of_kind(self, kind: Kind) -> list[TrialState]:
        return [t for t in self.trials.values() if t.kind == kind]

    @property
    def keeps_best_only(self) -> bool:
        """Whether a running trial keeps its last checkpoints only."""
        return self.header is None or self.header.spec["search"]["keep_checkpoints"] != "all"

    def _create(self, event: ExperimentCreated) -> None:
        if self.header is not None:
            raise DamagedError("an experiment begins for the second time")
        convert_checked(event.data, ImageFacts)
        self.objective = _check_spec(event.spec)
        self.header = event

    def _start_session(self, event: SessionStarted) -> None:
        self.sessions = event.number
        self.storage = event.storage or None
        self.finished = None
        if event.spec is not None and self.header is not None:
            self.objective = _check_spec(event.spec)
            self.header = msgspec.structs.replace(self.header, spec=event.spec)
        for trial in self.trials.values():
            if trial.status == "running":  # a driver that was killed could not say so
                trial.status = "interrupted"

    def _suggest(self, event: TrialSuggested) -> None:
        if event.trial in self.trials:
            raise DamagedError(f"{event.trial!r} was suggested before")
        check_name("trial", event.trial)
        check_name("trunk", event.trunk)
        self.trials[event.trial] = TrialState(
            event.trial,
            event.kind,
            event.stage,
            params_of(event),
            event.seed,
            event.source,
            event.index,
            event.trunk,
            event.first_average,
            suggested=event.time,
            session=self.sessions,
            average=event.average,
            member=event.member,
        )
        self.trunks.setdefault(event.trunk, TrunkState()).trials.append(event.trial)

    def _start(self, event: TrialStarted) -> None:
        trial = self._find_trial(event.trial)
        if trial.ended:
            raise DamagedError(f"{trial.name} had ended before")
        trial.status = "running"
        trial.device = event.device
        trial.attempts = event.attempt
        trial.session = self.sessions
        trial.started = trial.started or event.time

    def _add_epoch(self, event: EpochReported) -> None:
        trial = self._find_trial(event.trial)
        if trial.ended:
            raise DamagedError(f"{trial.name} had ended before")
        _check_record(event.record, trial.next_epoch, trial, self.objective)
        trial.records.append(event.record)
        trial.reported.append(event.time)
        if event.scores:
            trial.scores[event.epoch] = event.scores
        self._add_to_trunk(trial, event.record, event.published or None)
        if event.rung is not None:
            trial.rungs[event.rung] = event.decision
        if event.checkpoint is not None:
            due = state_name(f"{CHECKPOINTS}/{trial.name}", event.epoch)
            if event.checkpoint != due:
                raise DamagedError(f"checkpoint is {event.checkpoint!r}, where {due} was due"[:200])
            trial.checkpoints.append(event.checkpoint)
            if self.keeps_best_only:
                del trial.checkpoints[:-KEPT_WHILE_RUNNING]

    def _add_to_trunk(self, trial: TrialState, record: EpochRecord, published: EpochRecord | None) -> None:
        trunk = self.trunks[trial.trunk]
        if published is not None:
            _check_record(published, len(trial.records) - 1, trial, self.objective)
            trunk.published.add(record["epoch"])
        unaveraged = published or (record if record.get("phase") == "trunk" else None)
        if unaveraged is not None and record["epoch"] == len(trunk.records):
            trunk.records.append((trial.name, unaveraged))

    def _share_trunk(self, event: TrunkShared) -> None:
        trial = self._find_trial(event.trial)
        known = self.trunks[trial.trunk].records
        if trial.ended or trial.records:
            raise DamagedError(f"{trial.name} had begun before")
        if not 0 < event.epochs <= len(known):
            raise DamagedError(f"{event.epochs} epochs of a trunk of which {len(known)} are known")
        nothing = dict.fromkeys(OWN_COST)
        trial.records = [{**record, **nothing, "shared_from": name} for name, record in known[: event.epochs]]
        trial.reported = [event.time] * len(trial.records)
        trial.rungs = dict(event.rungs)

    def _plan_members(self, event: MembersPlanned) -> None:
        if event.members < 2 or not event.arms:
            raise DamagedError(f"{event.members} members of {len(event.arms)} configurations")
        _check_arms(event.arms)
        self.member_plans.append(event)

    def _plan_race(self, event: RacePlanned) -> None:
        due = self.races[-1].round + 1 if self.races and event.round > 1 else 1
        if event.round != due or event.round > len(event.rounds):
            raise DamagedError(f"round {event.round} of a race, where {due} was due")
        _check_seeds(event)
        _check_arms(event.arms)
        self.races.append(event)

    def _plan_look(self, event: LookPlanned) -> None:
        due = len(self.confirmations) + 1
        if event.look != due:
            raise DamagedError(f"look {event.look}, where {due} was due")
        _check_seeds(event)
        merges = event.merges or ()
        _check_arms((*event.arms, *(member for planned in merges for member in planned.members)))
        for planned in merges:
            check_name("merge", planned.merge.replace(" ", "-"))
        if event.plan is not None:
            looks, levels = event.looks or (), event.levels or ()
            if len(event.seeds) not in looks or len(looks) != len(levels):
                raise DamagedError(f"{len(event.seeds)} seeds, but looks at {looks!r}"[:100])
        self.confirmations.append(event)

    def _judge_look(self, event: LookJudged) -> None:
        if not 0 < event.look <= len(self.confirmations):
            raise DamagedError(f"look {event.look} was judged, but not planned")
        self.stops[event.look] = event.stop

    def _add_test(self, event: TrialTested) -> None:
        trial = self._find_trial(event.trial)
        for metrics in filter(lambda metrics: metrics is not None, (event.shipped, event.refreshed)):
            convert_checked(metrics, Metrics)
        trial.tested = event

    def _remove_test(self, event: TrialUntested) -> None:
        self._find_trial(event.trial).tested = None

    def _merge(self, event: ModelsMerged) -> None:
        check_merge(event, self.trials)
        self.merges[event.file] = event

    def _test_merge(self, event: MergeTested) -> None:
        check_merge_test(event, self.confirmations, self.trials)
        self.tested_merges[event.run] = event

    def _remove_merge_test(self, event: MergeUntested) -> None:
        del self.tested_merges[event.run]

    def _collect_states(self, event: TrunkCollected) -> None:
        self.trunks[event.trunk].published.difference_update(event.epochs)

    def _end(self, event: TrialEnded) -> None:
        trial = self._find_trial(event.trial)
        if trial.ended:
            raise DamagedError(f"{trial.name} had ended before")
        if event.status == "completed" and trial.last is None:
            raise DamagedError(f"{trial.name} has no epoch")
        if isinstance(event.value, float):
            self.objective.check_value(event.value)
        if isinstance(event.trunk_epoch, int):
            if event.error is None:
                raise DamagedError("its trunk diverged, but it has no error")
            trunk = self.trunks[trial.trunk]
            trunk.diverged = trunk.diverged or (event.trunk_epoch, trial.name, event.error)
        if event.exhausted is not None and (not 0 <= event.exhausted <= 1 or event.status != "failed"):
            raise DamagedError(f"exhausted is {event.exhausted} of a trial that is {event.status}")
        trial.exhausted = event.exhausted
        trial.status = event.status
        trial.error = event.error
        trial.finished = event.time if trial.ended else None

    def _reopen(self, event: TrialReopened) -> None:
        trial = self._find_trial(event.trial)
        if trial.exhausted is None:
            raise DamagedError(f"{trial.name} did not fail for GPU memory before")
        trial.status = "interrupted"
        trial.error = trial.exhausted = trial.finished = None

    def _lose_worker(self, event: WorkerLost) -> None:
        if event.trial is not None:
            self._find_trial(event.trial)

    def _remove_checkpoints(self, event: CheckpointsRemoved) -> None:
        trial = self._find_trial(event.trial)
        gone = set(event.removed)
        trial.checkpoints = [c for c in trial.checkpoints if c not in gone]

    def _finish(self, event: SearchFinished) -> None:
        self.finished = event.reason


_HANDLERS: dict[type[Event], Callable[[ExperimentState, Any], None]] = {
    ExperimentCreated: ExperimentState._create,
    SessionStarted: ExperimentState._start_session,
    TrialSuggested: ExperimentState._suggest,
    TrialStarted: ExperimentState._start,
    EpochReported: ExperimentState._add_epoch,
    TrunkShared: ExperimentState._share_trunk,
    MembersPlanned: ExperimentState._plan_members,
    RacePlanned: ExperimentState._plan_race,
    LookPlanned: ExperimentState._plan_look,
    LookJudged: ExperimentState._judge_look,
    TrialTested: ExperimentState._add_test,
    TrialUntested: ExperimentState._remove_test,
    TrunkCollected: ExperimentState._collect_states,
    ModelsMerged: ExperimentState._merge,
    MergeTested: ExperimentState._test_merge,
    MergeUntested: ExperimentState._remove_merge_test,
    TrialEnded: ExperimentState._end,
    TrialReopened: ExperimentState._reopen,
    WorkerLost: ExperimentState._lose_worker,
    CheckpointsRemoved: ExperimentState._remove_checkpoints,
    SearchFinished: ExperimentState._finish,
}


@contextmanager
def _pause_gc() -> Iterator[None]:
    """Pause the search for cycles: a journal has none, and it takes a fifth of the time of reading one."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _check_spec(spec: dict[str, Any]) -> Objective:
    """Check the settings that the fold itself reads, and return the objective."""
    if not isinstance(spec["search"]["keep_checkpoints"], str):
        raise DamagedError(f"keep_checkpoints is {spec['search']['keep_checkpoints']!r}"[:100])
    return Objective.of_spec(spec)


def _check_seeds(event: RacePlanned | LookPlanned) -> None:
    if not event.seeds:
        raise DamagedError("there are no seeds")


def _check_arms(arms: Iterable[PlannedArm]) -> None:
    for arm in arms:
        check_name("name", arm.name)
        params_of(arm)


def _check_record(record: EpochRecord, epoch: int, trial: TrialState, objective: Objective) -> None:
    if record["epoch"] != epoch:
        raise DamagedError(f"epoch {record['epoch']!r} of {trial.name}, where {epoch} was due"[:200])
    if record.get(objective.metric) is None:
        raise DamagedError(f"epoch {epoch} of {trial.name} has no {objective.metric}, the objective")
