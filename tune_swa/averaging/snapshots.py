"""Models at the ends of the last epochs, copied once for all averages that need them."""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from tune_swa.averaging.observers import list_parameters, list_statistics


@dataclass(frozen=True)
class Snapshot:
    """The weights of a model at the end of an epoch, on the CPU."""

    epoch: int
    parameters: list[Tensor] = field(repr=False)
    """In the order of `model.parameters()`."""
    statistics: list[Tensor] = field(repr=False)
    """Running means and variances in the order of `list_statistics`."""

    @cached_property
    def digest(self) -> str:
        """Hash of the epoch, and of shape, type and values of the tensors: 32 hexadecimal digits."""
        found = hashlib.blake2b(repr(self.epoch).encode(), digest_size=16)
        for tensor in (*self.parameters, *self.statistics):
            found.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            found.update(tensor.contiguous().numpy().data)
        return found.hexdigest()

    def state_dict(self) -> dict[str, Any]:
        """Tensors, and what names them in a store."""
        return {
            "epoch": self.epoch,
            "digest": self.digest,
            "parameters": self.parameters,
            "statistics": self.statistics,
        }


class Snapshots:
    """The last snapshots of a run, the oldest first.

    Args:
        length: how many of them averages look back at. One more is kept: the one that has just left.
    """

    def __init__(self, length: int) -> None:
        self._length = length
        self._kept: deque[Snapshot] = deque(maxlen=length + 1 if length else 0)

    def add_model(self, model: nn.Module, epoch: int) -> None:
        """Copy the live model at the end of an epoch."""
        if self._length:
            copies = [
                [tensor.to("cpu", copy=True) for tensor in tensors]
                for tensors in (list_parameters(model), list_statistics(model))
            ]
            self._kept.append(Snapshot(epoch, *copies))

    def list_last(self, count: int) -> list[Snapshot]:
        """The last `count` of them, or all while there are fewer."""
        return list(self._kept)[-count:] if count else []

    def state_dict(self) -> list[dict[str, Any]]:
        """What averages look back at, after any epoch."""
        return [snapshot.state_dict() for snapshot in self.list_last(self._length)]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        self._kept.clear()
        for snapshot in state:
            tensors = ([tensor.cpu() for tensor in snapshot[key]] for key in ("parameters", "statistics"))
            self._kept.append(Snapshot(snapshot["epoch"], *tensors))
