"""Checkpoints of a trial in a worker: when one is saved, and which one the trial goes on from."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from tune_swa.execution.snapshot_bank import fetch_snapshots, remove_snapshots, store_snapshots
from tune_swa.experiment.layout import KEPT_WHILE_RUNNING, epoch_of, state_name
from tune_swa.storage import Store
from tune_swa.training import checkpoint as checkpoints
from tune_swa.training.records import EpochRecord
from tune_swa.training.run import Run

SAVING_SHARE = 0.02
"""Share of a trial's time that checkpoints may take."""
SAVING_SECONDS = 0.2
"""Assumed seconds of a checkpoint before the first one is timed: a ResNet-18's, on a local disk."""


class MachineError(Exception):
    """This machine cannot go on, through no fault of the trial."""


class CheckpointSchedule:
    """When a trial saves a checkpoint: every so many epochs, or as often as costs little.

    Args:
        every: epochs between two; `auto`: once the time since the last one is `1 / SAVING_SHARE` times
            what that one took, so that a kill costs at most that much training.
        clock: seconds that only go up.
    """

    def __init__(self, every: int | Literal["auto"], clock: Callable[[], float] = time.monotonic) -> None:
        self._every = every
        self._clock = clock
        self._saved = clock()
        self._took = SAVING_SECONDS

    def is_due(self, epochs: int) -> bool:
        """Whether to save after so many epochs of the trial."""
        if self._every != "auto":
            return epochs % self._every == 0
        return self._clock() - self._saved >= self._took / SAVING_SHARE

    @contextmanager
    def time_saving(self) -> Iterator[None]:
        """Time what it costs."""
        begun = self._clock()
        yield
        self._saved = self._clock()
        self._took = self._saved - begun


def save_checkpoint(run: Run, store: Store, folder: str, *, keep_all: bool, taken_over: bool = False) -> str:
    """Save the state after the last epoch, remove what is too old, and return the file's name.

    The weights that averages look back at are written once, beside the checkpoints that name them.

    Args:
        run: of the trial.
        store: holds the states.
        folder: the trial's checkpoints.
        keep_all: whether those before stay.
        taken_over: whether the training of the epoch came with the trunk's state. A worker that dies before
            it has reported the epoch leaves that to be reported from the checkpoint.

    Raises:
        MachineError: the disk refuses.
    """
    name = state_name(folder, run.epoch - 1)
    with _blame_disk(store, folder):
        state = store_snapshots(run.state_dict(), store, folder)
    if taken_over:
        state["taken_over"] = True
    write_state(state, store, name)
    if not keep_all:
        with _blame_disk(store, folder):
            for old in stored(store, folder)[:-KEPT_WHILE_RUNNING]:
                store.remove(f"{folder}/{old}")
            if run.settings.snapshot_span:
                remove_snapshots(store, folder, stored(store, folder), run.settings.snapshot_span)
    return name


def write_state(state: dict[str, Any], store: Store, name: str) -> None:
    """Save a state under its name.

    Raises:
        MachineError: the disk refuses.
    """
    with _blame_disk(store, name.rpartition("/")[0]):
        store.write(name, lambda path: checkpoints.save_checkpoint(state, path))


@contextmanager
def _blame_disk(store: Store, folder: str) -> Iterator[None]:
    """Blame the machine, not the trial, for a disk that refuses."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise MachineError(f"a checkpoint cannot be written to {store.where}/{folder}: {why}") from error


@dataclass(frozen=True)
class Restored:
    """The state a trial continues from."""

    checkpoint: str | None
    """The file's name in the store; None for a fresh start."""
    damaged: list[str]
    """Why newer checkpoints could not be used: a line for each, and one for those that are gone."""
    taken_over: bool = False
    """Whether the training of its last epoch came with the trunk's state."""


@dataclass
class _Search:
    """The states that a trial may go on from, and what became of those that were tried."""

    own: dict[int, str]
    """The trial's checkpoints by epoch, known or listed."""
    trunk: dict[int, str]
    """States of its trunk by epoch, known or listed."""
    found: str | None = None
    taken_over: bool = False
    damaged: list[str] = field(default_factory=list)
    missing: set[str] = field(default_factory=set)
    """Names from the journal under which there is nothing."""


