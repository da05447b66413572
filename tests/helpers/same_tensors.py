"""Compare states of runs bit for bit."""

from __future__ import annotations

from typing import Any

import torch


def same_tensors(one: Any, other: Any) -> bool:
    """Whether two states, of tensors and plain values in dicts and lists, are the same."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same_tensors(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same_tensors, one, other))
    return bool(one == other)
