"""A worker's part of a card: its limit, its wait for memory, and a GPU that answers no more."""

from __future__ import annotations

import logging
from collections.abc import Callable

import made_up_gpus  # type: ignore[import-not-found]
import pytest
import torch
from made_up_gpus import GIB, Card, MadeUpGpus

from tune_swa.hardware import gpu_memory
from tune_swa.hardware.gpu_failure import describe_gpu, is_gpu_lost
from tune_swa.hardware.gpu_memory import CONTEXT_BYTES, limit_memory, release_memory, wait_for_memory

MakeUpGpus = Callable[..., MadeUpGpus]


class Clock:
    """Time that passes where somebody sleeps, and what happens meanwhile."""

    def __init__(self, happens: Callable[[float], object] = lambda now: None) -> None:
        self.now = 0.0
        self._happens = happens

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self._happens(self.now)


@pytest.fixture(autouse=True)
def _forget_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_memory, "_missed", {})


@pytest.mark.parametrize("gib", [8, 16, 24, 80, 141])
@pytest.mark.parametrize("trials", [1, 2, 4, 7])
def test_shares_and_contexts_fit_the_card_together(gib: int, trials: int, make_up_gpus: MakeUpGpus) -> None:
    gpus = make_up_gpus(Card(memory=gib * GIB))
    allowed = limit_memory(1 / trials)
    assert trials * (allowed + CONTEXT_BYTES) <= gib * GIB
    assert allowed >= 0.45 * gib * GIB / trials
    gpus.reserve(allowed - 1024)  # the fraction says the same, to a rounding
    with pytest.raises(torch.OutOfMemoryError):
        gpus.reserve(1024 + 64)


def test_a_share_smaller_than_a_context_leaves_something(make_up_gpus: MakeUpGpus) -> None:
    make_up_gpus(Card(memory=4 * GIB))
    assert limit_memory(0.125) == GIB // 4
    assert limit_memory(1.0, context_bytes=10 * GIB) == 2 * GIB


def test_a_measured_context_counts(make_up_gpus: MakeUpGpus) -> None:
    make_up_gpus(Card(memory=80 * GIB))
    assert limit_memory(0.5, context_bytes=GIB) == 39 * GIB


def test_it_waits_until_a_neighbours_memory_is_back(
    make_up_gpus: MakeUpGpus, caplog: pytest.LogCaptureFixture
) -> None:
    card = Card(memory=16 * GIB, context_bytes=GIB, taken=8 * GIB)
    make_up_gpus(card)

    def leave(now: float) -> None:
        if now == 3.0:
            object.__setattr__(card, "taken", 0)

    clock = Clock(leave)
    with caplog.at_level(logging.INFO):
        assert wait_for_memory(10 * GIB, 60.0, clock=clock, sleep=clock.sleep)
    assert clock.now == 3.0
    assert "waited 3.0 s for 10.7 GB of GPU 0" in caplog.text


def test_what_the_process_holds_itself_is_not_waited_for(make_up_gpus: MakeUpGpus) -> None:
    gpus = make_up_gpus(Card(memory=16 * GIB, context_bytes=GIB))
    gpus.reserve(9 * GIB)  # its images, say
    clock = Clock()
    assert wait_for_memory(15 * GIB, 60.0, clock=clock, sleep=clock.sleep)
    assert clock.now == 0.0


def test_what_never_comes_is_waited_for_once(
    make_up_gpus: MakeUpGpus, caplog: pytest.LogCaptureFixture
) -> None:
    """A desktop holds its part of the card for good: not every trial has to wait for that."""
    make_up_gpus(Card(memory=16 * GIB, taken=2 * GIB, context_bytes=GIB))
    clock = Clock()
    assert not wait_for_memory(15 * GIB, 60.0, clock=clock, sleep=clock.sleep)
    assert clock.now == 60.0
    assert (
        "GPU 0 has room for 14 GB, and a trial here may need 16.1 GB; it begins all the same" in caplog.text
    )
    assert not wait_for_memory(15 * GIB, 60.0, clock=clock, sleep=clock.sleep)
    assert clock.now == 60.0
    assert wait_for_memory(13 * GIB, 60.0, clock=clock, sleep=clock.sleep)


def test_released_memory_is_for_others_to_take(make_up_gpus: MakeUpGpus) -> None:
    gpus = make_up_gpus(Card(memory=16 * GIB, context_bytes=GIB))
    gpus.reserve(5 * GIB)
    gpus.release(5 * GIB)
    assert torch.cuda.mem_get_info(0)[0] == 10 * GIB
    release_memory()
    assert torch.cuda.mem_get_info(0)[0] == 15 * GIB


@pytest.mark.parametrize(
    ("visible", "where"),
    [
        (None, "GPU 0, GPU-aaaa"),
        ("1", "GPU 1, GPU-bbbb"),
        ("1,0", "GPU 1, GPU-bbbb"),
        ("GPU-bbbb", "GPU-bbbb"),
        ("GPU-bb", "GPU-bb"),
    ],
)
def test_a_gpu_is_described_by_what_it_is(
    visible: str | None, where: str, make_up_gpus: MakeUpGpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_up_gpus(made_up_gpus.t4_16gb(uuid="GPU-aaaa"), made_up_gpus.t4_16gb(uuid="GPU-bbbb"))
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert describe_gpu() == f"Tesla T4 ({where})"


def test_a_gpu_that_answers_no_more_is_lost(
    make_up_gpus: MakeUpGpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the error was: what a kernel did wrong surfaces in any later call."""
    make_up_gpus(Card())

    def fail() -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch._C, "_cuda_synchronize", fail)
    assert is_gpu_lost(IndexError("odd"), on_gpu=True)
