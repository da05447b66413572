"""Seeded batches straight from memory: order and augmentation as functions of (seed, epoch, purpose)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from tune_swa.data.augmentation import EpochAugmentation
from tune_swa.data.dataset import Dataset
from tune_swa.data.epoch_draws import EpochDraws
from tune_swa.data.gather import choose_gather, resolve_device, to_device
from tune_swa.data.normalization import NONE
from tune_swa.data.splits import Indices
from tune_swa.seeds import derive_seed


def list_batch_sizes(count: int, batch_size: int) -> list[int]:
    """Sizes of the batches that `count` images make.

    The last one may be smaller; one image alone joins the batch before it, since batch normalisation
    cannot train on a single image.

    Raises:
        ValueError: there is only one image, or none, or batches are asked to be that small.
    """
    if count < 2:
        raise ValueError(f"training needs at least 2 images, got {count}")
    if batch_size < 2:
        raise ValueError(f"batch_size: training needs at least 2, got {batch_size}")
    sizes = [batch_size] * (count // batch_size)
    if count % batch_size:
        sizes.append(count % batch_size)
    if sizes[-1] == 1:
        sizes[-2:] = [sizes[-2] + 1]
    return sizes


class ImageBatches:
    """Batches of some rows of a dataset, on a device.

    On the CPU, images are read where they lie. On a GPU the rows are copied there once if they fit, and
    stay for the next run of this process; else they go batch by batch through pinned memory, one batch
    ahead. The batches are the same either way, and none of them makes the host wait for the GPU.

    Args:
        data: the images.
        rows: which of them, [n].
        device: where the batches are wanted.
        channels_last: memory format of the batches; else contiguous.
        max_resident_bytes: most that the rows may take on a GPU; default: a quarter of the memory that
            this process could still get there.

    Raises:
        ValueError: a row is not in the data.
    """

    def __init__(
        self,
        data: Dataset,
        rows: Indices,
        device: torch.device | str,
        *,
        channels_last: bool,
        max_resident_bytes: int | None = None,
    ) -> None:
        if len(rows) and not (rows.min() >= 0 and rows.max() < len(data.images)):
            raise ValueError(f"rows: expected 0 to {len(data.images) - 1}, got {rows.min()} to {rows.max()}")
        self._device = resolve_device(device)
        self._channels_last = channels_last
        self._shape = data.images.shape[1], data.images.shape[2]
        self._num_classes = data.num_classes
        self._labels = torch.from_numpy(data.labels[rows]).to(self._device)
        self._gather = choose_gather(data, rows, self._device, max_resident_bytes)
        # a tensor of the device: torch's CUDA kernel multiplies by the reciprocal of a plain number,
        # which gives other bits than ToTensor for half of the 256 values
        self._white = torch.tensor(255.0, device=self._device)
        self._mean: Tensor | None = None
        self._std: Tensor | None = None
        if (data.mean, data.std) != NONE:
            self._mean, self._std = (
                torch.tensor(values, dtype=torch.float32, device=self._device).view(1, 3, 1, 1)
                for values in (data.mean, data.std)
            )

    @property
    def resident(self) -> bool:
        """Whether the images lie on the GPU."""
        return self._gather.resident

    def __len__(self) -> int:
        return len(self._labels)

    def batch_count(self, batch_size: int) -> int:
        """Number of training batches in an epoch."""
        return len(list_batch_sizes(len(self), batch_size))

    def iterate_training(
        self,
        batch_size: int,
        *,
        augment: Sequence[str] = (),
        crop_padding: int = 4,
        seed: int,
        epoch: int,
        purpose: str,
        max_batches: int | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every image once, in a drawn order and augmented.

        Draws come from CPU generators and go by an image's place in the order, so they are the same on
        every device and for every batch size.

        Args:
            batch_size: images per batch.
            augment: augmentations, as `train.augment` has them.
            crop_padding: pixels that `crop` shifts by at most.
            seed: of the run.
            epoch: of the run.
            purpose: what the batches are for; each purpose draws on its own.
            max_batches: stop after this many.

        Yields:
            Images [B, 3, H, W] float32 and labels [B] int64, on the device; with `mixup` or `cutmix`
            probabilities [B, C] float32 instead of the labels.

        Raises:
            ValueError: there are fewer than two images, or batches of fewer are asked for.
            RequestError: no plugin has registered an augmentation.
        """
        count = len(self)
        sizes = list_batch_sizes(count, batch_size)[:max_batches]
        generator = torch.Generator().manual_seed(derive_seed(seed, epoch, purpose, "order"))
        order = torch.randperm(count, generator=generator)
        draws = EpochDraws(seed, epoch, purpose, order, self._shape, self._device)
        plan = EpochAugmentation(augment, crop_padding, draws, self._num_classes)
        if plan.mixing is None:
            yield from self._augment_batches(order, sizes, plan, 0)
            return
        ((before, former),) = self._augment_batches(order[-1:], [1], plan, count - 1)
        start = 0
        for images, labels in self._augment_batches(order, sizes, plan, 0):
            place = slice(start, start + len(labels))
            yield plan.mixing.mix_batch(images, labels, (before, former), place)
            before, former, start = images[-1:].clone(), labels[-1:], place.stop

    def _augment_batches(
        self, order: Tensor, sizes: Sequence[int], plan: EpochAugmentation, start: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Images [B, 3, H, W] float32, augmented but not mixed, and labels [B], from place `start` on."""
        for images, labels in self._gather_batches(order, sizes):
            place = slice(start, start + len(labels))
            yield self._convert_pixels(plan.change_images(images, place)), labels
            start = place.stop

    def iterate_ordered(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every image once, in order, unchanged; shapes as of `iterate_training`."""
        count = len(self)
        sizes = [min(batch_size, count - start) for start in range(0, count, batch_size)]
        for images, labels in self._gather_batches(torch.arange(count), sizes):
            yield self._convert_pixels(images), labels

    def _gather_batches(self, order: Tensor, sizes: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """uint8 images [B, H, W, 3] and labels [B] in the given order, [n] int64 on the CPU."""
        moved = self._move_to_device(order)  # once per epoch: a copy for each batch costs more than the batch
        labels = self._labels[moved]
        batches = self._gather.iterate_batches(order, moved, sizes)
        return zip(batches, torch.split(labels[: sum(sizes)], list(sizes)), strict=True)

    def _convert_pixels(self, images: Tensor) -> Tensor:
        """[B, H, W, 3] uint8 to [B, 3, H, W] float32, as ToTensor (and Normalize) give it."""
        result = images.permute(0, 3, 1, 2)  # which torch calls channels_last; nothing is moved
        if not self._channels_last:
            result = result.contiguous()
        result = result.to(torch.float32).div_(self._white)
        if self._mean is not None and self._std is not None:
            result = result.sub_(self._mean).div_(self._std)
        return result

    def _move_to_device(self, tensor: Tensor) -> Tensor:
        return to_device(tensor, self._device)
