"""Warm a waiting worker up, so that its first trial begins at full speed."""

from __future__ import annotations

from dataclasses import replace

import torch

from tune_swa.averaging.frozen_statistics import set_training
from tune_swa.config import RunSettings
from tune_swa.config.network_names import is_arch_name
from tune_swa.data.dataset import Dataset
from tune_swa.training.numerics import Numerics
from tune_swa.training.run import Run

CPU_BATCH, CPU_PIXELS = 2, 32
"""Images of the step on a CPU, where only imports and the first use of each operator take time."""


def warm_up(settings: RunSettings, data: Dataset, numerics: Numerics, *, stream_images: bool = False) -> None:
    """Do on a scratch network once what every trial does, and leave no trace in any random state.

    On a GPU that makes the context, uploads the images, loads every kernel and finds cuDNN's plans for the
    shapes that trials will have. On a CPU a small batch is enough: there a real one would cost as much as
    the trial's own first step, and save it nothing.

    Args:
        settings: of a trial like those to come.
        data: the images.
        numerics: of the search.
        stream_images: whether trials here keep no images on a GPU, as of `Run`.
    """
    on_gpu = numerics.device == "cuda"
    train, pixels = settings.train, data.images.shape[1]
    sizes = (min(train.batch_size, len(data.train)), min(train.eval_batch_size, len(data.val)))
    if not on_gpu:
        sizes = CPU_BATCH, CPU_BATCH
        arch = settings.model.arch
        if arch.startswith("resnet") and is_arch_name(arch):  # others may take no smaller images
            pixels = min(pixels, CPU_PIXELS)
    devices = [torch.cuda.current_device()] if on_gpu else []
    # compiled graphs are made for their shapes, and a small batch's would be of no use to a trial
    numerics = replace(numerics, compile=numerics.compile and on_gpu)
    with torch.random.fork_rng(devices=devices):
        run = Run(settings, data, numerics, stream_images=stream_images)
        _run_scratch_step(run, *sizes, pixels)
    if on_gpu:
        torch.cuda.synchronize()


def _run_scratch_step(run: Run, batch_size: int, eval_batch_size: int, pixels: int) -> None:
    """Train a step and evaluate a batch of blank images."""
    numerics = run.numerics

    def draw_blank(count: int) -> torch.Tensor:  # [count, 3, pixels, pixels] float32
        blank = torch.zeros(count, 3, pixels, pixels, device=run.device)
        return blank.contiguous(memory_format=numerics.memory_format)

    set_training(run.model)
    labels = torch.zeros(batch_size, dtype=torch.int64, device=run.device)
    run.train_batch(draw_blank(batch_size), labels)
    run.model.eval()
    with torch.inference_mode(), numerics.autocast():
        run.model(draw_blank(eval_batch_size))
