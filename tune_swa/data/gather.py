"""Where the pixels of a batch come from: a copy on the device, or the array that they lie in."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from tune_swa.data.cache import Pixels
from tune_swa.data.splits import Indices

RESIDENT_SHARE = 0.25
"""Share of the memory that a process could still get on its GPU which one set of images may take."""
CHUNK = 1024
"""Images copied to the device at a time, so that the host never holds all of them."""


class Gather(Protocol):
    """Picks images by their positions among some rows."""

    resident: bool
    """Whether the images lie on the device."""

    def __call__(self, positions: Tensor) -> Tensor:
        """uint8 images [B, H, W, 3] on the device, at `positions` [B] int64 on the CPU."""


def gatherer(images: Pixels, rows: Indices, device: torch.device, limit: int | None) -> Gather:
    """The faster way that there is memory for.

    Args:
        images: [N, H, W, 3] uint8.
        rows: which of them, [n].
        device: where the batches are wanted.
        limit: most bytes that the rows may take on a GPU; default: `RESIDENT_SHARE` of what there is.
    """
    if device.type != "cuda":
        return Streamed(images, rows, device)
    if limit is None:
        limit = int(available_bytes(device) * RESIDENT_SHARE)
    if len(rows) * int(np.prod(images.shape[1:])) > limit:
        return Streamed(images, rows, device)
    try:
        return Resident(images, rows, device)
    except torch.OutOfMemoryError:  # another process on this GPU was faster
        return Streamed(images, rows, device)


def available_bytes(device: torch.device) -> int:
    """Memory that this process could still get on a GPU.

    A trial that shares its GPU is held to its share of it (`set_per_process_memory_fraction`), of which
    the driver's figure of free memory knows nothing.
    """
    free, total = torch.cuda.mem_get_info(device)
    share = torch.cuda.get_per_process_memory_fraction(device) * total
    return max(0, min(free, int(share) - torch.cuda.memory_reserved(device)))


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on `device`, without waiting for the copy where that can be done.

    A pinned block is not used again before the copy from it is done: torch's allocator sees to that.
    """
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class Resident:
    """Indexes a copy of the rows that lies on the device."""

    resident = True

    def __init__(self, images: Pixels, rows: Indices, device: torch.device) -> None:
        shape = (len(rows), *images.shape[1:])
        self._images = torch.empty(shape, dtype=torch.uint8, device=device)
        self._device = device
        for start in range(0, len(rows), CHUNK):
            chunk = images[rows[start : start + CHUNK]]
            self._images[start : start + len(chunk)] = torch.from_numpy(chunk)

    def __call__(self, positions: Tensor) -> Tensor:
        return self._images[to_device(positions, self._device)]


class Streamed:
    """Reads each batch from the array, straight into pinned memory where the device is a GPU."""

    resident = False

    def __init__(self, images: Pixels, rows: Indices, device: torch.device) -> None:
        self._images = images
        self._rows = rows
        self._device = device

    def __call__(self, positions: Tensor) -> Tensor:
        rows = self._rows[positions.numpy()]
        shape = (len(rows), *self._images.shape[1:])
        batch = torch.empty(shape, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        # rows were checked; with mode="raise" numpy would gather into memory of its own first
        np.take(self._images, rows, axis=0, out=batch.numpy(), mode="clip")
        return batch.to(self._device, non_blocking=True)
