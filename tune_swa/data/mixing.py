"""MixUp and CutMix over an epoch: each image is mixed with the one before it in the drawn order.

torchvision mixes each image of a batch with the one before it there, all with one number. Here the epoch
takes the place of the batch and each image has a number of its own, so images depend on no batch size; the
first image is mixed with the last one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tune_swa.config.augmentation import CutMix, MixUp
from tune_swa.data.epoch_draws import EpochDraws, draw_pasted
from tune_swa.data.pixel_geometry import mask_rectangles


class Mixing:
    """Mixes the images of an epoch, and makes probabilities of their labels.

    Args:
        listed: `mixup`, `cutmix` or both, of which each image then gets one, as likely as the other.
        draws: of the epoch.
        num_classes: classes of the labels.
    """

    def __init__(self, listed: Sequence[MixUp | CutMix], draws: EpochDraws, num_classes: int) -> None:
        count = draws.count
        self._shape, self._classes = draws.shape, num_classes
        shares = np.ones(count)
        edges = np.zeros((count, 4), dtype=np.int64)
        chosen = draws.open_generator("mixing").integers(0, len(listed), count)
        for number, settings in enumerate(listed):
            generator = draws.open_generator(settings.name)
            drawn = generator.beta(settings.alpha, settings.alpha, count).astype(np.float32).astype(float)
            own = chosen == number
            if isinstance(settings, MixUp):
                shares[own] = drawn[own]
                continue
            pasted = draw_pasted(drawn, generator, draws.shape)
            areas = (pasted[:, 2] - pasted[:, 0]) * (pasted[:, 3] - pasted[:, 1])
            edges[own] = pasted[own]
            shares[own] = (1.0 - areas / (draws.shape[0] * draws.shape[1]))[own]
        blends = np.isin(chosen, [n for n, settings in enumerate(listed) if isinstance(settings, MixUp)])
        self._blends = draws.move_numbers(blends)
        self._edges = None if blends.all() else draws.move_numbers(edges)
        self._shares, self._others = draws.move_numbers(shares), draws.move_numbers(1.0 - shares)

    def mix_batch(
        self, images: Tensor, labels: Tensor, before: tuple[Tensor, Tensor], place: slice
    ) -> tuple[Tensor, Tensor]:
        """Mix images with those one place before them.

        Args:
            images: [B, 3, H, W] float32, augmented, at some places of the order.
            labels: [B] int64.
            before: image [1, 3, H, W] and label [1] of the place before these.
            place: these places.

        Returns:
            Images in the same memory format, and probabilities [B, C] float32.
        """
        others = torch.empty_like(images)  # in the same memory format, which roll gives on the CPU alone
        others[:1], others[1:] = before[0], images[:-1]
        own, other = self._shares[place], self._others[place]
        former = torch.cat([before[1], labels[:-1]])
        targets = self._encode_labels(former) * other[:, None] + self._encode_labels(labels) * own[:, None]
        own, other = own.view(-1, 1, 1, 1), other.view(-1, 1, 1, 1)
        if self._edges is not None:
            pasted = mask_rectangles(self._edges[place], self._shape)[:, None]
            blends = self._blends[place].view(-1, 1, 1, 1)
            own = torch.where(blends, own, (~pasted).float())
            other = torch.where(blends, other, pasted.float())
        return others.mul_(other).add_(images * own), targets

    def _encode_labels(self, labels: Tensor) -> Tensor:
        """Label [B] as probabilities [B, C]."""
        return (labels[:, None] == torch.arange(self._classes, device=labels.device)).float()
