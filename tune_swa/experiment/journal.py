"""The append-only record of an experiment, and the state it folds into.

`journal.jsonl` is the single source of truth: the study, the rungs of the scheduler, the result
files and the display are all functions of it. One line is one event, as JSON, with the keys `event`
and `time` (seconds since 1970) and these others:

=============  =====================================================================================
created        format, version, spec, identity, data, weights, numerics, loop, hardware, versions, seed
session        number, slots, gpus, cpus, resumed, storage, spec (the present one: --trials, resources and
               confirm may differ from those it was created with; absent in older journals)
suggested      trial, kind, stage, params, seed, source, index, trunk, first_average
started        trial, device, node, attempt, from_epoch, damaged (why each newer checkpoint was not used),
               retried (the error of GPU memory after which the same process begins it again with streamed
               images; absent otherwise)
shared         trial, epochs (how many of its trunk it takes over), rungs (rung: decision, in their order)
epoch          trial, record, decision (continue | stop), rung, checkpoint, published (the epoch's record
               before any average, where the trunk's state was published with it)
lost           trial (null where a worker was warmed up), device, node, reason: a process that could not use
               its GPU any more has ended itself
ended          trial, status (completed | pruned | failed | interrupted), value, error, trunk_epoch (the
               epoch in which its trunk diverged; absent or null unless it failed by that), exhausted (the
               share of a GPU whose memory was too small; absent unless it failed by that)
reopened       trial: it had failed for GPU memory, and is to be tried again with a larger share
checkpoints    trial, removed (list)
race           round, rounds (seeds of each arm by the end of it, swa, plain: how many arms of each side; all
               rounds of the race, planned beforehand), seeds, arms (name, kind, params, roles), searched
               (trials of the search that had ended): its runs are those of every arm on every seed
confirm        look, seeds, arms, searched (as above); plan, looks (numbers of seeds), levels (one-sided, of
               each of them): what was planned before the first look of the plan. The last three are absent in
               older journals, whose looks were judged by another rule
judged         look, stop (success | futility | seeds: no more are planned; null: the next look follows)
tested         trial, images, shipped, refreshed (metrics on the test images; its predictions are in
               predictions/TRIAL.npz)
untested       trial, reason (its predictions are lost, so it does not count as tested any more)
collected      trunk, epochs (of published states that nobody needs any more)
finished       reason
=============  =====================================================================================
"""

from __future__ import annotations

import codecs
import gc
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tune_swa.errors import RequestError

FORMAT = 1
"""Version of the events' meaning. A journal of another version is refused, not guessed at."""

Event = dict[str, Any]
Status = Literal["running", "completed", "pruned", "failed", "interrupted"]
Kind = Literal["baseline", "swa"]
Stage = Literal["search", "race", "confirm"]
STAGES: tuple[Stage, ...] = ("search", "race", "confirm")
"""In their order: the search, then on fresh seeds the race (validation images), and tested runs."""

Stop = Literal["success", "futility", "seeds"]
"""Why a plan of looks trains no more seeds."""

KEPT_WHILE_RUNNING = 2
"""Checkpoints that a running trial keeps: if the last one is damaged there is the one before."""

SYNC_SECONDS = 1.0
"""A power cut loses events of this long at most; a kill loses none."""

ENDED: frozenset[str] = frozenset({"completed", "pruned", "failed"})
"""Statuses that a trial does not leave again, unless it failed for GPU memory and gets more. An interrupted
one goes on after a resume."""


class Journal:
    """Appends events to a file, one flushed line each.

    The file is opened at the first write and never travels: a pickled journal (Ray pickles whatever
    its searcher and scheduler hold) reopens where it arrives.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None
        self._synced = -math.inf
        self._dirty = False
        """Whether something was written since."""

    def append(self, event: str, **fields: Any) -> Event:
        """Write one event and return it.

        Raises:
            OSError: the disk refused. What was written before is intact.
            ValueError: a field is NaN or infinite, which JSON cannot hold.
        """
        entry: Event = {"event": event, "time": time.time(), **fields}
        line = json.dumps(entry, allow_nan=False, separators=(",", ":")) + "\n"
        if self._descriptor is None:
            self._descriptor = _open_repaired(self.path)
        data = line.encode()
        written = os.write(self._descriptor, data)
        if written != len(data):  # a full disk can take half a line
            self.close()  # whoever opens it again cuts that off
            raise OSError(f"{self.path}: only {written} of {len(data)} bytes were written")
        self._dirty = True
        self.sync(older=SYNC_SECONDS)
        return entry

    def sync(self, *, older: float = 0.0) -> None:
        """See to it that what was written is on the disk, unless that was done in the last `older` seconds.

        Raises:
            OSError: the disk refused.
        """
        if self._dirty and self._descriptor is not None and time.monotonic() - self._synced >= older:
            os.fsync(self._descriptor)
            self._synced, self._dirty = time.monotonic(), False

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_descriptor": None, "_synced": -math.inf, "_dirty": False}


def _open_repaired(path: Path) -> int:
    """Open for appending; a torn last line (a kill in the middle of a write) is cut off first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    size = os.fstat(descriptor).st_size
    end, block = size, 1 << 16
    while end > 0:
        start = max(0, end - block)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        os.ftruncate(descriptor, end)
    return descriptor


