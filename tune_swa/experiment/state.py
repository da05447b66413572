"""The state of an experiment: the fold of its journal."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tune_swa.errors import RequestError
from tune_swa.experiment.events import (
    STAGES,
    DamagedError,
    Event,
    Kind,
    Stop,
    check_arms,
    check_name,
    expect_types,
    params_of,
)
from tune_swa.experiment.journal import describe_damage, read_events
from tune_swa.experiment.layout import KEPT_WHILE_RUNNING
from tune_swa.experiment.trial_state import ENDED, OWN_COST, TrialState, TrunkState


@dataclass
class ExperimentState:
    """The fold of a journal."""

    header: Event | None = None
    """The `created` event, with the `spec` of the newest session."""
    sessions: int = 0
    storage: str | None = None
    """Folder or URI of the checkpoints, where it is not the experiment's folder."""
    trials: dict[str, TrialState] = field(default_factory=dict)
    trunks: dict[str, TrunkState] = field(default_factory=dict)
    races: list[Event] = field(default_factory=list)
    """Every round of a race that was planned, in their order."""
    confirmations: list[Event] = field(default_factory=list)
    """Every look at fresh seeds that was planned, in their order."""
    stops: dict[int, Stop | None] = field(default_factory=dict)
    """Of each look that was judged, why no more seeds follow; None: they do."""
    finished: str | None = None
    path: Path | None = field(default=None, compare=False)
    """The journal that was read, for messages."""

    @classmethod
    def read(cls, path: Path) -> ExperimentState:
        """Fold the journal at `path`; an absent one is an empty state."""
        if not path.exists():
            return cls(path=path)
        with _no_cycles():
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
                if state.header is None and event["event"] != "created":
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
        handler = getattr(self, f"_on_{event['event']}", None)
        if handler is None:
            return
        try:
            handler(event)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise DamagedError(f"{type(error).__name__}: {error}") from None

    @property
    def where(self) -> str:
        """What messages call the journal."""
        return str(self.path or "the journal")

    def damaged(self, why: DamagedError) -> RequestError:
        """The error of a journal whose events are in order, but whose values cannot be."""
        return RequestError(f"{self.where}: is damaged ({why}). Restore the file from a copy")

    def _trial(self, event: Event) -> TrialState:
        trial = self.trials.get(event["trial"])
        if trial is None:
            raise DamagedError(f"no trial {event['trial']!r} was suggested before")
        return trial

    def of_kind(self, kind: Kind) -> list[TrialState]:
        return [t for t in self.trials.values() if t.kind == kind]

    @property
    def keeps_best_only(self) -> bool:
        """Whether a running trial keeps its last checkpoints only."""
        return self.header is None or self.header["spec"]["search"]["keep_checkpoints"] != "all"

    def _on_created(self, event: Event) -> None:
        if self.header is not None:
            raise DamagedError("an experiment begins for the second time")
        expect_types(event, time=float, version=str, spec=dict, identity=dict, data=dict, numerics=dict)
        expect_types(event, hardware=dict, versions=dict)
        expect_types(
            event["data"], fingerprint=str, class_names=list, num_classes=int, train=int, val=int, test=int
        )
        expect_types(event["spec"]["search"], keep_checkpoints=str)
        self.header = event

    def _on_session(self, event: Event) -> None:
        expect_types(event, number=int)
        if event.get("storage") is not None:
            expect_types(event, storage=str)
        self.sessions = event["number"]
        self.storage = event.get("storage")
        self.finished = None
        if "spec" in event and self.header is not None:
            expect_types(event, spec=dict)
            expect_types(event["spec"]["search"], keep_checkpoints=str)
            self.header = {**self.header, "spec": event["spec"]}
        for trial in self.trials.values():
            if trial.status == "running":  # a driver that was killed could not say so
                trial.status = "interrupted"

    def _on_suggested(self, event: Event) -> None:
        name = event["trial"]
        if name in self.trials:
            raise DamagedError(f"{name!r} was suggested before")
        expect_types(event, trial=str, kind=str, stage=str, params=dict, seed=int, source=str, index=int)
        expect_types(event, trunk=str, time=float)
        check_name("trial", name)
        check_name("trunk", event["trunk"])
        if event["kind"] not in ("baseline", "swa"):
            raise DamagedError(f"kind is {event['kind']!r}")
        if event["stage"] not in STAGES:
            raise DamagedError(f"stage is {event['stage']!r}")
        if event["first_average"] is not None:
            expect_types(event, first_average=int)
        names = ("kind", "stage", "params", "seed", "source", "index", "trunk")
        known = {n: event[n] for n in names} | {"fork_epoch": event["first_average"]}
        known["params"] = params_of(event)
        self.trials[name] = TrialState(name, **known, suggested=event["time"], session=self.sessions)
        self.trunks.setdefault(event["trunk"], TrunkState()).trials.append(name)

    def _on_started(self, event: Event) -> None:
        trial = self._trial(event)
        expect_types(event, device=str, attempt=int)
        if trial.ended:
            raise DamagedError(f"{trial.name} had ended before")
        trial.status = "running"
        trial.device = event["device"]
        trial.attempts = event["attempt"]
        trial.session = self.sessions
        trial.started = trial.started or event["time"]

    def _on_epoch(self, event: Event) -> None:
        trial = self._trial(event)
        if trial.ended:
            raise DamagedError(f"{trial.name} had ended before")
        record = event["record"]
        _check_record(record, trial.next_epoch, trial)
        expect_types(event, time=float)
        trial.records.append(record)
        trial.reported.append(event["time"])
        self._take_into_trunk(trial, record, event.get("published"))
        if event["rung"] is not None:
            expect_types(event, rung=int, decision=str)
            trial.rungs[event["rung"]] = event["decision"]
        if event["checkpoint"] is not None:
            expect_types(event, checkpoint=str)
            for part in event["checkpoint"].split("/"):
                check_name("checkpoint", part)
            trial.checkpoints.append(event["checkpoint"])
            if self.keeps_best_only:
                del trial.checkpoints[:-KEPT_WHILE_RUNNING]

    def _take_into_trunk(
        self, trial: TrialState, record: dict[str, Any], published: dict[str, Any] | None
    ) -> None:
        trunk = self.trunks[trial.trunk]
        if published is not None:
            _check_record(published, len(trial.records) - 1, trial)
            trunk.published.add(record["epoch"])
        unaveraged = published or (record if record.get("phase") == "trunk" else None)
        if unaveraged is not None and record["epoch"] == len(trunk.records):
            trunk.records.append((trial.name, unaveraged))

    def _on_shared(self, event: Event) -> None:
        expect_types(event, epochs=int, time=float)
        trial = self._trial(event)
        known = self.trunks[trial.trunk].records
        if trial.ended or trial.records:
            raise DamagedError(f"{trial.name} had begun before")
        if not 0 < event["epochs"] <= len(known):
            raise DamagedError(f"{event['epochs']} epochs of a trunk of which {len(known)} are known")
        nothing = dict.fromkeys(OWN_COST)
        trial.records = [
            {**record, **nothing, "shared_from": name} for name, record in known[: event["epochs"]]
        ]
        trial.reported = [event["time"]] * len(trial.records)
        trial.rungs = {int(rung): str(decision) for rung, decision in event["rungs"].items()}

    def _on_race(self, event: Event) -> None:
        expect_types(event, round=int, rounds=list, seeds=list, arms=list, searched=int)
        for planned in event["rounds"]:
            expect_types(planned, seeds=int, swa=int, plain=int)
        last = self.races[-1] if self.races and event["round"] > 1 else {"round": 0}
        if event["round"] != last["round"] + 1 or event["round"] > len(event["rounds"]):
            raise DamagedError(f"round {event['round']} of a race, where {last['round'] + 1} was due")
        check_arms(event)
        self.races.append(event)

    def _on_confirm(self, event: Event) -> None:
        expect_types(event, look=int, seeds=list, arms=list, searched=int)
        if event["look"] != len(self.confirmations) + 1:
            raise DamagedError(f"look {event['look']}, where {len(self.confirmations) + 1} was due")
        check_arms(event)
        if event.get("plan") is not None:
            expect_types(event, plan=int, looks=list, levels=list)
            numbers, levels = event["looks"], event["levels"]
            if len(event["seeds"]) not in numbers or len(numbers) != len(levels):
                raise DamagedError(f"{len(event['seeds'])} seeds, but looks at {numbers!r}"[:100])
            if not all(type(n) is int for n in numbers) or not all(type(a) is float for a in levels):
                raise DamagedError(f"looks are {numbers!r} at levels {levels!r}"[:100])
        self.confirmations.append(event)

    def _on_judged(self, event: Event) -> None:
        expect_types(event, look=int)
        if not 0 < event["look"] <= len(self.confirmations):
            raise DamagedError(f"look {event['look']} was judged, but not planned")
        if event["stop"] not in ("success", "futility", "seeds", None):
            raise DamagedError(f"stop is {event['stop']!r}"[:100])
        self.stops[event["look"]] = event["stop"]

    def _on_tested(self, event: Event) -> None:
        trial = self._trial(event)
        expect_types(event, images=int, shipped=dict)
        for metrics in (event["shipped"], event["refreshed"] or {}):
            expect_types(metrics, **dict.fromkeys(metrics, float))
        trial.tested = event

    def _on_untested(self, event: Event) -> None:
        self._trial(event).tested = None

    def _on_collected(self, event: Event) -> None:
        self.trunks[event["trunk"]].published.difference_update(event["epochs"])

    def _on_ended(self, event: Event) -> None:
        trial = self._trial(event)
        if event["status"] not in ENDED | {"interrupted"}:
            raise DamagedError(f"status is {event['status']!r}")
        if trial.ended:
            raise DamagedError(f"{trial.name} had ended before")
        if event["status"] == "completed" and trial.last is None:
            raise DamagedError(f"{trial.name} has no epoch")
        if event["error"] is not None:
            expect_types(event, error=str)
        expect_types(event, time=float)
        if event.get("trunk_epoch") is not None:
            expect_types(event, trunk_epoch=int, error=str)
            trunk = self.trunks[trial.trunk]
            trunk.diverged = trunk.diverged or (event["trunk_epoch"], trial.name, event["error"])
        trial.exhausted = _exhausted_share(event)
        trial.status = event["status"]
        trial.error = event["error"]
        trial.finished = event["time"] if trial.ended else None

    def _on_reopened(self, event: Event) -> None:
        trial = self._trial(event)
        if trial.exhausted is None:
            raise DamagedError(f"{trial.name} did not fail for GPU memory before")
        trial.status = "interrupted"
        trial.error = trial.exhausted = trial.finished = None

    def _on_lost(self, event: Event) -> None:
        expect_types(event, device=str, node=str, reason=str)
        if event["trial"] is not None:
            self._trial(event)

    def _on_checkpoints(self, event: Event) -> None:
        trial = self._trial(event)
        gone = set(event["removed"])
        trial.checkpoints = [c for c in trial.checkpoints if c not in gone]

    def _on_finished(self, event: Event) -> None:
        self.finished = event["reason"]


