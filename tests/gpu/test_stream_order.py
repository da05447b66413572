"""Memory that two streams use at the same time is found, and what is in order is left alone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from fake_cuda import fake_cuda  # type: ignore[import-not-found]
from made_up_gpus import Card, MadeUpGpus  # type: ignore[import-not-found]

GPU = torch.device("cuda", 0)


def copy_ahead(*, wait: bool, record: bool, overwrite: bool = False) -> None:
    """A copy on a side stream, which the main stream uses and frees."""
    side = torch.cuda.Stream()
    host = torch.ones(4).pin_memory()
    with torch.cuda.stream(side):
        images = host.to(GPU, non_blocking=True)
    if wait:
        torch.cuda.current_stream().wait_stream(side)
    if record:
        images.record_stream(torch.cuda.current_stream())
    images.add(1)
    if overwrite:
        with torch.cuda.stream(side):
            images.copy_(host, non_blocking=True)
    del images


@pytest.mark.parametrize(
    ("wait", "record", "overwrite", "found"),
    [
        (True, True, False, None),
        (False, True, False, r"reads what stream \d+ writes"),
        (True, False, False, "freed while stream 0 used it"),
        (True, True, True, "writes what stream 0 uses"),
    ],
)
def test_a_race_is_found(
    wait: bool, record: bool, overwrite: bool, found: str | None, make_up_gpus: Callable[..., MadeUpGpus]
) -> None:
    make_up_gpus(Card())
    expected = nullcontext() if found is None else pytest.raises(AssertionError, match=found)
    with expected, fake_cuda():
        copy_ahead(wait=wait, record=record, overwrite=overwrite)


def test_the_host_may_wait_instead(make_up_gpus: Callable[..., MadeUpGpus]) -> None:
    make_up_gpus(Card())
    with fake_cuda():
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            images = torch.zeros(4, device=GPU)
            event = side.record_event()
        event.synchronize()
        images.add_(1)
        torch.cuda.synchronize()
        with torch.cuda.stream(side):
            images.add_(1)


def test_memory_that_goes_back_in_order_needs_no_record(make_up_gpus: Callable[..., MadeUpGpus]) -> None:
    make_up_gpus(Card())
    with fake_cuda():
        main, side = torch.cuda.current_stream(), torch.cuda.Stream()
        with torch.cuda.stream(side):
            images = torch.zeros(4, device=GPU)
        main.wait_stream(side)
        images.add(1)
        side.wait_stream(main)  # what the side stream does next comes after that use
        del images
