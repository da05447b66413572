"""Keep images on a GPU, so that the next trial of this process need not copy them there again."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor

from tune_swa.data.dataset import Dataset
from tune_swa.data.splits import Indices

CHUNK = 1024
"""Images copied to the device at a time, so that the host never holds all of them."""


class _Set(NamedTuple):
    """Images of one dataset on one device."""

    fingerprint: str
    device: torch.device


_kept: dict[_Set, dict[str, Tensor]] = {}
"""Each part of the one set that is kept, by the hash of its rows."""


def find_resident(data: Dataset, rows: Indices, device: torch.device) -> Tensor | None:
    """The rows where they are kept already, [n, H, W, 3] uint8; None: they are not.

    Images of another dataset or another device are let go: they would take the memory that these need.
    """
    wanted = _Set(data.fingerprint, device)
    for other in [kept for kept in _kept if kept != wanted]:
        del _kept[other]
    return _kept.get(wanted, {}).get(_hash_rows(rows))


def keep_resident(data: Dataset, rows: Indices, device: torch.device) -> Tensor:
    """Copy the rows to the device and keep them for this process; [n, H, W, 3] uint8.

    Raises:
        torch.OutOfMemoryError: there is no room for them; nothing more is kept than before.
    """
    images = torch.empty((len(rows), *data.images.shape[1:]), dtype=torch.uint8, device=device)
    for start in range(0, len(rows), CHUNK):
        chunk = data.images[rows[start : start + CHUNK]]
        images[start : start + len(chunk)] = torch.from_numpy(chunk)
    _kept.setdefault(_Set(data.fingerprint, device), {})[_hash_rows(rows)] = images
    return images


def release_resident_images() -> None:
    """Let go of all images that this process keeps on a GPU.

    Their memory is free for other tensors of this process once no run uses them any more, and for other
    processes after `torch.cuda.empty_cache()`.
    """
    _kept.clear()


def _hash_rows(rows: Indices) -> str:
    return hashlib.blake2b(rows.tobytes(), digest_size=16).hexdigest()
