"""Averages that only read a trajectory: they observe the live model and never change it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tune_swa.averaging.posterior import Posterior


@dataclass(frozen=True)
class Member:
    """One set of weights that an average predicts with."""

    parameters: Sequence[Tensor]
    """In the order of `model.parameters()`; on any device."""
    statistics: Sequence[Tensor] | None = None
    """Running means and variances in the order of `list_statistics`; None: they are to be refreshed."""


class Likelihood(Protocol):
    """The likelihood of the training images' labels as a function of a model's weights."""

    @property
    def images(self) -> int:
        """Number of training images."""

    def __call__(self, parameters: Sequence[Tensor], max_batches: int | None) -> float:
        """Sum the log-likelihoods of all training images' labels, in nats.

        Args:
            parameters: in the order of `model.parameters()`.
            max_batches: estimate the sum from so many batches, the same ones each time; None: all.
        """


class Observer(ABC):
    """An average over one trajectory.

    A run calls `after_step` after every optimizer step and `after_epoch` after every epoch whose model
    SWA would take in, both in the order of training, and asks for members at the ends of epochs any
    number of times: that changes nothing. What is observed is copied, never kept.

    Args:
        label: name of the average in tables.
    """

    def __init__(self, label: str) -> None:
        self.label = label
        self.count = 0
        """Number of models taken in: after steps or epochs, by the method."""

    def after_step(self, model: nn.Module) -> None:  # noqa: B027 - few methods look at steps
        """Take in the live model after an optimizer step."""

    @abstractmethod
    def after_epoch(self, model: nn.Module) -> None:
        """Take in the live model at the end of an epoch. The first call may be without any step before."""

    def after_validation(self, loss: float) -> None:  # noqa: B027 - few methods look at it
        """Take in the live model's loss on the validation images, right after `after_epoch`."""

    def finish(self, likelihood: Likelihood) -> None:  # noqa: B027 - few methods need the images
        """Prepare the members of the end of a run, before the first time they are asked for."""

    @abstractmethod
    def members(self, *, final: bool) -> Iterator[Member]:
        """Yield the weights whose probabilities are averaged; a single set for an average of weights.

        Args:
            final: at the end of a run. Before, a method that draws many gives the one it draws around.
        """

    def describe_posterior(self) -> Posterior | None:
        """What the members of the end of a run are drawn from; None: they are the weights themselves."""
        return None

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """State as tensors, numbers, strings, dicts and lists."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state of the same settings and model."""


def list_parameters(model: nn.Module) -> list[Tensor]:
    """The parameters of a model, detached, in their order."""
    return [parameter.detach() for parameter in model.parameters()]


def list_statistics(model: nn.Module) -> list[Tensor]:
    """Running means and variances of the batch-normalisation layers, layer by layer."""
    layers = (module for module in model.modules() if isinstance(module, _BatchNorm))
    return [
        statistic
        for layer in layers
        for statistic in (layer.running_mean, layer.running_var)
        if statistic is not None
    ]


def load_member(model: nn.Module, member: Member) -> None:
    """Copy a member's weights, and its statistics if it has any, into a model of the same shape.

    Frozen parameters stay: they are the same in every member, but for the rounding of some averages, and
    for the least variance of those that draw.
    """
    for parameter, value in zip(model.parameters(), member.parameters, strict=True):
        if parameter.requires_grad:
            parameter.detach().copy_(value)
    if member.statistics is not None:
        for statistic, value in zip(list_statistics(model), member.statistics, strict=True):
            statistic.copy_(value)
