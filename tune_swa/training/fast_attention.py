"""torch's fast path for attention: other kernels in evaluation, which no exported program has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def has_fast_path(model: nn.Module) -> bool:
    """Whether torch may compute attention of a model in eval mode by other kernels than in a program."""
    return any(isinstance(module, nn.MultiheadAttention) for module in model.modules())


@contextmanager
def leave_fast_path() -> Iterator[None]:
    """Compute attention as exported programs do: they then give the same bits as their models."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
