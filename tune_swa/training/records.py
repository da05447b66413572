"""What a run reports of an epoch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class EpochRecord:
    """Report of one epoch. Names and units are those of epochs.parquet."""

    epoch: int
    phase: Literal["trunk", "branch"]
    """`branch` once the evaluated model is an average."""
    learning_rate: float
    """Rate of the epoch's last optimizer step."""
    train_loss: float
    accuracy: float
    live_accuracy: float
    nll: float
    ece: float
    n_averaged: int
    train_seconds: float
    bn_seconds: float
    eval_seconds: float
    images_per_second: float
    """Training images over `train_seconds`."""
    average: str | None = None
    """Label of the average that it reports, where the best of several is; else None."""
    nll_sd: float | None = None
    """Standard deviation of the validation images' nll, in nats, in searches by nll; None: not recorded."""

    def as_dict(self) -> dict[str, Any]:
        """As the journal has it: without an average that was not chosen, or a deviation that there is not."""
        fields = asdict(self)
        for name in ("average", "nll_sd"):
            if fields[name] is None:
                del fields[name]
        return fields


@dataclass(frozen=True)
class AverageScore:
    """Evaluation of one average after an epoch. Names and units are those of averages.parquet."""

    members: int
    """Sets of weights whose probabilities were averaged."""
    accuracy: float
    nll: float
    ece: float
    seconds: float
    """For its weights, the refresh of their statistics, and the evaluation."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def score_leader(record: EpochRecord, live: EpochRecord) -> AverageScore:
    """Return the score of the leading average, which an epoch's record has already.

    Args:
        record: of the epoch.
        live: of its live model alone.
    """
    spent = record.bn_seconds + record.eval_seconds - live.bn_seconds - live.eval_seconds
    return AverageScore(1, record.accuracy, record.nll, record.ece, spent)
