"""Compute one merge in a worker: load the averages of its trials, merge them, keep and report the result."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from tune_swa.execution.trial_checkpoints import write_state
from tune_swa.execution.trial_reports import report_message
from tune_swa.storage import Store
from tune_swa.training.checkpoint import extract_shipped_weights, load_checkpoint
from tune_swa.training.merging import evaluate_recipe, merge_runs
from tune_swa.training.metrics import Evaluation
from tune_swa.training.prediction_file import pack_predictions
from tune_swa.training.run import Run


def compute_merge(run: Run, job: dict[str, Any], store: Store) -> None:
    """Merge the trials of a job and report it; on a fresh seed, test the model.

    Args:
        run: of the first trial's settings, not begun.
        job: fields of `MergeJob`, with `checkpoints` (the last one of each trial), `first` (metrics that the
            first one reported) and `metric`.
        store: holds the checkpoints, and gets the merged weights.

    Raises:
        CheckpointError: a checkpoint is damaged or gone.
        NonFiniteError: an output of a mean is NaN or infinite.
        MachineError: the disk refuses the result.
    """
    averages = _load_averages(store, job["checkpoints"])
    if job["seed"] is not None:
        evaluation, predictions = evaluate_recipe(run, averages)
        report_message(
            event="merge_tested",
            images=len(predictions.label),
            validation=vars(evaluation),
            shipped=predictions.compute_metrics(),
            predictions=b64encode(pack_predictions({"shipped": predictions})).decode(),
        )
        return
    soup, weights = merge_runs(
        run,
        averages,
        Evaluation(**job["first"]),
        job["metric"],
        greedy=job["rule"] == "greedy",
    )
    write_state({"model": weights}, store, job["file"])
    tried = [
        {"trial": trial, **step.score.as_dict(), "kept": step.kept}
        for trial, step in zip(job["candidates"][1:], soup.tried, strict=True)
    ]
    report_message(event="merged", tried=tried)


def _load_averages(store: Store, checkpoints: list[str]) -> Iterator[dict[str, Tensor]]:
    """Read what each trial ships, one at a time."""
    for name in checkpoints:
        with store.local(name) as path:
            yield extract_shipped_weights(load_checkpoint(path))
