"""Which images are kept on a GPU, by the memory that torch's own front end finds there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from fake_cuda import fake_cuda  # type: ignore[import-not-found]
from made_up_gpus import Card, MadeUpGpus  # type: ignore[import-not-found]

from tune_swa.config import RunSettings, TrainSpec
from tune_swa.data import gather
from tune_swa.data.batches import ImageBatches
from tune_swa.data.dataset import Dataset
from tune_swa.data.gather import (
    Resident,
    Streamed,
    available_bytes,
    choose_gather,
    release_resident_images,
    resolve_device,
)
from tune_swa.data.resident import find_resident
from tune_swa.training.numerics import decide_numerics
from tune_swa.training.run import Run

GB = 10**9
GPU = torch.device("cuda", 0)
MakeUpGpus = Callable[..., MadeUpGpus]


@pytest.fixture(autouse=True)
def _nothing_is_kept() -> Iterator[None]:
    release_resident_images()
    yield
    release_resident_images()


def test_a_bare_cuda_gets_the_index_of_the_current_gpu(make_up_gpus: MakeUpGpus) -> None:
    make_up_gpus(Card(), Card())
    assert resolve_device("cuda") == GPU
    with torch.cuda.device(1):
        assert resolve_device("cuda") == torch.device("cuda", 1)
        assert resolve_device("cuda:0") == GPU


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
@pytest.mark.parametrize(
    ("taken", "fraction", "reserved", "allocated", "available"),
    [
        (10 * GB, 1.0, 0, 0, 70 * GB),  # another process has the rest
        (0, 0.25, 5 * GB, 5 * GB, 15 * GB),  # held to a quarter of the GPU, and has some of it already
        (0, 0.25, 5 * GB, 2 * GB, 18 * GB),  # what the last trial left to the allocator is free again
        (70 * GB, 0.25, 5 * GB, 2 * GB, 8 * GB),
        (0, 0.25, 20 * GB, 20 * GB, 0),
    ],
)
def test_available_memory(
    device: str, taken: int, fraction: float, reserved: int, allocated: int, available: int,
    make_up_gpus: MakeUpGpus,
) -> None:  # fmt: skip
    gpus = make_up_gpus(Card(memory=80 * GB, taken=taken, context_bytes=0))
    torch.cuda.init()
    torch.cuda.set_per_process_memory_fraction(fraction, 0)
    gpus.reserve(reserved)
    gpus.release(reserved - allocated)
    assert available_bytes(torch.device(device)) == available


def test_the_choice_goes_by_memory(tiny_data: Dataset, make_up_gpus: MakeUpGpus) -> None:
    needed = len(tiny_data.train) * 16 * 16 * 3
    gpus = make_up_gpus(Card(memory=4 * needed, context_bytes=0))

    def choice(device: torch.device, limit: int | None) -> type:
        return type(choose_gather(tiny_data, tiny_data.train, device, limit))

    with fake_cuda():
        assert choice(torch.device("cpu"), needed) is Streamed
        assert choice(GPU, needed - 1) is Streamed
        assert choice(GPU, needed) is Resident
        gpus.reserve(4)  # now there is less than four times what they need
        assert choice(GPU, None) is Resident  # but they are there already
        assert choice(GPU, 0) is Streamed
        release_resident_images()
        assert choice(GPU, None) is Streamed
        gpus.release(4)
        assert choice(GPU, None) is Resident


def test_images_are_streamed_where_memory_is_gone_by_then(
    tiny_data: Dataset, make_up_gpus: MakeUpGpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_up_gpus(Card())

    def fail(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(gather, "keep_resident", fail)
    with fake_cuda():
        assert not ImageBatches(tiny_data, tiny_data.train, "cuda", channels_last=True).resident


def test_the_next_run_uploads_no_images(tiny_data: Dataset, make_up_gpus: MakeUpGpus) -> None:
    make_up_gpus(Card())
    wanted = RunSettings(lr=1e-3, train=TrainSpec(epochs=2, batch_size=8))
    numerics = decide_numerics(wanted.train, 16, device="cuda", threads=1)
    with fake_cuda() as fake:

        def count_uploads(data: Dataset, stream_images: bool = False) -> int:
            fake.waits.clear()
            Run(wanted, data, numerics, stream_images=stream_images)
            return sum(times for place, times in fake.waits.items() if "keep_resident" in place)

        assert count_uploads(tiny_data) == 2  # training and validation images
        assert count_uploads(replace(tiny_data)) == 0
        assert count_uploads(replace(tiny_data, fingerprint="another set")) == 2
        assert count_uploads(tiny_data) == 2
        assert find_resident(tiny_data, tiny_data.train, GPU) is not None
        assert count_uploads(tiny_data, stream_images=True) == 0
        assert find_resident(tiny_data, tiny_data.train, GPU) is None
