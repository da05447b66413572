"""Report what a trial in a worker has found: its epochs, and its predictions of the test images."""

from __future__ import annotations

import io
import json
from base64 import b64encode
from typing import Any

import numpy as np
from ray import tune

from tune_swa.experiment.layout import PAYLOAD
from tune_swa.training.records import EpochRecord
from tune_swa.training.run import Run


def report_epoch(
    run: Run, saved: str | None, published: EpochRecord | None = None, *, taken_over: bool = False
) -> None:
    """Report the last finished epoch.

    Args:
        run: of the trial.
        saved: file with the state after the epoch; None: it was not saved.
        published: record of the live model, if the trunk's state was published.
        taken_over: whether the training of this epoch came with the trunk's state.
    """
    assert run.record is not None
    report_message(
        event="epoch",
        record=run.record.as_dict(),
        scores={label: score.as_dict() for label, score in run.scores.items()},
        checkpoint=saved,
        published=published.as_dict() if published else None,
        taken_over=taken_over,
    )


def report_test(run: Run) -> None:
    """Report what the finished model says of the test images."""
    shipped = run.predict_test_images()
    models = {"shipped": shipped}
    if run.averaging is None:
        models["refreshed"] = run.predict_test_images(refresh=True)
    averages = run.predict_with_averages()
    models.update(averages)
    arrays: dict[str, Any] = {"label": shipped.label.cpu().numpy().astype(np.int32)}
    for name, said in models.items():
        for what in ("predicted", "probability", "confidence", "nll", "brier"):
            values = getattr(said, what).cpu().numpy()
            arrays[f"{name}.{what}"] = values.astype(np.int32) if what == "predicted" else values
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    refreshed = models.get("refreshed")
    report_message(
        event="tested",
        images=len(shipped.label),
        shipped=shipped.compute_metrics(),
        refreshed=refreshed.compute_metrics() if refreshed else None,
        averages={label: said.compute_metrics() for label, said in averages.items()},
        predictions=b64encode(file.getvalue()).decode(),
    )


def report_message(**message: Any) -> None:
    """Report plain values to the driver, and wait for its answer."""
    tune.report({PAYLOAD: json.dumps(message, allow_nan=False)})
