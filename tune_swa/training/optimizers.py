"""The optimizer of a run, its rates, and the two points of those that evaluate an average of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from schedulefree import AdamWScheduleFree, SGDScheduleFree
from torch import nn

from tune_swa.averaging.swa import RATE_FACTOR
from tune_swa.config import RunSettings, TrainSpec
from tune_swa.training.frozen_layers import group_parameters
from tune_swa.training.numerics import Numerics
from tune_swa.training.schedule import step_rate


def build_optimizer(
    model: nn.Module, lr: float, train: TrainSpec, numerics: Numerics
) -> torch.optim.Optimizer:
    """The optimizer of the settings over the parameters of `model` that get gradients.

    The schedule-free ones are their authors' (Defazio et al. 2024, arXiv 2405.15682). Per step k, with the
    rate gamma and the gradient's direction D at y:

        z <- z - gamma D,    x <- (1 - c) x + c z,    y <- (1 - momentum) z + momentum x

    where c = gamma_max^2 / (sum of gamma_max^2 so far), which is 1/k at a constant rate. Their own warm-up
    is left off: the rate that is set before each step does the same, as for all other optimizers.
    """
    parameters, decay = group_parameters(model, train), train.weight_decay
    if train.optimizer == "schedulefree_sgd":
        sgd: torch.optim.Optimizer = SGDScheduleFree(
            parameters, lr=lr, momentum=train.momentum, weight_decay=decay, foreach=numerics.fused
        )
        return sgd
    if train.optimizer == "schedulefree_adamw":
        betas = (train.momentum, 0.999)
        adamw: torch.optim.Optimizer = AdamWScheduleFree(
            parameters, lr=lr, betas=betas, weight_decay=decay, foreach=numerics.fused
        )
        return adamw
    if train.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=lr, weight_decay=decay, fused=numerics.fused)
    if train.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, weight_decay=decay, fused=numerics.fused)
    return torch.optim.SGD(
        parameters,
        lr=lr,
        momentum=train.momentum,
        nesterov=train.momentum > 0,
        weight_decay=decay,
        fused=numerics.fused,
    )


def set_rates(
    optimizer: torch.optim.Optimizer, settings: RunSettings, epoch: int, step: int, steps: int
) -> None:
    """Set the rates of an optimizer step, of each group of parameters, unless SWALR has; see `step_rate`.

    Args:
        optimizer: of the run.
        settings: of the run.
        epoch: from 0.
        step: of the epoch, from 0.
        steps: of the epoch.
    """
    for group in optimizer.param_groups:
        rate = step_rate(settings, epoch, step, steps, group.get(RATE_FACTOR, 1.0))
        if rate is not None:
            group["lr"] = rate


def read_base_rate(optimizer: torch.optim.Optimizer) -> float:
    """Return the present rate of parameters whose factor is 1."""
    group = optimizer.param_groups[0]  # those of another factor are the last ones
    return float(group["lr"] / group.get(RATE_FACTOR, 1.0))


@contextmanager
def keep_rates(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Put the rates back at the end to what they were at the beginning."""
    rates = [group["lr"] for group in optimizer.param_groups]
    yield
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def move_to_gradient_point(optimizer: torch.optim.Optimizer) -> None:
    """Put the weights where the next gradient is taken (y). Others than schedule-free are there always."""
    if isinstance(optimizer, SGDScheduleFree | AdamWScheduleFree):
        optimizer.train()


def move_to_average(optimizer: torch.optim.Optimizer) -> None:
    """Put the weights where they are evaluated and saved (x); for others than schedule-free, do nothing.

    There and back rounds, so it has to be done at the same steps in every run: after each epoch, whether or
    not it is saved.
    """
    if isinstance(optimizer, SGDScheduleFree | AdamWScheduleFree):
        optimizer.eval()
