"""Weights at the ends of epochs in a trial's folder: written once, however many checkpoints need them."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from tune_swa.averaging.snapshots import Snapshot
from tune_swa.experiment.layout import SNAPSHOT, select_snapshots, snapshot_name
from tune_swa.storage import Store
from tune_swa.training import checkpoint as checkpoints
from tune_swa.training.checkpoint import CheckpointError


def store_snapshots(state: dict[str, Any], store: Store, folder: str) -> dict[str, Any]:
    """Write the snapshots of a run's state that are not in the folder yet.

    Returns:
        The state with their epochs and hashes instead.

    Raises:
        OSError: the disk refuses.
    """
    averages = state.get("averages")
    if not averages or not averages["snapshots"]:
        return state
    there, named = set(store.names(folder)), []
    for snapshot in averages["snapshots"]:
        tensors = {key: snapshot[key] for key in ("parameters", "statistics")}
        named.append({"epoch": snapshot["epoch"], "digest": snapshot["digest"]})
        name = snapshot_name(folder, **named[-1])
        if name.rpartition("/")[2] not in there:
            store.write(name, lambda path, held=tensors: checkpoints.save_checkpoint(held, path))  # type: ignore[misc]
    return {**state, "averages": {**averages, "snapshots": named}}


def fetch_snapshots(
    state: dict[str, Any], store: Store, checkpoint: str, *, keep_damaged: bool = False
) -> dict[str, Any]:
    """Read the snapshots that a state names, and return the state with them.

    One that is damaged is removed: the trial writes it again when it has trained that epoch once more.

    Args:
        state: of a checkpoint, or of a trunk, which names none.
        store: holds both.
        checkpoint: the state's name in it.
        keep_damaged: of a trial that does not go on.

    Raises:
        CheckpointError: one of them is missing or damaged.
        OSError: one of them cannot be read now.
    """
    averages = state.get("averages")
    if not averages or not averages["snapshots"]:
        return state
    folder, _, own = checkpoint.rpartition("/")
    found = []
    for named in averages["snapshots"]:
        if not _is_name(named):  # it becomes a path
            raise CheckpointError(f"{own}: names something else than a snapshot")
        name = snapshot_name(folder, named["epoch"], named["digest"])
        try:
            found.append(_read_snapshot(store, name, named))
        except CheckpointError as error:
            if not keep_damaged:
                store.remove(name)
            raise CheckpointError(f"{own}: names a snapshot that cannot be used ({error})") from None
    return {**state, "averages": {**averages, "snapshots": found}}


def remove_snapshots(store: Store, folder: str, kept: Collection[str], span: int) -> None:
    """Remove the snapshots that no kept checkpoint names.

    Raises:
        OSError: the folder cannot be read, or a file cannot be removed.
    """
    names = store.names(folder)
    needed = select_snapshots(names, kept, span)
    for name in names:
        if name.startswith(SNAPSHOT) and name not in needed:
            store.remove(f"{folder}/{name}")


def _is_name(named: dict[str, Any]) -> bool:
    epoch, digest = named.get("epoch"), named.get("digest")
    return (
        isinstance(epoch, int)
        and isinstance(digest, str)
        and re.fullmatch("[0-9a-f]{32}", digest) is not None
    )


def _read_snapshot(store: Store, name: str, named: dict[str, Any]) -> dict[str, Any]:
    file = name.rpartition("/")[2]
    try:
        with store.local(name) as path:
            state = checkpoints.load_checkpoint(path)
    except FileNotFoundError:  # a store that downloads
        raise CheckpointError(f"{file} is missing") from None
    except CheckpointError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise CheckpointError(f"{file} is missing") from None
        raise
    found = Snapshot(named["epoch"], state["parameters"], state["statistics"])
    if found.digest != named["digest"]:
        raise CheckpointError(f"{file} holds other weights")
    return found.state_dict()
