"""Seconds of training steps, for the benchmarks that compare ways to feed them."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from tune_swa.training.device_clock import read_clock
from tune_swa.training.run import Run


def time_call(run: Run, call: Callable[[], object]) -> float:
    """Seconds of a call, the device's work included."""
    begun = read_clock(run.device)
    call()
    return read_clock(run.device) - begun


def seconds_of_epoch(run: Run) -> float:
    """Seconds of the trial's loop over its training images."""
    return time_call(run, run.train_epoch)


def seconds_resident(run: Run, sizes: list[int]) -> float:
    """Seconds of steps of the given sizes on one batch that stays where it is, with nothing else."""
    images, labels = next(run.draw_batches("train"))

    def take_steps() -> None:
        run.model.train()
        for size in sizes:
            take_step(run, images[:size], labels[:size])

    return time_call(run, take_steps)


def take_step(run: Run, images: Tensor, labels: Tensor) -> None:
    """One optimizer step on a batch, which is copied to the device unless it is there."""
    images = images.to(run.device, non_blocking=True, memory_format=run.numerics.memory_format)
    labels = labels.to(run.device, non_blocking=True)
    run.train_batch(images, labels)
