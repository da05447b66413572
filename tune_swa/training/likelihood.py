"""The likelihood of training labels, with batch normalisation by the statistics of each batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from tune_swa.averaging.frozen_statistics import list_refreshed, set_training
from tune_swa.averaging.observers import Member, load_member
from tune_swa.training.run_images import RunImages


class TrainingLikelihood:
    """The likelihood of a run's training labels as a function of weights.

    Args:
        model: of the run's shape. It holds the weights asked for last, and loses its statistics.
        images: of the run.
        autocast: makes the context of a forward pass.
    """

    def __init__(
        self, model: nn.Module, images: RunImages, autocast: Callable[[], AbstractContextManager[Any]]
    ) -> None:
        self._model, self._images, self._autocast = model, images, autocast

    @property
    def images(self) -> int:
        """Number of training images."""
        return len(self._images.train)

    def __call__(self, parameters: Sequence[Tensor], max_batches: int | None) -> float:
        load_member(self._model, Member(parameters))
        batches = self._images.draw_fit_batches(max_batches)
        total, count = sum_log_likelihood(self._model, batches, self._autocast())
        return total * (self.images / count)


@torch.no_grad()
def sum_log_likelihood(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], autocast: AbstractContextManager[Any]
) -> tuple[float, int]:
    """Sum the log-likelihoods of labels, in nats, and count them.

    Batch normalisation that is not frozen is in training mode, so that a model needs no refreshed statistics;
    all else is in evaluation mode and draws nothing.

    Args:
        model: maps [B, 3, H, W] to logits [B, C]. Its running statistics are not what they were afterwards.
        batches: at least one pair of images [B, 3, H, W] and labels [B] int64, on the model's device.
        autocast: context of the forward pass. Everything after the logits is fp32, sums are fp64.
    """
    was_training = model.training
    model.eval()
    for layer in list_refreshed(model):
        layer.train()
    sums, count = [], 0
    try:
        with autocast:
            for images, labels in batches:
                logits = model(images)
                logits = logits.float() if logits.dtype.itemsize < 4 else logits
                of_label = torch.log_softmax(logits, dim=1).gather(1, labels[:, None])
                sums.append(of_label.double().sum())
                count += len(labels)
    finally:
        set_training(model, was_training)
    return float(torch.stack(sums).sum()), count
