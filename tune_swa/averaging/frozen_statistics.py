"""Batch-normalisation layers whose running statistics stay as they are."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

_MARK = "keeps_statistics"
"""Attribute of a layer that is frozen; copies of a model have it too."""


def freeze_statistics(model: nn.Module) -> None:
    """Have all batch-normalisation layers of a model normalise by their running statistics, also in
    training, and keep these from now on. Its copies do so as well."""
    for layer in _list_layers(model):
        setattr(layer, _MARK, True)
        layer.eval()


def list_refreshed(model: nn.Module) -> list[_BatchNorm]:
    """Return the batch-normalisation layers that are not frozen: their statistics follow the weights."""
    return [layer for layer in _list_layers(model) if not hasattr(layer, _MARK)]


def set_training(model: nn.Module, training: bool = True) -> None:
    """Put a model into training mode, all but its frozen layers, or into evaluation mode."""
    model.train(training)
    for layer in _list_layers(model):
        if hasattr(layer, _MARK):
            layer.eval()


def _list_layers(model: nn.Module) -> list[_BatchNorm]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]
