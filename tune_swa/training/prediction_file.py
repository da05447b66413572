"""Pack predictions of test images into the file that `tune_swa.results.predictions` reads."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from tune_swa.experiment.layout import PROBABILITIES
from tune_swa.training.metrics import Predictions


def pack_predictions(models: Mapping[str, Predictions], *, probabilities: bool = False) -> bytes:
    """Return a compressed npz file of the predictions of one run.

    It holds `label`, and of each variant VARIANT of the model `VARIANT.predicted`, `.probability`,
    `.confidence`, `.nll` and `.brier`; with a temperature `.confidence_calibrated`, `.nll_calibrated` and
    `.brier_calibrated` as well. Each has one number for each image: int32 for classes, else float32.

    Args:
        models: predictions of the same images by variant; at least one.
        probabilities: whether those of every class are kept, too: `VARIANT.probabilities`, [N, C] float32.
    """
    arrays: dict[str, Any] = {}
    for name, predictions in models.items():
        arrays["label"] = predictions.label.cpu().numpy().astype(np.int32)
        arrays[f"{name}.predicted"] = predictions.predicted.cpu().numpy().astype(np.int32)
        for score in ("probability", "confidence", "nll", "brier"):
            arrays[f"{name}.{score}"] = getattr(predictions, score).cpu().numpy()
        if probabilities:
            arrays[f"{name}.{PROBABILITIES}"] = predictions.probabilities.cpu().numpy()
        if predictions.calibrated is not None:
            for score in ("confidence", "nll", "brier"):
                values = getattr(predictions.calibrated, score)
                arrays[f"{name}.{score}_calibrated"] = values.cpu().numpy()
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()
