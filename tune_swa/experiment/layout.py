"""Names that the driver and the workers share. Imports nothing of the package: workers have to start fast."""

from __future__ import annotations

from collections.abc import Collection, Iterable

CHECKPOINTS = "checkpoints"
"""Folder of the checkpoints inside the experiment's store; one folder a trial below it."""
TRUNKS = "trunks"
"""Folder of the published states inside the experiment's store; one folder a trunk below it."""
MERGES = "merged"
"""Folder of merged weights inside the experiment's store."""
PREDICTIONS = "predictions"
"""Folder of what the runs on fresh seeds say of each test image, in the experiment's own folder."""
PROBABILITIES = "probabilities"
"""Name of the arrays [N, C] in these files that ensembles are made of."""
PAYLOAD = "payload"
"""The one key that a trial reports: JSON, since Ray flattens nested results and adds its own keys."""
SNAPSHOT = "snapshot-"
"""Begins the names of the weights that averages look back at, beside a trial's checkpoints."""

KEPT_WHILE_RUNNING = 2
"""Checkpoints that a running trial keeps: if the last one is damaged there is the one before."""


def state_name(folder: str, epoch: int) -> str:
    """The file in `folder` that holds the state after training `epoch`."""
    return f"{folder}/epoch-{epoch:05d}.pt"


def epoch_of(name: str) -> int:
    """The epoch of a state's file."""
    return int(name.rpartition("epoch-")[2].removesuffix(".pt"))


def snapshot_name(folder: str, epoch: int, digest: str) -> str:
    """The file in `folder` that holds a run's weights at the end of `epoch`, named by their hash."""
    return f"{folder}/{SNAPSHOT}{epoch:05d}-{digest}.pt"


def select_snapshots(files: Iterable[str], checkpoints: Collection[str], span: int) -> set[str]:
    """Select the snapshots that checkpoints need.

    Args:
        files: names in a trial's folder.
        checkpoints: names of its checkpoints.
        span: each of them needs those of so many epochs, up to its own.
    """
    ends = [epoch_of(name) for name in checkpoints]
    selected = set()
    for name in files:
        epoch = name.removeprefix(SNAPSHOT).partition("-")[0]
        known = name.startswith(SNAPSHOT) and epoch.isdecimal()
        if known and any(end - span < int(epoch) <= end for end in ends):
            selected.add(name)
    return selected


def member_name(trial: str, member: int) -> str:
    """Name of a member of SWAP, which goes with a trial of the search."""
    return f"{trial}-member{member}"


def fresh_run_name(arm: str, stage: str, seed: int) -> str:
    """Name of the run of an arm on a fresh seed."""
    return f"{arm}-{'race' if stage == 'race' else 'seed'}{seed}"


def fresh_merge_name(merge: str, seed: int) -> str:
    """Name of what a recipe gives on a fresh seed."""
    return f"{merge.replace(' ', '-')}-seed{seed}"
