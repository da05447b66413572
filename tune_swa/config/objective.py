"""What trials are compared by, as the space file has it."""

from __future__ import annotations

from typing import Literal, TypeAlias

from tune_swa.config.settings_model import Settings

Metric: TypeAlias = Literal["accuracy", "nll"]


class ObjectiveSpec(Settings):
    """What trials are compared by: in the search, on fresh seeds and in the verdict."""

    metric: Metric = "accuracy"
    """`accuracy`, the fraction of images classified correctly (higher is better), or `nll`, the mean
    negative log-likelihood in nats per image (lower is better), where the probabilities are what counts.
    Default: accuracy, which most people tune for."""
