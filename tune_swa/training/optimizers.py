"""Build the optimizer of a run."""

from __future__ import annotations

import torch
from torch import nn

from tune_swa.config import TrainSpec
from tune_swa.training.numerics import Numerics


def build_optimizer(
    model: nn.Module, lr: float, train: TrainSpec, numerics: Numerics
) -> torch.optim.Optimizer:
    """The optimizer of the settings over all parameters of `model`."""
    parameters = model.parameters()
    if train.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=lr, weight_decay=train.weight_decay, fused=numerics.fused)
    if train.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, weight_decay=train.weight_decay, fused=numerics.fused)
    return torch.optim.SGD(
        parameters,
        lr=lr,
        momentum=train.momentum,
        nesterov=train.momentum > 0,
        weight_decay=train.weight_decay,
        fused=numerics.fused,
    )
