"""Checkpoint files: of tensors and plain values, read without running anything they contain."""

from __future__ import annotations

import errno
import os
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch

from tune_swa.text import first_line

FORMAT = 1


class CheckpointError(Exception):
    """The file cannot be used; the run falls back to an earlier one."""


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write `state` (tensors, numbers, strings, and dicts and lists of them) to `path`.

    Raises:
        OSError: the disk refused. `path` may hold half a checkpoint; a store takes care that nobody
            sees it.
    """
    with path.open("wb") as file:
        sink = _Sink(file)
        try:
            torch.save({"format": FORMAT, **state}, cast(IO[bytes], sink))
        except RuntimeError:
            if sink.refused is None:
                raise
            raise sink.refused from None
        file.flush()
        os.fsync(file.fileno())  # a rename may reach the disk before the bytes do


class _Sink:
    """A file for torch's zip writer, which reports a full disk as an unexpected position."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.refused: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.refused = error
            raise

    def flush(self) -> None:
        self._file.flush()


def load_checkpoint(path: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a checkpoint.

    Raises:
        CheckpointError: it is missing, damaged, or of another version.
        OSError: it cannot be read now, which says nothing about what is in it.
        MemoryError, torch.OutOfMemoryError: there is no room for it.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch itself does not look at the check sums
            flipped = archive.testzip()
        state = None if flipped else torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch.load raises a dozen types for damaged files
        if not _is_damage(error):
            raise
        raise CheckpointError(f"{path.name}: cannot be read ({first_line(error, 200)})") from error
    if flipped:
        raise CheckpointError(f"{path.name}: is damaged (check sum of {flipped})")
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path.name}: not a checkpoint of this version")
    return state


def _is_damage(error: Exception) -> bool:
    """Whether it is the file's fault rather than the disk's, the network's or the memory's."""
    if isinstance(error, OSError):  # zipfile seeks to where a damaged directory points
        return isinstance(error, FileNotFoundError) or error.errno == errno.EINVAL
    if isinstance(error, MemoryError | torch.OutOfMemoryError | torch.AcceleratorError):
        return False
    return "allocate memory" not in str(error)  # torch has no type for that on the CPU


def extract_shipped_weights(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The weights one would ship from a checkpoint: the leading average where there is one, else the model.

    They load into the plain network of the search with as many outputs.
    """
    averaging, observed = state.get("averaging"), state.get("averages") or {}
    weights = averaging["average"] if averaging else state["model"]
    weights = observed.get("shipped") or weights
    shipped = OrderedDict((name, tensor.detach().cpu().contiguous()) for name, tensor in weights.items())
    versions = getattr(weights, "_metadata", None)
    if versions and versions.get("", {}).get("version", 1) != 1:  # torchvision's mnasnets load no other
        shipped._metadata = versions  # type: ignore[attr-defined]
        return shipped
    return dict(shipped)
