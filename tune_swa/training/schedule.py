"""Learning rates as functions of the epoch (or batch) and of nothing else, so that a resume knows them.

The base rate depends on neither swa_start nor swa_lr, which is what lets runs that differ only in these
share their epochs before averaging.
"""

from __future__ import annotations

import math

from tune_swa.config import RunSettings, TrainSpec


def base_factor(index: int, train: TrainSpec, batches_per_epoch: int) -> float:
    """Return what the base learning rate is multiplied with.

    A linear warm-up (index i of W gets (i+1)/(W+1)), then a half cosine from 1 towards 0 over
    `t_max` units (Loshchilov & Hutter 2017, without restarts). As in CosineAnnealingLR's closed
    form, an index beyond `t_max` goes up the wave again.

    Args:
        index: epoch or batch since the start, from 0, whichever `train.unit` says.
        train: the settings.
        batches_per_epoch: optimizer steps per epoch.
    """
    warmup = train.warmup_epochs
    if index < warmup:
        return (index + 1) / (warmup + 1)
    if train.schedule == "constant":
        return 1.0
    total = train.epochs * (batches_per_epoch if train.unit == "batch" else 1)
    length = train.t_max or max(1, total - warmup)
    return (1 + math.cos(math.pi * (index - warmup) / length)) / 2


def cycle_factor(index: int, length: int, end: float) -> float:
    """Return what the highest rate of a cycle is multiplied with: it falls linearly to `end`, and the next
    cycle begins at the top again (Izmailov et al. 2018, arXiv 1803.05407, section 3.2).

    With t = (index mod length + 1) / length it is (1 - t) + t end: a cycle's first step is one part of
    `length` below the top, its last one at `end` exactly.

    Args:
        index: optimizer steps since the first cycle began, from 0.
        length: steps of a cycle.
        end: of its last step.
    """
    passed = (index % length + 1) / length
    return (1 - passed) + passed * end


def step_rate(
    settings: RunSettings, epoch: int, step: int, batches_per_epoch: int, factor: float = 1.0
) -> float | None:
    """Return the learning rate of an optimizer step; None: SWALR has set it (`tail: constant`).

    Args:
        settings: of the run.
        epoch: from 0.
        step: of the epoch, from 0.
        batches_per_epoch: optimizer steps per epoch.
        factor: of the parameters that it is for. It comes first, as in torch's schedulers, where a group
            begins at `lr * factor`.
    """
    averaging, fork_epoch = settings.averaging, settings.fork_epoch
    if fork_epoch is None or epoch <= fork_epoch or averaging.tail == "base":
        index = epoch * batches_per_epoch + step if settings.train.unit == "batch" else epoch
        return settings.lr * factor * base_factor(index, settings.train, batches_per_epoch)
    if averaging.tail == "constant":
        return None
    assert settings.swa_lr is not None
    index = (epoch - fork_epoch - 1) * batches_per_epoch + step
    length = averaging.cycle_length * batches_per_epoch
    return settings.swa_lr * factor * cycle_factor(index, length, averaging.cycle_end_factor)
