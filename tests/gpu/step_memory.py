"""Bytes that a trial's tensors take on a GPU, counted tensor by tensor while it runs without numbers.

What a real GPU takes beside them is not in it: the context, workspaces of cuDNN and cuBLAS, and what the
allocator loses between its blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import ref

import numpy as np
import pytest
import python_engine  # type: ignore[import-not-found]
import torch
from fake_cuda import FakeCuda, fake_cuda  # type: ignore[import-not-found]
from made_up_gpus import Card, MadeUpGpus  # type: ignore[import-not-found]
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tune_swa.config import RunSettings, TrainSpec
from tune_swa.data.dataset import Dataset
from tune_swa.training.numerics import decide_numerics
from tune_swa.training.run import Run

BLOCK = 512
"""torch's allocator gives multiples of so many bytes."""


class MemoryMeter(TorchDispatchMode):
    """Adds up the storages on a GPU that are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        """Bytes."""
        self.peak = 0
        self._storages: dict[int, ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.device.type == "cuda":
                self._add(tensor.untyped_storage())
        return result

    def measure_peak(self, work: Callable[[], object]) -> int:
        """Most bytes that were alive at a time while `work()` ran."""
        self.peak = self.live
        work()
        return self.peak

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._storages:
            return
        size = -(-storage.nbytes() // BLOCK) * BLOCK

        def forget(_: object) -> None:
            del self._storages[key]
            self.live -= size

        self._storages[key] = ref(storage, forget)
        self.live += size
        self.peak = max(self.peak, self.live)


class SavedTensors:
    """Frees what the forward pass saved once the node that needs it has run, as the real engine does."""

    def __init__(self) -> None:
        self._used: list[list[Tensor]] = []

    def pack(self, tensor: Tensor) -> list[Tensor]:
        return [tensor]

    def unpack(self, holder: list[Tensor]) -> Tensor:
        self._used.append(holder)
        return holder[0]

    def free_used(self) -> None:
        for holder in self._used:
            holder.clear()
        self._used.clear()


@contextmanager
def metered_gpu(card: Card) -> Iterator[tuple[FakeCuda, MemoryMeter]]:
    """A made-up GPU with fake tensors, all of which are counted."""
    saved, meter = SavedTensors(), MemoryMeter()
    engine = partial(python_engine.run_backward, after_node=saved.free_used)
    with pytest.MonkeyPatch.context() as patch:
        MadeUpGpus(card).install(partial(patch.setattr, raising=False))
        hooks = torch.autograd.graph.saved_tensors_hooks(saved.pack, saved.unpack)
        # undone before `fake_cuda` undoes its own
        with fake_cuda() as fake, meter, hooks, pytest.MonkeyPatch.context() as inner:
            inner.setattr(torch.autograd, "_engine_run_backward", engine)
            yield fake, meter


@dataclass(frozen=True)
class StepBytes:
    """Most bytes alive at a time in each part of a trial, weights and optimizer included."""

    training: int
    refresh: int
    evaluation: int

    @property
    def peak(self) -> int:
        return max(self.training, self.refresh, self.evaluation)


def measure_trial(image_size: int, batch_size: int, precision: str, optimizer: str = "adam") -> StepBytes:
    """Count what one batch takes of each part of a trial whose images are streamed."""
    train = TrainSpec.model_validate(
        {
            "epochs": 3, "batch_size": batch_size, "eval_batch_size": batch_size, "precision": precision,
            "optimizer": optimizer,
        }
    )  # fmt: skip
    settings = RunSettings(lr=1e-3, swa_start=0, swa_lr=1e-3, train=train)
    count = 3 * batch_size
    order = np.arange(count)
    data = Dataset.from_arrays(
        np.zeros((count, image_size, image_size, 3), np.uint8), order % 10,
        train=order[:batch_size], val=order[batch_size : 2 * batch_size], test=order[2 * batch_size :],
        class_names=tuple("abcdefghij"), name="black",
    )  # fmt: skip
    context = 2**29
    with metered_gpu(Card(memory=context + 1, context_bytes=context)) as (_, meter):
        run = Run(settings, data, decide_numerics(train, image_size, device="cuda", threads=1))
        run.run_epoch()
        refresh = meter.measure_peak(run.average_epoch)  # from here on the average is there, too
        training = meter.measure_peak(run.train_epoch)
        return StepBytes(training, refresh, evaluation=meter.measure_peak(run.predict_test_images))


def count_step_bytes(image_size: int, batch_size: int, precision: str, optimizer: str = "adam") -> int:
    """Most bytes that a trial's tensors take at a time, without resident images."""
    return measure_trial(image_size, batch_size, precision, optimizer).peak