def read_events(path: Path) -> Iterator[Event]:
    """Yield the events of a journal, one for each line, without a torn last line.

    Raises:
        RequestError: the file or a line in its middle cannot be read, or it is of another format.
    """
    number, load = 0, _loader()
    try:
        with path.open("rb") as file:
            for line in file:
                number += 1
                if not line.endswith(b"\n"):
                    return  # torn by a kill; the event did not happen
                yield _event(line, path, load)
    except OSError as error:
        raise RequestError(
            f"{path}: cannot be read ({error.strerror}). Restore access to it, or give --name to start a "
            "new experiment"
        ) from None
    except DamagedError as error:
        raise _damaged(path, number, error) from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


_decode = json.JSONDecoder(parse_constant=_refuse).decode
"""Python's own reads NaN and Infinity too, which no journal has."""


def _loader() -> Callable[[bytes], Any]:
    """Reads a line. pydantic's parser takes half the time of Python's, but refuses names of files that are
    no UTF-8, which we write as lone surrogates; whatever it refuses, Python's has the last word."""
    from pydantic_core import from_json  # not above: `doctor` runs where packages are missing

    def load(line: bytes) -> Any:
        try:
            return from_json(line, allow_inf_nan=False, cache_strings="keys")
        except ValueError:
            return _decode(line.removeprefix(codecs.BOM_UTF8).decode())

    return load


