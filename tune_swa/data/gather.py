"""Gather the pixels of a batch: from a copy on the device, or from the array that they lie in."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from tune_swa.data.cache import Pixels
from tune_swa.data.dataset import Dataset
from tune_swa.data.resident import find_resident, keep_resident, release_resident_images
from tune_swa.data.splits import Indices

__all__ = ["Gather", "available_bytes", "choose_gather", "release_resident_images", "resolve_device"]

RESIDENT_SHARE = 0.25
"""Share of the memory that a process could still get on its GPU which one set of images may take."""

Item = TypeVar("Item")


class Gather(Protocol):
    """Picks images by their positions among some rows."""

    resident: bool
    """Whether the images lie on the device."""

    def iterate_batches(self, order: Tensor, moved: Tensor, sizes: Sequence[int]) -> Iterator[Tensor]:
        """Batches of the images in the given order.

        Args:
            order: positions of the images, [n] int64 on the CPU.
            moved: the same on the device.
            sizes: of the batches; their sum is at most n.

        Yields:
            uint8 images [B, H, W, 3] on the device, which share no memory with the set.
        """


def choose_gather(data: Dataset, rows: Indices, device: torch.device, limit: int | None) -> Gather:
    """The faster way that there is memory for.

    Args:
        data: the images.
        rows: which of them, [n].
        device: where the batches are wanted; a GPU with its index.
        limit: most bytes that the rows may take on a GPU; default: `RESIDENT_SHARE` of what this process
            could still get there. Images that lie there already cost nothing more.
    """
    if device.type != "cuda":
        return Streamed(data.images, rows, device)
    needed = len(rows) * int(np.prod(data.images.shape[1:]))
    if limit is not None and needed > limit:
        return Streamed(data.images, rows, device)
    images = find_resident(data, rows, device)
    if images is None:
        if limit is None and needed > int(available_bytes(device) * RESIDENT_SHARE):
            return Streamed(data.images, rows, device)
        try:
            images = keep_resident(data, rows, device)
        except torch.OutOfMemoryError:  # another process on this GPU was faster
            return Streamed(data.images, rows, device)
    return Resident(images)


def resolve_device(device: torch.device | str) -> torch.device:
    """A device by its index: `cuda` alone becomes the GPU that is current now.

    Some functions of torch want an index (`torch.cuda.get_per_process_memory_fraction`), and tensors name
    their device with one, so that a bare `cuda` does not equal it.
    """
    resolved = torch.device(device)
    if resolved.type == "cuda" and resolved.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return resolved


def available_bytes(device: torch.device) -> int:
    """Memory that this process could still get on a GPU.

    A trial that shares its GPU is held to its share of it (`set_per_process_memory_fraction`), of which
    the driver's figure of free memory knows nothing. Blocks that torch's allocator holds without using
    them, those of an earlier trial for one, count as free: it gives them back before it runs out.
    """
    device = resolve_device(device)
    free, total = torch.cuda.mem_get_info(device)
    share = torch.cuda.get_per_process_memory_fraction(device) * total
    allocated = torch.cuda.memory_allocated(device)
    unused = torch.cuda.memory_reserved(device) - allocated
    return max(0, min(free + unused, int(share) - allocated))


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on `device`, without waiting for the copy where that can be done.

    A pinned block is not used again before the copy from it is done: torch's allocator sees to that.
    """
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class Resident:
    """Indexes a copy of the rows that lies on the device.

    Args:
        images: the rows, contiguous, [n, H, W, 3] uint8.
    """

    resident = True

    def __init__(self, images: Tensor) -> None:
        self._shape = images.shape[1:]
        self._rows = view_as_words(images)

    def iterate_batches(self, order: Tensor, moved: Tensor, sizes: Sequence[int]) -> Iterator[Tensor]:
        start = 0
        for size in sizes:
            rows = self._rows.index_select(0, moved[start : start + size])
            yield rows.view(torch.uint8).view(size, *self._shape)
            start += size


def view_as_words(images: Tensor) -> Tensor:
    """uint8 images [n, H, W, 3] as [n, words] of the widest integers that divide a row.

    Indexing copies element by element: eight bytes at a time instead of one.
    """
    rows = images.view(len(images), -1)
    for word in (torch.int64, torch.int32):
        if rows.shape[1] % word.itemsize == 0:
            return rows.view(word)
    return rows


class Streamed:
    """Reads each batch from the array; for a GPU into pinned memory, and copied there one batch ahead.

    Args:
        images: [N, H, W, 3] uint8.
        rows: which of them, [n].
        device: where the batches are wanted.
    """

    resident = False

    def __init__(self, images: Pixels, rows: Indices, device: torch.device) -> None:
        self._images = images
        self._rows = rows
        self._device = device

    def iterate_batches(self, order: Tensor, moved: Tensor, sizes: Sequence[int]) -> Iterator[Tensor]:
        batches = self._read_batches(order, sizes)
        return copy_ahead(batches, self._device) if self._device.type == "cuda" else batches

    def _read_batches(self, order: Tensor, sizes: Sequence[int]) -> Iterator[Tensor]:
        start = 0
        for size in sizes:
            rows = self._rows[order[start : start + size].numpy()]
            shape = (size, *self._images.shape[1:])
            batch = torch.empty(shape, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
            # rows were checked; with mode="raise" numpy would gather into memory of its own first
            np.take(self._images, rows, axis=0, out=batch.numpy(), mode="clip")
            yield batch
            start += size


def copy_ahead(batches: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]:
    """Pinned batches on the GPU. Each is read and copied while the GPU works on the one before.

    The copies run on a stream of their own; the consumer's stream waits for each before it uses it.
    """
    side = copy_stream(device)

    def start_copy(batch: Tensor) -> tuple[Tensor, torch.cuda.Event]:
        with torch.cuda.stream(side):
            return batch.to(device, non_blocking=True), side.record_event()

    for copy, done in fetch_ahead(map(start_copy, batches)):
        consumer = torch.cuda.current_stream(device)
        consumer.wait_event(done)
        # the block belongs to the side stream, which may not write to it before the consumer is done
        copy.record_stream(consumer)
        yield copy


def fetch_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The same items in the same order, each yielded when the next one has been fetched.

    What the consumer launches on a GPU runs on while the next item is fetched here, so that no thread
    is needed for both to go on at once.
    """
    fetched: deque[Item] = deque()
    for item in items:
        fetched.append(item)
        if len(fetched) > 1:
            yield fetched.popleft()
    yield from fetched


@functools.cache
def copy_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of this process that copies batches to a GPU.

    One for all: torch's allocator keeps blocks for the stream that they were made for.
    """
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
