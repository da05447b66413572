"""Latest weight averaging: the mean of the models at the ends of the last epochs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tune_swa.averaging.observers import Member, Observer, list_parameters, list_statistics


class Lawa(Observer):
    """The mean of the last `last` models (Kaddour 2022), or of all so far while there are fewer.

    Args:
        label: name of the average in tables.
        last: number of models, which are kept in the CPU's memory.
        averages_statistics: whether batch-normalisation statistics are averaged like the weights; else
            they are to be refreshed.
    """

    def __init__(self, label: str, last: int, *, averages_statistics: bool = False) -> None:
        super().__init__(label)
        self._averages_statistics = averages_statistics
        self._models: deque[list[Tensor]] = deque(maxlen=last)
        self._parameters = 0

    def after_epoch(self, model: nn.Module) -> None:
        parameters = list_parameters(model)
        self._parameters = len(parameters)
        observed = parameters + (list_statistics(model) if self._averages_statistics else [])
        self._models.append([tensor.to("cpu", copy=True) for tensor in observed])
        self.count = len(self._models)

    def members(self, *, final: bool) -> Iterator[Member]:
        mean = [tensor.clone() for tensor in self._models[0]]
        for number, models in enumerate(list(self._models)[1:], start=2):
            torch._foreach_lerp_(mean, models, 1 / number)
        statistics = mean[self._parameters :] if self._averages_statistics else None
        yield Member(mean[: self._parameters], statistics)

    def state_dict(self) -> dict[str, Any]:
        return {"models": list(self._models), "parameters": self._parameters}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._parameters = state["parameters"]
        self._models.clear()
        self._models.extend([tensor.to("cpu", copy=True) for tensor in model] for model in state["models"])
        self.count = len(self._models)
