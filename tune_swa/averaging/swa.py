"""The averaged model of a run: torch's own AveragedModel and SWALR, built at the fork, and the BN refresh."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import SWALR, AveragedModel

from tune_swa.averaging.frozen_statistics import list_refreshed, set_training
from tune_swa.config import AveragingSpec

RATE_FACTOR = "rate_factor"
"""Key of what the rates of an optimizer's group of parameters are multiplied with; without it 1."""


class Averaging:
    """The average over a live model and the rate schedule of that phase.

    Built after epoch swa_start+1 has been trained, and not before: SWALR derives each rate from the
    present one, and with `anneal_epochs=0` its construction alone changes the rate.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        swa_lr: float | None,
        settings: AveragingSpec,
    ) -> None:
        self.average = AveragedModel(model)
        self.scheduler: SWALR | None = None
        """Sets the rate of `tail: constant`. Of other tails it is a function of the step (`step_rate`)."""
        if settings.tail == "constant":
            assert swa_lr is not None
            rates = [swa_lr * group.get(RATE_FACTOR, 1.0) for group in optimizer.param_groups]
            self.scheduler = SWALR(
                optimizer,
                swa_lr=rates,  # type: ignore[arg-type]  # torch says float, and takes a list
                anneal_epochs=settings.anneal_epochs,
                anneal_strategy=settings.anneal_strategy,
            )

    @property
    def n_averaged(self) -> int:
        """Number of models in the average."""
        return int(self.average.n_averaged)

    def update_average(self, model: nn.Module) -> None:
        """Take the live model in and step SWALR if there is one, as the documented loop does after an epoch.

        The average's batch-normalisation buffers are the live model's afterwards: call
        `refresh_bn` before using it.
        """
        self.average.update_parameters(model)
        if self.scheduler is None:
            return
        with warnings.catch_warnings():
            # torch sees a scheduler step without an optimizer step since SWALR was built
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain numbers only, so that it loads with `weights_only=True` in any torch."""
        state = {"average": self.average.module.state_dict(), "n_averaged": self.n_averaged}
        if self.scheduler is not None:
            state["swalr"] = {
                key: value
                for key, value in self.scheduler.state_dict().items()
                if isinstance(value, int | float | str | list | type(None))
            }
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.average.module.load_state_dict(state["average"])
        self.average.n_averaged.fill_(state["n_averaged"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["swalr"])


@torch.no_grad()
def refresh_bn(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Recompute the running statistics of the batch-normalisation layers, but of frozen ones, as means over
    batches.

    Does what `torch.optim.swa_utils.update_bn` does, with the same bits, but never waits for the device.
    There, `momentum=None` makes every layer read its counter of batches from the device in every batch to
    weight it by 1/n; here n is counted in Python, and the counters are written once at the end.

    Args:
        model: each of these layers is called once per batch. Its mode and their momenta are afterwards what
            they were. Without such layers, no batch is asked for.
        batches: inputs of the model, on its device.
    """
    layers = list_refreshed(model)
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    counters = [layer.num_batches_tracked for layer in layers]  # None: it keeps no statistics
    was_training = model.training
    seen = 0
    try:
        for layer in layers:
            layer.reset_running_stats()
            layer.num_batches_tracked = None  # else each layer counts the batch in a kernel of its own
        set_training(model)
        for seen, images in enumerate(batches, start=1):
            for layer in layers:
                layer.momentum = 1.0 / seen
            model(images)
    finally:
        for layer, momentum, counter in zip(layers, momenta, counters, strict=True):
            layer.momentum = momentum
            layer.num_batches_tracked = counter
            if counter is not None:
                counter.fill_(seen)
        set_training(model, was_training)
