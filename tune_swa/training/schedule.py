"""The base learning rate, as a function of the epoch (or batch) and of nothing else.

It depends on neither swa_start nor swa_lr, which is what lets runs that differ only in these share
their epochs before averaging.
"""

from __future__ import annotations

import math

from tune_swa.config import TrainSpec


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
