"""Checkpoint files: written whole or not at all, read without running anything they contain."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

FORMAT = 1


class CheckpointError(Exception):
    """The file cannot be used; the run falls back to an earlier one."""


def save(state: dict[str, Any], path: Path) -> None:
    """Write `state` (tensors, numbers, strings, and dicts and lists of them) to `path`.

    It goes to a temporary name first and is renamed when it is whole, so `path` never holds half a
    checkpoint.

    Raises:
        OSError: the disk refused; nothing is left behind under `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        torch.save({"format": FORMAT, **state}, temporary)
        temporary.replace(path)
    except RuntimeError as error:  # torch's zip writer reports a full disk so
        raise OSError(f"{path}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a checkpoint.

    Raises:
        CheckpointError: it is missing, damaged, or of another version.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch.load raises a dozen types for damaged files
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path}: cannot be read ({first[:200]})") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a checkpoint of this version")
    return state


def shipped_weights(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The weights one would ship from a checkpoint: the average where there is one, else the model.

    They load into a plain `torchvision.models.resnet18(num_classes=...)`.
    """
    averaging = state.get("averaging")
    weights = averaging["average"] if averaging else state["model"]
    return {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