@contextmanager
def _no_cycles() -> Iterator[None]:
    """Nothing in a journal refers to itself, and to look for that among hundreds of thousands of new records
    again and again takes a fifth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _exhausted_share(event: Event) -> float | None:
    """The share of a GPU whose memory an ended trial exhausted; None if that is not why it ended.

    Raises:
        DamagedError: it is no share, or not of a trial that failed.
    """
    if event.get("exhausted") is None:
        return None
    expect_types(event, exhausted=float)
    share = float(event["exhausted"])
    if not 0 <= share <= 1 or event["status"] != "failed":
        raise DamagedError(f"exhausted is {share} of a trial that is {event['status']}")
    return share


_WORDS = frozenset({"phase", "shared_from"})
_NUMBERS = frozenset({int, float, type(None)})


def _check_record(record: dict[str, Any], epoch: int, trial: TrialState) -> None:
    """There are hundreds of thousands of these, so this is as plain as can be."""
    if record["epoch"] != epoch:
        raise DamagedError(f"epoch {record['epoch']!r} of {trial.name}, where {epoch} was due")
    if record["accuracy"] is None:
        raise DamagedError("it has no accuracy")
    for name, value in record.items():
        if type(value) not in _NUMBERS and not (name in _WORDS and type(value) is str):
            raise DamagedError(f"{name} is {value!r}"[:100])
