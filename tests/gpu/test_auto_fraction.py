"""From a trial that is tried out to the fraction of a GPU: on made-up cards, with every tensor counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import made_up_gpus  # type: ignore[import-not-found]
import pytest
import python_engine  # type: ignore[import-not-found]
import torch
from fake_cuda import fake_cuda  # type: ignore[import-not-found]
from made_up_gpus import Card, MadeUpGpus
from step_memory import MemoryMeter, SavedTensors  # type: ignore[import-not-found]
from torch.utils._pytree import tree_map_only

from tune_swa.config import Experiment
from tune_swa.errors import RequestError
from tune_swa.execution.gpu_share import check_fraction, check_memory, choose_fraction, largest_workload
from tune_swa.training import checkpoint, step_probe
from tune_swa.training.numerics import Numerics
from tune_swa.training.run import Run
from tune_swa.training.step_probe import TrialCost, Workload

GPU = Numerics("cuda", "bf16", threads=1, channels_last=True, fused=True, compile=False)
WEIGHTS = 4 * 11_180_000
"""Bytes of a ResNet-18."""
IMAGES = 17_034
"""To train on and to validate; as many as the Intel set has, with its test images."""


class AllocatorMeter(MemoryMeter):  # type: ignore[misc]
    """Has the made-up GPU's allocator give out what tensors take, and take it back."""

    def __init__(self, gpus: MadeUpGpus) -> None:
        super().__init__()
        self._gpus, self._known = gpus, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = super().__torch_dispatch__(func, types, args, kwargs)
        grown, self._known = self.live - self._known, self.live
        if grown > 0:
            self._gpus.reserve(grown)
        elif grown < 0:
            self._gpus.release(-grown)
        return result


def save_read_back(state: dict[str, Any], path: Path) -> None:
    """Tensors without numbers cannot be written, so what would be read of them is."""
    checkpoint.save_checkpoint(tree_map_only(torch.Tensor, torch.Tensor.cpu, state), path)


def load_and_move(path: Path, device: torch.device) -> Any:
    """torch.load moves tensors to a GPU by a way that needs a driver."""
    return tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), checkpoint.load_checkpoint(path))


class FakeFiles:
    save_checkpoint, load_checkpoint = staticmethod(save_read_back), staticmethod(load_and_move)


@contextmanager
def counting_gpu(card: Card, shared: Path) -> Iterator[MadeUpGpus]:
    """A made-up GPU whose allocator counts tensors without numbers, in this process and its children."""
    saved = SavedTensors()
    engine = partial(python_engine.run_backward, after_node=saved.free_used)
    with pytest.MonkeyPatch.context() as patch:
        gpus = MadeUpGpus(card, shared=shared)
        gpus.install(partial(patch.setattr, raising=False))
        for name, value in gpus.environment().items():
            patch.setenv(name, value)
        patch.setattr(torch._C, "_cuda_sleep", lambda cycles: None, raising=False)
        patch.setattr(step_probe, "checkpoints", FakeFiles)
        patch.setattr(step_probe, "REPETITIONS", 1)  # nothing is timed here
        hooks = torch.autograd.graph.saved_tensors_hooks(saved.pack, saved.unpack)
        # undone before `fake_cuda` undoes its own
        with fake_cuda(), AllocatorMeter(gpus), hooks, pytest.MonkeyPatch.context() as inner:
            inner.setattr(torch.autograd, "_engine_run_backward", engine)
            yield gpus


def workload_of(image_size: int, batch_size: int) -> Workload:
    experiment = Experiment.model_validate(
        {
            "name": "x",
            "data": {"image_size": image_size},
            "train": {"batch_size": batch_size, "eval_batch_size": batch_size},
            "space": {"lr": 1e-3, "swa_start": 3, "swa_lr": 1e-3},
        }
    )
    return largest_workload(experiment, GPU, 6, IMAGES, 3000)


def measure(card: Card, workload: Workload, shared: Path) -> TrialCost:
    with counting_gpu(card, shared):
        return TrialCost(**step_probe.measure_trial(workload.as_dict()))


def test_a_trial_is_tried_out_on_a_gpu(tmp_path: Path) -> None:
    card = made_up_gpus.rtx_24gb(context_bytes=400_000_000)
    cost = measure(card, workload_of(16, 4), tmp_path)
    assert (cost.device, cost.memory, cost.exhausted) == (card.name, card.memory, None)
    # weights, their average, gradients and two states of the optimizer, and little of such small images
    assert 5 * WEIGHTS < cost.trial_bytes < 8 * WEIGHTS
    assert cost.context_bytes == 400_000_000  # by two processes, one of which looked before
    assert 0 <= card.memory - 400_000_000 - cost.free < 1_000_000  # less the tensor that made the context


