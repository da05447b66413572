"""Latest weight averaging: the mean of the models at the ends of the last epochs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from tune_swa.averaging.observers import Member, Observer
from tune_swa.averaging.snapshots import Snapshots


class Lawa(Observer):
    """The mean of the last `last` models (Kaddour 2022), or of all so far while there are fewer.

    Args:
        label: name of the average in tables.
        last: number of models.
        snapshots: of the run; they hold the model of an epoch before `after_epoch` is called. At least
            `last` of them are looked back at.
        averages_statistics: whether batch-normalisation statistics are averaged like the weights; else
            they are to be refreshed.
    """

    def __init__(
        self, label: str, last: int, snapshots: Snapshots, *, averages_statistics: bool = False
    ) -> None:
        super().__init__(label)
        self._last, self._snapshots = last, snapshots
        self._averages_statistics = averages_statistics

    def after_epoch(self, model: nn.Module) -> None:
        self.count = min(self.count + 1, self._last)

    def members(self, *, final: bool) -> Iterator[Member]:
        models = [
            snapshot.parameters + (snapshot.statistics if self._averages_statistics else [])
            for snapshot in self._snapshots.list_last(self.count)
        ]
        mean = [tensor.clone() for tensor in models[0]]
        for number, tensors in enumerate(models[1:], start=2):
            torch._foreach_lerp_(mean, tensors, 1 / number)
        parameters = len(self._snapshots.list_last(1)[0].parameters)
        statistics = mean[parameters:] if self._averages_statistics else None
        yield Member(mean[:parameters], statistics)

    def state_dict(self) -> dict[str, Any]:
        """State besides the snapshots, from which the mean follows."""
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]
