"""Report what a trial in a worker has found: its epochs, and its predictions of the test images."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

from ray import tune

from tune_swa.experiment.layout import PAYLOAD
from tune_swa.training.prediction_file import pack_predictions
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


def report_test(run: Run, *, probabilities: bool = False) -> None:
    """Report what the finished model says of the test images.

    Args:
        run: finished.
        probabilities: whether those of every class are to be kept, for ensembles.
    """
    models = {"shipped": run.predict_test_images()}
    if run.averaging is None and run.refreshes:
        models["refreshed"] = run.predict_test_images(refresh=True)
    averages = run.predict_with_averages(models["shipped"])
    models.update(averages)
    metrics = {name: predictions.compute_metrics() for name, predictions in models.items()}
    report_message(
        event="tested",
        images=len(models["shipped"].label),
        shipped=metrics["shipped"],
        refreshed=metrics.get("refreshed"),
        averages={label: metrics[label] for label in averages},
        predictions=b64encode(pack_predictions(models, probabilities=probabilities)).decode(),
    )


def report_message(**message: Any) -> None:
    """Report plain values to the driver, and wait for its answer."""
    tune.report({PAYLOAD: json.dumps(message, allow_nan=False)})
