"""Read the clock, and seed the layers that draw, for work on a device."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def read_clock(device: torch.device) -> float:
    """Return the seconds of a clock once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@contextmanager
def seed_layers(seed: int, device: torch.device) -> Iterator[None]:
    """Let layers that draw (dropout, stochastic depth) do so by a seed; the global generators are the
    caller's again afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
