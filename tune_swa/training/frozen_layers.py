"""What of a network is trained, and at which multiple of the base rate."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tune_swa.averaging.frozen_statistics import freeze_statistics
from tune_swa.averaging.swa import RATE_FACTOR
from tune_swa.config import TrainSpec
from tune_swa.training.networks import find_heads


def freeze_layers(model: nn.Module, train: TrainSpec) -> nn.Module:
    """Leave out of the training what `train.freeze` says, and return the model: its parameters get no
    gradient, and its batch-normalisation layers keep their statistics.

    Other layers go on as in training: dropout draws, also in a frozen backbone.
    """
    if train.freeze == "none":
        return model
    if train.freeze == "bn":
        for layer in model.modules():
            if isinstance(layer, _BatchNorm):
                layer.requires_grad_(False)
    else:
        model.requires_grad_(False)
        for head in find_heads(model):
            head.requires_grad_(True)
    freeze_statistics(model)
    return model


def group_parameters(model: nn.Module, train: TrainSpec) -> Any:
    """Return the parameters that are trained as an optimizer takes them: in one group, or where
    `train.head_lr_factor` is not 1 those of the classifier in a group of its own, the last one, which has
    the factor under `RATE_FACTOR`."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if train.head_lr_factor == 1:
        return trained
    of_classifier = {id(parameter) for head in find_heads(model) for parameter in head.parameters()}
    others = [parameter for parameter in trained if id(parameter) not in of_classifier]
    head = [parameter for parameter in trained if id(parameter) in of_classifier]
    groups: list[dict[str, Any]] = [{"params": others}] if others else []
    return [*groups, {"params": head, RATE_FACTOR: train.head_lr_factor}]
