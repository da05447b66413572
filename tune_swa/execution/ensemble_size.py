"""Check the size of what ensembles are made of."""

from __future__ import annotations

from tune_swa.config import Experiment
from tune_swa.errors import RequestError
from tune_swa.text import format_bytes

MOST_BYTES = 64 * 2**20
"""Largest report of a run's probabilities: it passes through the driver's memory as text."""


def check_ensemble_size(experiment: Experiment, images: int, classes: int) -> None:
    """Refuse ensembles whose probabilities are too many to be reported.

    Args:
        experiment: the settings.
        images: test images.
        classes: that they have.

    Raises:
        RequestError: with both sizes, and what to do.
    """
    if experiment.confirm.ensemble is None:
        return
    models = max(2, 1 + len(experiment.averages))
    size = 4 * models * images * classes
    if size > MOST_BYTES:
        raise RequestError(
            f"confirm.ensemble: the probabilities of {images:,} test images, {classes:,} classes and "
            f"{models} models take {format_bytes(size)} a run, and {format_bytes(MOST_BYTES)} can be kept. "
            "Leave confirm.ensemble out, list fewer averages, or test on fewer images"
        )
