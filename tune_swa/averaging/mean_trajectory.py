"""SWA's mean from model to model, and the deviations of the last models from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from tune_swa.averaging.observers import list_parameters
from tune_swa.averaging.snapshots import Snapshots


class MeanTrajectory:
    """The mean of the models at the ends of epochs, as torch's `AveragedModel` has it, and how it came about.

    Args:
        model: live model.
        snapshots: of the run; they hold the model of an epoch before it is taken in. At least `length` of
            them are looked back at.
        length: models whose deviations are wanted; may be 0.
    """

    def __init__(self, model: nn.Module, snapshots: Snapshots, length: int) -> None:
        self._snapshots, self._length = snapshots, length
        self.count = 0
        """Number of models in the mean."""
        self._mean = _RunningMean(list_parameters(model))
        self._base: list[Tensor] = []
        """Mean of the models before the last `length`, on the CPU: with them it gives the later means."""

    @property
    def tensors(self) -> list[Tensor]:
        """The mean, on the model's device."""
        return self._mean.tensors

    def take_in(self, live: Sequence[Tensor]) -> None:
        """Take in the weights of the model whose snapshot is the last one."""
        self._mean.take_in(live)
        self.count += 1
        if self._length and self.count > self._length:
            left = self._snapshots.list_last(self._length + 1)[0].parameters
            self._base = copy_to_cpu(self._rebuild_mean(self.count - 1 - self._length, left).tensors)

    def compute_deviations(self) -> list[list[Tensor]]:
        """Of the last `length` models, the oldest first: each less the mean of all models up to itself."""
        if not self._length:
            return []
        window = self._snapshots.list_last(min(self._length, self.count))
        running = self._rebuild_mean(self.count - len(window))
        deviations = []
        for snapshot in window:
            running.take_in(snapshot.parameters)
            pairs = zip(snapshot.parameters, copy_to_cpu(running.tensors), strict=True)
            deviations.append([tensor - center for tensor, center in pairs])
        return deviations

    def state_dict(self) -> dict[str, Any]:
        """State besides the snapshots: with them it gives the mean and the deviations."""
        return {"count": self.count, "base": self._base if self._length else self._mean.tensors}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]
        self._base = copy_to_cpu(state["base"])
        window = self._snapshots.list_last(min(self._length, self.count))
        self._mean = self._rebuild_mean(self.count - len(window), *(taken.parameters for taken in window))
        if not self._length:
            self._base = []

    def _rebuild_mean(self, count: int, *models: Sequence[Tensor]) -> _RunningMean:
        """The mean after `count` models, which is `_base`, and some more, with the bits that it had then."""
        mean = _RunningMean(self._mean.tensors)
        if count:
            mean.restore(self._base, count)
        for model in models:
            mean.take_in(model)
        return mean


class _RunningMean:
    """torch's `AveragedModel` over bare tensors.

    Args:
        like: tensors on the device, of which nothing but the layout counts.
    """

    def __init__(self, like: Sequence[Tensor]) -> None:
        self._average = AveragedModel(_hold_tensors(like))

    @property
    def tensors(self) -> list[Tensor]:
        return list_parameters(self._average.module)

    def take_in(self, model: Sequence[Tensor]) -> None:
        self._average.update_parameters(_hold_tensors(model))

    def restore(self, mean: Sequence[Tensor], count: int) -> None:
        for tensor, value in zip(self.tensors, mean, strict=True):
            tensor.copy_(value)
        self._average.n_averaged.fill_(count)


def copy_to_cpu(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies of tensors, in the CPU's memory."""
    return [tensor.detach().to("cpu", copy=True) for tensor in tensors]


def _hold_tensors(tensors: Sequence[Tensor]) -> nn.ParameterList:
    return nn.ParameterList([nn.Parameter(tensor, requires_grad=False) for tensor in tensors])
