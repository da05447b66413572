"""The optimizer of a run, and the two points of those that evaluate an average of their own."""

from __future__ import annotations

import torch
from schedulefree import AdamWScheduleFree, SGDScheduleFree
from torch import nn

from tune_swa.config import TrainSpec
from tune_swa.training.numerics import Numerics


def build_optimizer(
    model: nn.Module, lr: float, train: TrainSpec, numerics: Numerics
) -> torch.optim.Optimizer:
    """The optimizer of the settings over all parameters of `model`.

    The schedule-free ones are their authors' (Defazio et al. 2024, arXiv 2405.15682). Per step k, with the
    rate gamma and the gradient's direction D at y:

        z <- z - gamma D,    x <- (1 - c) x + c z,    y <- (1 - momentum) z + momentum x

    where c = gamma_max^2 / (sum of gamma_max^2 so far), which is 1/k at a constant rate. Their own warm-up
    is left off: the rate that is set before each step does the same, as for all other optimizers.
    """
    parameters, decay = model.parameters(), train.weight_decay
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
