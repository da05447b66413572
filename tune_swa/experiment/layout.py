"""Names that the driver and the workers share. Imports nothing: workers have to start fast."""

from __future__ import annotations

CHECKPOINTS = "checkpoints"
"""Folder of the checkpoints inside the experiment's store; one folder a trial below it."""
TRUNKS = "trunks"
"""Folder of the published states inside the experiment's store; one folder a trunk below it."""
PREDICTIONS = "predictions"
"""Folder of what the runs on fresh seeds say of each test image, in the experiment's own folder."""
PAYLOAD = "payload"
"""The one key that a trial reports: JSON, since Ray flattens nested results and adds its own keys."""

KEPT_WHILE_RUNNING = 2
"""Checkpoints that a running trial keeps: if the last one is damaged there is the one before."""


def state_name(folder: str, epoch: int) -> str:
    """The file in `folder` that holds the state after training `epoch`."""
    return f"{folder}/epoch-{epoch:05d}.pt"


def epoch_of(name: str) -> int:
    """The epoch of a state's file."""
    return int(name.rpartition("epoch-")[2].removesuffix(".pt"))


def fresh_run_name(arm: str, stage: str, seed: int) -> str:
    """Name of the run of an arm on a fresh seed."""
    return f"{arm}-{'race' if stage == 'race' else 'seed'}{seed}"