def _event(line: bytes, path: Path, load: Callable[[bytes], Any]) -> Event:
    try:
        event = load(line)
        kind = event["event"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DamagedError("it is not an event") from None
    if not isinstance(kind, str):
        raise DamagedError("it is not an event")
    if kind == "created" and event.get("format") != FORMAT:
        raise RequestError(
            f"{path}: written by another version of tune_swa (journal format {event.get('format')}, this one "
            f"reads {FORMAT}). Use the version that wrote it, or give --name to start a new experiment"
        )
    result: Event = event
    return result


class DamagedError(Exception):
    """An event that cannot have happened, or a value that it cannot have had; says why."""


def _damaged(path: Path, number: int, why: DamagedError) -> RequestError:
    keep = f", or keep only the first {number - 1} lines and resume from there" if number > 1 else ""
    return RequestError(
        f"{path}:{number}: this line of the journal is damaged ({why}). Restore the file from a copy{keep}"
    )


@dataclass
class TrialState:
    """What is known of one trial."""

    name: str
    kind: Kind
    stage: Stage
    params: dict[str, Any]
    seed: int
    source: str
    index: int
    """Counts suggestions of this kind, from 0."""
    trunk: str
    """Hash of everything that influences its epochs before averaging."""
    fork_epoch: int | None
    """Epoch of the first average (swa_start + 1; `first_average` in the journal), None for a baseline."""
    status: Status = "running"
    records: list[dict[str, Any]] = field(default_factory=list)
    """Epoch records in the order of epochs; `records[i]["epoch"] == i`."""
    rungs: dict[int, str] = field(default_factory=dict)
    """Rungs this trial was judged at, with the decision."""
    checkpoints: list[str] = field(default_factory=list)
    """Existing checkpoint files, relative to the experiment's folder, oldest first."""
    device: str | None = None
    attempts: int = 0
    error: str | None = None
    started: float | None = None
    tested: Event | None = None
    """Its metrics on the test images; runs of the search have none."""
    suggested: float | None = None
    """When it was suggested, in seconds since 1970, like the times below."""
    reported: list[float] = field(default_factory=list)
    """When each of `records` became known."""
    finished: float | None = None
    """When it ended; None until it has one of the statuses that it does not leave again."""
    session: int = 0
    """The last one in which it was suggested or started."""
    exhausted: float | None = None
    """The share of a GPU, in [0, 1], with which it failed because memory was exhausted."""

    @property
    def next_epoch(self) -> int:
        return len(self.records)

    @property
    def last(self) -> dict[str, Any] | None:
        return self.records[-1] if self.records else None

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    def may_reopen(self, stage: Stage) -> bool:
        """Whether it failed for GPU memory and can be tried again with more.

        Args:
            stage: the present one. What the stages before it chose stands.
        """
        return self.exhausted is not None and STAGES.index(self.stage) >= STAGES.index(stage)

    @property
    def told_to_stop(self) -> bool:
        """Whether its last report was answered with stop."""
        return bool(self.records) and self.rungs.get(self.records[-1]["epoch"]) == "stop"


@dataclass
class TrunkState:
    """What is known of the epochs that trials have in common before they average."""

    trials: list[str] = field(default_factory=list)
    """Everyone who has it, in the order of their suggestions."""
    records: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """Who trained each epoch first, and what it reported of the live model; from epoch 0 on."""
    published: set[int] = field(default_factory=set)
    """Epochs after which there is a state to go on from."""
    diverged: tuple[int, str, str] | None = None
    """The epoch whose loss or outputs were not finite, who trained it, and the reason it failed with."""


OWN_COST = ("train_seconds", "bn_seconds", "eval_seconds", "images_per_second")
"""Fields of a record that are null where another trial spent the time."""


def ranking(trial: TrialState) -> tuple[float, float, str]:
    """Sorts trials that have reported, the best first: by accuracy, then nll, then name.

    Everything that asks for the best asks by this, so that ties cannot be answered in two ways.
    """
    last = trial.records[-1]
    return -last["accuracy"], math.inf if last["nll"] is None else last["nll"], trial.name


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
                raise _damaged(path, number, error) from None
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
        _expect(event, time=float, version=str, spec=dict, identity=dict, data=dict, numerics=dict)
        _expect(event, hardware=dict, versions=dict)
        _expect(
            event["data"], fingerprint=str, class_names=list, num_classes=int, train=int, val=int, test=int
        )
        _expect(event["spec"]["search"], keep_checkpoints=str)
        self.header = event

    def _on_session(self, event: Event) -> None:
        _expect(event, number=int)
        if event.get("storage") is not None:
            _expect(event, storage=str)
        self.sessions = event["number"]
        self.storage = event.get("storage")
        self.finished = None
        if "spec" in event and self.header is not None:
            _expect(event, spec=dict)
            _expect(event["spec"]["search"], keep_checkpoints=str)
            self.header = {**self.header, "spec": event["spec"]}
        for trial in self.trials.values():
            if trial.status == "running":  # a driver that was killed could not say so
                trial.status = "interrupted"

    def _on_suggested(self, event: Event) -> None:
        name = event["trial"]
        if name in self.trials:
            raise DamagedError(f"{name!r} was suggested before")
        _expect(event, trial=str, kind=str, stage=str, params=dict, seed=int, source=str, index=int)
        _expect(event, trunk=str, time=float)
        _check_name("trial", name)
        _check_name("trunk", event["trunk"])
        if event["kind"] not in ("baseline", "swa"):
            raise DamagedError(f"kind is {event['kind']!r}")
        if event["stage"] not in STAGES:
            raise DamagedError(f"stage is {event['stage']!r}")
        if event["first_average"] is not None:
            _expect(event, first_average=int)
        names = ("kind", "stage", "params", "seed", "source", "index", "trunk")
        known = {n: event[n] for n in names} | {"fork_epoch": event["first_average"]}
        known["params"] = params_of(event)
        self.trials[name] = TrialState(name, **known, suggested=event["time"], session=self.sessions)
        self.trunks.setdefault(event["trunk"], TrunkState()).trials.append(name)

    def _on_started(self, event: Event) -> None:
        trial = self._trial(event)
        _expect(event, device=str, attempt=int)
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
        _expect(event, time=float)
        trial.records.append(record)
        trial.reported.append(event["time"])
        self._take_into_trunk(trial, record, event.get("published"))
        if event["rung"] is not None:
            _expect(event, rung=int, decision=str)
            trial.rungs[event["rung"]] = event["decision"]
        if event["checkpoint"] is not None:
            _expect(event, checkpoint=str)
            for part in event["checkpoint"].split("/"):
                _check_name("checkpoint", part)
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
        _expect(event, epochs=int, time=float)
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
        _expect(event, round=int, rounds=list, seeds=list, arms=list, searched=int)
        for planned in event["rounds"]:
            _expect(planned, seeds=int, swa=int, plain=int)
        last = self.races[-1] if self.races and event["round"] > 1 else {"round": 0}
        if event["round"] != last["round"] + 1 or event["round"] > len(event["rounds"]):
            raise DamagedError(f"round {event['round']} of a race, where {last['round'] + 1} was due")
        _check_arms(event)
        self.races.append(event)

    def _on_confirm(self, event: Event) -> None:
        _expect(event, look=int, seeds=list, arms=list, searched=int)
        if event["look"] != len(self.confirmations) + 1:
            raise DamagedError(f"look {event['look']}, where {len(self.confirmations) + 1} was due")
        _check_arms(event)
        if event.get("plan") is not None:
            _expect(event, plan=int, looks=list, levels=list)
            numbers, levels = event["looks"], event["levels"]
            if len(event["seeds"]) not in numbers or len(numbers) != len(levels):
                raise DamagedError(f"{len(event['seeds'])} seeds, but looks at {numbers!r}"[:100])
            if not all(type(n) is int for n in numbers) or not all(type(a) is float for a in levels):
                raise DamagedError(f"looks are {numbers!r} at levels {levels!r}"[:100])
        self.confirmations.append(event)

    def _on_judged(self, event: Event) -> None:
        _expect(event, look=int)
        if not 0 < event["look"] <= len(self.confirmations):
            raise DamagedError(f"look {event['look']} was judged, but not planned")
        if event["stop"] not in ("success", "futility", "seeds", None):
            raise DamagedError(f"stop is {event['stop']!r}"[:100])
        self.stops[event["look"]] = event["stop"]

    def _on_tested(self, event: Event) -> None:
        trial = self._trial(event)
        _expect(event, images=int, shipped=dict)
        for metrics in (event["shipped"], event["refreshed"] or {}):
            _expect(metrics, **dict.fromkeys(metrics, float))
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
            _expect(event, error=str)
        _expect(event, time=float)
        if event.get("trunk_epoch") is not None:
            _expect(event, trunk_epoch=int, error=str)
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
        _expect(event, device=str, node=str, reason=str)
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


def _expect(fields: dict[str, Any], **types: type) -> None:
    """Raise unless each of the fields is there with its type; a whole number will do for a float."""
    for name, expected in types.items():
        value = fields[name]
        if type(value) is not expected and not (expected is float and type(value) is int):
            raise DamagedError(f"{name} is {value!r}"[:100])


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


def _check_name(field: str, name: str) -> None:
    """Names of trials and trunks become names of files: one that leads elsewhere was made by nobody here."""
    if not _NAME.fullmatch(name):
        raise DamagedError(f"{field} is {name!r}"[:100])


def _exhausted_share(event: Event) -> float | None:
    """The share of a GPU whose memory an ended trial exhausted; None if that is not why it ended.

    Raises:
        DamagedError: it is no share, or not of a trial that failed.
    """
    if event.get("exhausted") is None:
        return None
    _expect(event, exhausted=float)
    share = float(event["exhausted"])
    if not 0 <= share <= 1 or event["status"] != "failed":
        raise DamagedError(f"exhausted is {share} of a trial that is {event['status']}")
    return share


def _check_arms(event: Event) -> None:
    """Raise unless an event plans runs of arms on seeds."""
    if not event["seeds"] or not all(type(seed) is int for seed in event["seeds"]):
        raise DamagedError(f"seeds are {event['seeds']!r}"[:100])
    for arm in event["arms"]:
        _expect(arm, name=str, kind=str, params=dict, roles=list)
        _check_name("name", arm["name"])
        params_of(arm)


def fresh_run_name(arm: str, stage: Stage, seed: int) -> str:
    """Name of the run of an arm on a fresh seed."""
    return f"{arm}-{'race' if stage == 'race' else 'seed'}{seed}"


def params_of(event: dict[str, Any]) -> dict[str, Any]:
    """Parameters of a suggestion or an arm. JSON has no tuples, parameters have no lists.

    Raises:
        DamagedError: a value is none that a parameter can have.
    """
    for parameter, value in event["params"].items():
        if isinstance(value, dict) or (isinstance(value, list) and not all(map(_is_word, value))):
            raise DamagedError(f"{parameter} is {value!r}"[:100])
    return {n: tuple(v) if isinstance(v, list) else v for n, v in event["params"].items()}


def _is_word(value: Any) -> bool:
    return isinstance(value, str)


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
