"""Where pixels come from: both ways give the same images, and the choice goes by memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tune_swa.data import gather
from tune_swa.data.dataset import Dataset
from tune_swa.data.gather import Resident, Streamed, available_bytes, gatherer

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
GB = 10**9


def test_both_ways_give_the_same_images(tiny_data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "CHUNK", 5)  # several, the last one smaller
    rows = tiny_data.train[::-1].copy()
    positions = torch.tensor([3, 0, 27, 3])
    expected = tiny_data.images[rows[positions.numpy()]]
    for way in (Resident, Streamed):
        images = way(tiny_data.images, rows, CPU)(positions)
        assert images.dtype == torch.uint8
        np.testing.assert_array_equal(images, expected)


def test_a_batch_is_a_copy(tiny_data: Dataset) -> None:
    before = tiny_data.images.copy()
    Streamed(tiny_data.images, tiny_data.train, CPU)(torch.arange(3)).zero_()
    np.testing.assert_array_equal(tiny_data.images, before)


@pytest.mark.parametrize(
    ("free", "fraction", "reserved", "available"),
    [
        (70 * GB, 1.0, 0, 70 * GB),  # another process has the rest
        (80 * GB, 0.25, 5 * GB, 15 * GB),  # held to a quarter of the GPU, and has some of it already
        (10 * GB, 0.25, 5 * GB, 10 * GB),
        (80 * GB, 0.25, 25 * GB, 0),
    ],
)
def test_available_memory(
    free: int, fraction: float, reserved: int, available: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 80 * GB))
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda _: fraction)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: reserved)
    assert available_bytes(GPU) == available


def test_the_choice_goes_by_memory(tiny_data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    class OnDevice:
        def __init__(self, *_: object) -> None:
            if no_room:
                raise torch.OutOfMemoryError

    needed = len(tiny_data.train) * 16 * 16 * 3
    no_room = False
    monkeypatch.setattr(gather, "Resident", OnDevice)

    def choice(device: torch.device, limit: int | None) -> type:
        return type(gatherer(tiny_data.images, tiny_data.train, device, limit))

    assert choice(GPU, needed) is OnDevice
    assert choice(GPU, needed - 1) is Streamed
    assert choice(CPU, needed) is Streamed
    for available, expected in ((4 * needed, OnDevice), (4 * needed - 4, Streamed)):
        monkeypatch.setattr(gather, "available_bytes", lambda _, n=available: n)
        assert choice(GPU, None) is expected
    no_room = True
    assert choice(GPU, needed) is Streamed