def restore(
    run: Run,
    store: Store,
    folder: str,
    recorded_epochs: int,
    trunk: str = "",
    trunk_epochs: Collection[int] = (),
    recorded: Collection[str] = (),
    published: Collection[int] = (),
) -> Restored:
    """Load the newest state that can be used into `run`: a checkpoint of its own, or its trunk's.

    A state may be one epoch ahead of the journal (saved, not yet recorded), never more. A damaged one, or
    one that names a snapshot which is, is passed over for the one before it; without any the run starts anew.

    What the journal knows is opened by its name: a folder's listing may be old on a network's file
    system, and a trial that misses its trunk's state there would train the trunk again. The listing only
    adds what the journal does not know.

    Args:
        run: of the trial.
        store: holds the states.
        folder: the trial's checkpoints.
        recorded_epochs: how many epochs of the trial the journal has.
        trunk: folder of its trunk's states.
        trunk_epochs: those of the trunk's states that the trial may begin from, if they are listed.
        recorded: the trial's checkpoints by the journal; missing ones are reported.
        published: the trunk's states by the journal that the trial may begin from.

    Raises:
        OSError: a folder cannot be listed, or a state cannot be read now. It is left where it is: it may
            be in order.
    """
    known = [*recorded, *(state_name(trunk, epoch) for epoch in published)]
    search = _find_states(store, folder, trunk, {*trunk_epochs, *published}, known)
    for epoch in sorted({*search.own, *search.trunk}, reverse=True):
        # of two after the same epoch, the trial's own has its average
        for name in filter(None, (search.own.get(epoch), search.trunk.get(epoch))):
            if epoch <= recorded_epochs and search.found is None:
                _try_state(run, store, name, search, known)
    newest = run.epoch - 1 if search.found else -1
    # damaged, or ahead of the journal: these would pass for the newest
    for epoch, name in search.own.items():
        if epoch > newest:
            store.remove(name)
    begins = epoch_of(search.found) if search.found else -1
    damaged = search.damaged + _describe_missing(search, store, folder, begins)
    return Restored(search.found, damaged, search.taken_over)


def read_live_record(store: Store, trunk: str, epoch: int, device: torch.device) -> EpochRecord | None:
    """Read what the live model reported after an epoch from its trunk's state; None: that cannot be used.

    Raises:
        OSError: it cannot be read now.
    """
    try:
        return EpochRecord(**_load(store, state_name(trunk, epoch), device)["record"])
    except checkpoints.CheckpointError:
        return None


def _find_states(
    store: Store, folder: str, trunk: str, trunk_epochs: Collection[int], known: Collection[str]
) -> _Search:
    own = {epoch_of(name): f"{folder}/{name}" for name in stored(store, folder)}
    states = {
        epoch_of(name): f"{trunk}/{name}"
        for name in (stored(store, trunk) if trunk_epochs else ())
        if epoch_of(name) in trunk_epochs
    }
    for name in known:
        (own if name.startswith(f"{folder}/") else states)[epoch_of(name)] = name
    return _Search(own, states)


def _try_state(run: Run, store: Store, name: str, search: _Search, known: Collection[str]) -> None:
    """Load a state into the run, or note why that cannot be done."""
    try:
        state = _load(store, name, run.device)
        run.load_state_dict(fetch_snapshots(state, store, name))
        search.found, search.taken_over = name, state.get("taken_over", False)
    except checkpoints.CheckpointError as error:
        if name in known and isinstance(error.__cause__, FileNotFoundError):
            search.missing.add(name)
        else:
            search.damaged.append(str(error))


def _describe_missing(search: _Search, store: Store, folder: str, begins: int) -> list[str]:
    """Describe states newer than `begins` that the journal has and the store lacks."""
    lines = []
    gone = sorted(n for n in search.missing if n.startswith(f"{folder}/") and epoch_of(n) > begins)
    if gone:
        names = " and ".join(name.rpartition("/")[2] for name in dict.fromkeys((gone[0], gone[-1])))
        between = f" and {len(gone) - 2} between them" if len(gone) > 2 else ""
        are = "is" if len(gone) == 1 else "are"
        lines.append(f"{names}{between} {are} not in {store.where}/{folder} any more")
    states = search.missing.intersection(search.trunk.values())
    newest = max(states, key=epoch_of, default=None)
    if newest is not None and epoch_of(newest) > begins:
        lines.append(f"{newest}: is not there, though it was published")
    return lines


def _load(store: Store, name: str, device: torch.device) -> dict[str, Any]:
    try:
        with store.local(name) as path:
            return checkpoints.load_checkpoint(path, device)
    except FileNotFoundError as error:  # somebody has removed it since the folder was listed
        raise checkpoints.CheckpointError(f"{name}: cannot be read ({error})") from error


def stored(store: Store, folder: str) -> list[str]:
    """Names of the checkpoints in a trial's folder, oldest epoch first."""
    return [name for name in store.names(folder) if name.startswith("epoch-")]