def test_what_cudnn_takes_to_choose_kernels_is_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the first epochs it tries plans with workspaces of gigabytes, of which none may be chosen."""
    train, workload = Run.train_epoch, workload_of(16, 4)
    with counting_gpu(made_up_gpus.rtx_24gb(), tmp_path) as gpus:

        def choose_and_train(run: Run) -> float:
            if run.epoch == 0:
                gpus.reserve(10_000_000_000)
                gpus.release(10_000_000_000)
            return train(run)

        monkeypatch.setattr(Run, "train_epoch", choose_and_train)
        cost = TrialCost(**step_probe.measure_trial(workload.as_dict()))
    assert 5 * WEIGHTS < cost.trial_bytes < 8 * WEIGHTS


def test_a_gpu_that_others_have_filled_is_told(tmp_path: Path) -> None:
    card = made_up_gpus.laptop_8gb(taken=7_500_000_000)
    workload = workload_of(128, 128)
    cost = measure(card, workload, tmp_path)
    assert cost.exhausted is not None
    assert cost.exhausted.startswith("CUDA out of memory")
    with pytest.raises(
        RequestError, match=r"does not fit NVIDIA GeForce RTX 3070 \(8\.59 GB.*Only [\d.]+ MB"
    ):
        check_memory(cost, workload)


def test_memory_that_a_library_was_refused_is_told_like_torchs_own(
    make_up_gpus: Callable[..., MadeUpGpus], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(workload: Workload) -> None:
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")

    card = made_up_gpus.laptop_8gb()
    make_up_gpus(card)
    monkeypatch.setattr(step_probe, "_run_trial", refuse)
    monkeypatch.setattr(step_probe, "_measure_bare_context", lambda: 0)
    workload = workload_of(16, 4)
    with pytest.raises(
        RequestError, match=r"does not fit NVIDIA GeForce RTX 3070.*CUBLAS_STATUS_ALLOC_FAILED"
    ):
        check_memory(TrialCost(**step_probe.measure_trial(workload.as_dict())), workload)


CARDS: tuple[Callable[[], Card], ...] = (
    made_up_gpus.laptop_8gb,
    made_up_gpus.v100_16gb,
    made_up_gpus.rtx_24gb,
    made_up_gpus.a100_80gb,
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("image_size", "batch_size", "host_over_device", "trials"),
    [
        # the last column: on 8, 16, 24 and 80 GB; 0: a trial does not fit. Which of host and GPU is the
        # limit cannot be counted: below about 200 pixels an H100 waits for the host (estimate)
        (32, 64, 4.0, (4, 4, 4, 4)),
        (224, 256, 1.0, (1, 1, 1, 1)),
        (256, 256, 1.0, (1, 1, 1, 1)),
        (256, 256, 4.0, (1, 1, 2, 4)),  # on a GPU so fast that it waits here, too; each with its images
    ],
)
def test_trials_on_cards_of_four_sizes(
    image_size: int, batch_size: int, host_over_device: float, trials: tuple[int, ...], tmp_path: Path
) -> None:
    cost = measure(made_up_gpus.a100_80gb(), workload_of(image_size, batch_size), tmp_path)
    cost = replace(cost, host_seconds=host_over_device, device_seconds=1.0)
    images = 3 * image_size**2 * IMAGES
    found = []
    for make_card in CARDS:
        memory = make_card().memory
        try:
            share = choose_fraction(cost, memory, images, 16)
        except RequestError:
            found.append(0)
            continue
        found.append(share.trials)
        needs = cost.trial_bytes + cost.context_bytes + (images if share.resident else 0)
        print(  # pytest -rP shows it: the table of a report
            f"{image_size} px, batches of {batch_size}: a trial {cost.trial_bytes / 1e9:.2f} GB on "
            f"{memory / 1e9:.0f} GB: {share.trials} trials, {share.fraction:g} each, "
            f"{needs / 1e9:.2f} of {share.fraction * memory / 1e9:.2f} GB, resident {share.resident}"
        )
        assert needs <= share.fraction * memory
        check_fraction(share.fraction, cost, memory)
    assert tuple(found) == trials
