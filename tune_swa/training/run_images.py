"""Batches of the images that a run reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from tune_swa.config import RunSettings
from tune_swa.data.batches import ImageBatches
from tune_swa.data.dataset import Dataset
from tune_swa.data.gather import release_resident_images
from tune_swa.data.splits import Indices


class RunImages:
    """The images of a run, in batches of its settings, on its device.

    Args:
        settings: of the run.
        data: images and their division.
        device: of the run.
        channels_last: whether batches are in that memory format.
        stream: keep no images on a GPU, and let go of those that earlier runs of this process left there.
    """

    def __init__(
        self,
        settings: RunSettings,
        data: Dataset,
        device: torch.device,
        *,
        channels_last: bool,
        stream: bool,
    ) -> None:
        self._settings, self._data, self._device = settings, data, device
        self._channels_last = channels_last
        if stream:
            release_resident_images()
        kept = 0 if stream else None
        self.train = self._open_images(data.train, kept)
        self.val = self._open_images(data.val, kept)

    def count_steps(self, epoch: int) -> int:
        """Count the optimizer steps of an epoch."""
        return self.train.batch_count(self._settings.choose_batch_size(epoch))

    def draw_batches(self, purpose: Literal["train", "bn"], epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of the training images; the BN refresh draws its own order and augmentation, which
        the members of SWAP have in common."""
        settings, train, averaging = self._settings, self._settings.train, self._settings.averaging
        refresh = purpose == "bn"
        return self.train.iterate_training(
            (averaging.bn_batch_size or train.batch_size) if refresh else settings.choose_batch_size(epoch),
            augment=train.augment,
            crop_padding=train.crop_padding,
            seed=settings.seed if refresh else settings.choose_seed(epoch),
            epoch=epoch,
            purpose=purpose,
            max_batches=averaging.bn_batches if refresh else None,
        )

    def draw_fit_batches(self, max_batches: int | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of the training images without augmentation, the same ones each time.

        Args:
            max_batches: stop after this many; None: all.
        """
        train, averaging = self._settings.train, self._settings.averaging
        return self.train.iterate_training(
            averaging.bn_batch_size or train.batch_size,
            seed=self._settings.seed,
            epoch=0,
            purpose="subspace",
            max_batches=max_batches,
        )

    def read_validation(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of the validation images, in order and unchanged."""
        return self.val.iterate_ordered(self._settings.train.eval_batch_size)

    def read_held_out(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of the validation images and then of the test images, each in order and unchanged."""
        yield from self.read_validation()
        # read a few times in a trial: kept on a GPU, they would take from the next one what nobody counted
        test = self._open_images(self._data.test, 0)
        yield from test.iterate_ordered(self._settings.train.eval_batch_size)

    def _open_images(self, rows: Indices, max_resident_bytes: int | None) -> ImageBatches:
        return ImageBatches(
            self._data,
            rows,
            self._device,
            channels_last=self._channels_last,
            max_resident_bytes=max_resident_bytes,
        )
