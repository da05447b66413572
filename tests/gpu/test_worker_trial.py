"""A worker's trial on `cuda:0`, from its limit of memory to its retry, with tensors that have no numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
import torchvision
from fake_cuda import FakeCuda, fake_cuda  # type: ignore[import-not-found]
from made_up_gpus import GIB, Card, MadeUpGpus  # type: ignore[import-not-found]
from torchvision.models.resnet import BasicBlock, ResNet

from helpers.local_worker import Worker
from tune_swa.data import resident
from tune_swa.data.dataset import Dataset
from tune_swa.execution import trainable
from tune_swa.execution.warm_up import warm_up
from tune_swa.hardware.gpu_memory import CONTEXT_BYTES
from tune_swa.training.numerics import decide_numerics
from tune_swa.training.run import Run


@pytest.fixture
def fake(make_up_gpus: Callable[..., MadeUpGpus], monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    monkeypatch.setattr(
        torchvision.models, "resnet18", lambda num_classes: ResNet(BasicBlock, [1, 1, 1, 1], num_classes)
    )
    resident.release_resident_images()
    make_up_gpus(Card(memory=16 * GIB))
    with fake_cuda() as mode:
        yield mode
    resident.release_resident_images()


@pytest.fixture
def gpu_worker(worker: Worker, fake: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> Worker:
    """A worker with a quarter of a card. Modes of torch are a thread's own, so it trains in this one."""
    numerics = decide_numerics(worker.settings.train, 16, device="cuda", threads=1)
    worker.context = replace(worker.context, numerics=numerics, keep_all=True, checkpoint_every=100)
    monkeypatch.setattr(trainable, "run_in_training_thread", lambda function: function())
    # states have no numbers to save
    monkeypatch.setattr(trainable, "save_checkpoint", lambda *given, **named: None)
    return worker


def test_a_trial_is_held_to_its_share_and_says_where_it_ran(gpu_worker: Worker) -> None:
    last = gpu_worker.train(gpus=0.25)
    assert last["event"] == "epoch", last
    assert torch.cuda.get_per_process_memory_fraction(0) == pytest.approx(0.25 - CONTEXT_BYTES / (16 * GIB))
    assert gpu_worker.messages[0]["device"].startswith("NVIDIA H100 80GB HBM3 (GPU 0, GPU-")


def test_exhausted_memory_is_retried_without_resident_images(
    gpu_worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = []
    train = Run.train_epoch

    def exhaust_once(run: Run) -> float:
        kept.append(len(resident._kept))
        if len(kept) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 44.00 MiB.")
        return train(run)

    monkeypatch.setattr(Run, "train_epoch", exhaust_once)
    assert gpu_worker.train(gpus=0.25)["event"] == "epoch"
    assert kept[:2] == [1, 1]
    assert set(kept[2:]) == {0}
    assert [m.get("retried") for m in gpu_worker.messages if m["event"] == "started"] == [
        None, "OutOfMemoryError: CUDA out of memory. Tried to allocate 44.00 MiB.",
    ]  # fmt: skip


@pytest.mark.parametrize(("trial_bytes", "keeps"), [(3_000_000_000, True), (3_600_000_000, False)])
def test_images_are_kept_only_where_a_trial_leaves_room_for_them(
    trial_bytes: int, keeps: bool, gpu_worker: Worker
) -> None:
    """A quarter of 16 GiB, less a context, is 3.7 GB; a trial has a tenth more than was measured."""
    gpu_worker.context = replace(gpu_worker.context, trial_bytes=trial_bytes)
    assert gpu_worker.train(gpus=0.25)["event"] == "epoch"
    assert bool(resident._kept) is keeps


def test_the_test_images_are_not_kept(gpu_worker: Worker, tiny_data: Dataset) -> None:
    run = Run(gpu_worker.settings, tiny_data, gpu_worker.context.numerics)
    (kept,) = resident._kept.values()
    assert len(kept) == 2  # to train with and to validate
    run.predict_test_images()
    assert len(kept) == 2


def test_warming_up_uploads_the_images_and_steps_once(
    gpu_worker: Worker, tiny_data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []
    forward = ResNet.forward
    monkeypatch.setattr(
        ResNet, "forward", lambda net, images: shapes.append(tuple(images.shape)) or forward(net, images)
    )
    warm_up(gpu_worker.settings, tiny_data, gpu_worker.context.numerics)
    assert shapes == [(16, 3, 16, 16), (12, 3, 16, 16)]  # a batch as in training, then one of evaluation
    assert len(resident._kept) == 1
