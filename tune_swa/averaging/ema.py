"""Exponential moving averages of the weights, per optimizer step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tune_swa.averaging.decays import Decay
from tune_swa.averaging.observers import Member, Observer, list_parameters, list_statistics


class Ema(Observer):
    """An average that follows the live model: `average += (1 - decay) * (live - average)` after every step
    (Tarvainen and Valpola 2017). The first model it sees is copied.

    Args:
        label: name of the average in tables.
        decay: in [0, 1), of every step, or a function that gives that of a step.
        averages_statistics: whether batch-normalisation statistics are averaged like the weights; else
            they are to be refreshed.
    """

    def __init__(self, label: str, decay: float | Decay, *, averages_statistics: bool = False) -> None:
        super().__init__(label)
        self._decay_at = decay if callable(decay) else lambda step: decay
        self._averages_statistics = averages_statistics
        self._average: list[Tensor] = []
        self._parameters = 0

    def after_step(self, model: nn.Module) -> None:
        live = self._read_tensors(model)
        self.count += 1
        if self.count == 1:
            self._average = [tensor.clone() for tensor in live]
        else:
            torch._foreach_lerp_(self._average, live, 1 - self._decay_at(self.count))

    def after_epoch(self, model: nn.Module) -> None:
        if self.count == 0:  # begun at the end of an epoch whose steps it has not seen
            self.after_step(model)

    def members(self, *, final: bool) -> Iterator[Member]:
        statistics = self._average[self._parameters :] if self._averages_statistics else None
        yield Member(self._average[: self._parameters], statistics)

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "average": self._average, "parameters": self._parameters}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count, self._parameters = state["count"], state["parameters"]
        self._average = [tensor.clone() for tensor in state["average"]]

    def _read_tensors(self, model: nn.Module) -> list[Tensor]:
        parameters = list_parameters(model)
        self._parameters = len(parameters)
        return parameters + (list_statistics(model) if self._averages_statistics else [])
