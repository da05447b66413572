"""Score the answers to single test images by a metric, so that answers of two runs can be compared."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from tune_swa.config import Metric
from tune_swa.results.predictions import TestPredictions

Scores = NDArray[Any]
"""Shape (N,), higher is better: bool for right and wrong, or the negative nll of each image in nats."""


def score_images(predictions: TestPredictions, metric: Metric) -> Scores:
    """Return the score of each image, whose mean is the accuracy, or the negative nll."""
    return -predictions.nll if metric == "nll" else predictions.correct
