"""Memory of a GPU that several processes share: each is held to its part and waits until that is free."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable

from tune_swa.text import format_bytes

logger = logging.getLogger(__name__)

CONTEXT_BYTES = 600_000_000
"""Assumed bytes of a CUDA context beside all that the allocator holds, until it is measured: 0.3 to 0.6 GB
with the kernels that a ResNet loads."""
LEAST_PART = 0.5
"""Least part of its share that a process may allocate, however large its context is said to be."""
PATIENCE_SECONDS = 60.0
"""Seconds that a trial waits for memory. The driver takes back what a dead process held within seconds."""
POLL_SECONDS = 0.5

_MEMORY_ERRORS = (
    "out of memory",  # CUDA's own words, of the device and of pinned host memory
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
)

_missed: dict[tuple[int, int], int] = {}
"""Bytes that were free when a wait for memory was given up, by device and bytes asked for."""


def limit_memory(share: float, context_bytes: int = CONTEXT_BYTES) -> int:
    """Hold this process's allocator to a share of the present GPU, less what its context takes.

    Shares that add up to a whole card then fit it, contexts included.

    Args:
        share: part of the card, in (0, 1].
        context_bytes: what a context takes.

    Returns:
        Bytes that the allocator may hold.
    """
    import torch

    device = torch.cuda.current_device()
    total = torch.cuda.get_device_properties(device).total_memory
    allowed = max(share * total - context_bytes, LEAST_PART * share * total)
    torch.cuda.set_per_process_memory_fraction(min(1.0, allowed / total), device)
    return int(allowed)


def wait_for_memory(
    needed_bytes: int,
    patience_seconds: float = PATIENCE_SECONDS,
    *,
    poll_seconds: float = POLL_SECONDS,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> bool:
    """Wait until the present GPU has room for so many bytes, what this process holds already included.

    A neighbour that died, or a trial that has just ended in another process, gives its memory back within
    seconds. Memory that somebody else keeps for good is waited for once in a process, not before every
    trial.

    Returns:
        Whether the room is there. If not, a warning says what is missing.
    """
    import torch

    device = torch.cuda.current_device()
    begun = clock()
    known = _missed.get((device, needed_bytes))
    while (room := _count_room(device)) < needed_bytes:
        if known is not None and room >= known:
            return False
        waited = clock() - begun
        if waited >= patience_seconds:
            _missed[device, needed_bytes] = room
            logger.warning(
                "GPU %d has room for %s, and a trial here may need %s; it begins all the same after %.0f s. "
                "Another process uses this GPU: see nvidia-smi",
                device, format_bytes(room), format_bytes(needed_bytes), waited,
            )  # fmt: skip
            return False
        sleep(poll_seconds)
    _missed.pop((device, needed_bytes), None)
    waited = clock() - begun
    if waited >= poll_seconds:
        logger.info("waited %.1f s for %s of GPU %d", waited, format_bytes(needed_bytes), device)
    return True


def release_memory() -> None:
    """Give what the allocator keeps for later back to the GPU, for others to take."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()


def is_memory_exhausted(error: BaseException) -> bool:
    """Whether an error says that a GPU, or the memory pinned for it, has no more room.

    torch has a type for what its allocator is refused; cuBLAS and cuDNN, which allocate for themselves,
    and calls of CUDA's runtime only have their texts.
    """
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _MEMORY_ERRORS)


def _count_room(device: int) -> int:
    """Bytes that this process's allocator holds or could get from the driver."""
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device)
