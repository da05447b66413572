"""Rows of averages.parquet: every average of every trial, where it was scored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import UNSET

from tune_swa.experiment.trial_state import TrialState
from tune_swa.results.columns import MODEL_METRICS


def lists_averages(spec: Mapping[str, Any]) -> bool:
    """Whether trials of an experiment observe averages.

    Args:
        spec: of the journal's header; older ones have no such settings.
    """
    return bool(spec.get("averages") or spec["baseline"].get("averages"))


def average_records(trials: Iterable[TrialState]) -> list[dict[str, Any]]:
    """Rows for the validation images, and for the test images of runs on fresh seeds."""
    rows = []
    for trial in trials:
        for epoch, scores in trial.scores.items():
            for label, score in scores.items():
                rows.append(_build_row(trial, epoch, "val", label, score))
        if trial.tested is not None and trial.tested.averages is not UNSET and trial.last is not None:
            last = trial.scores.get(trial.last["epoch"], {})
            for label, metrics in trial.tested.averages.items():
                members = last[label]["members"] if label in last else None
                row = _build_row(trial, trial.last["epoch"], "test", label, metrics)
                rows.append({**row, "members": members})
    return rows


def _build_row(trial: TrialState, epoch: int, part: str, label: str, values: Any) -> dict[str, Any]:
    numbers = {name: values.get(name) for name in ("members", *MODEL_METRICS, "seconds")}
    return {"trial": trial.name, "epoch": epoch, "part": part, "average": label, **numbers}
