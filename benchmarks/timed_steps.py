"""Seconds of training steps, for the benchmarks that compare ways to feed them."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from tune_swa.training.run import Run


def time_call(run: Run, what: Callable[[], object]) -> float:
    """Seconds, the device's work included."""
    begun = run._clock()
    what()
    return run._clock() - begun


def seconds_of_epoch(run: Run) -> float:
    """The trial's loop over its training images."""
    return time_call(run, run.train_epoch)


def seconds_resident(run: Run, sizes: list[int]) -> float:
    """Steps of the given sizes on one batch that stays where it is, with nothing else."""
    images, labels = next(run.draw_batches("train"))

    def steps() -> None:
        run.model.train()
        for size in sizes:
            take_step(run, images[:size], labels[:size])

    return time_call(run, steps)


def take_step(run: Run, images: Tensor, labels: Tensor) -> None:
    """One optimizer step on a batch, which is copied to the device unless it is there."""
    images = images.to(run.device, non_blocking=True, memory_format=run.numerics.memory_format)
    labels = labels.to(run.device, non_blocking=True)
    run.optimizer.zero_grad(set_to_none=True)
    with run.numerics.autocast():
        loss = nn.functional.cross_entropy(run._forward(images), labels)
    run.scaler.scale(loss).backward()
    run.scaler.step(run.optimizer)
    run.scaler.update()
