"""How does the fold of a journal become tables with a fixed schema?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from tune_swa.journal import DamagedError, ExperimentState, TrialState
from tune_swa.results.columns import EPOCHS, Column, comparison_columns, parameter_columns, trials_columns
from tune_swa.results.comparison import Comparison, Entry, compare
from tune_swa.results.provenance import metadata
from tune_swa.spec import Parameter, format_value

_SECONDS = ("train_seconds", "bn_seconds", "eval_seconds")


class Tables(NamedTuple):
    """The three tables of an experiment; `_fields` are the stems of their files."""

    trials: pa.Table
    epochs: pa.Table
    comparison: pa.Table


def build_tables(state: ExperimentState) -> Tables:
    """Tables of everything the journal says so far, an experiment without trials included.

    Columns and types depend on the space alone, never on the values that have come in; the schema's
    metadata say where they come from (`tune_swa.results.provenance`).

    Raises:
        RequestError: the journal is empty, or holds values of other types.
    """
    compared = compare(state)
    parameters = compared.experiment.parameters
    about = metadata(state)
    trials = [_trial_row(entry, parameters) for entry in compared.trials]
    comparison = _comparison_rows(compared, parameters)
    try:
        return Tables(
            trials=_from_rows(trials_columns(parameters), trials, about),
            epochs=_from_columns(EPOCHS, _epochs(list(state.trials.values())), about),
            comparison=_from_rows(comparison_columns(parameters), comparison, about),
        )
    except DamagedError as error:
        raise state.damaged(error) from None


def schema(columns: Sequence[Column], about: Mapping[str, str]) -> pa.Schema:
    """The arrow schema of a file; each field carries its meaning as `description`."""
    fields = [
        pa.field(c.name, pa.type_for_alias(c.type), metadata={"description": c.meaning}) for c in columns
    ]
    return pa.schema(fields, metadata=dict(about))


def _from_columns(
    columns: Sequence[Column], values: Mapping[str, list[Any]], about: Mapping[str, str]
) -> pa.Table:
    arrays = [_array(column, values[column.name]) for column in columns]
    return pa.Table.from_arrays(arrays, schema=schema(columns, about))


def _array(column: Column, values: list[Any]) -> pa.Array:
    try:
        return pa.array(values, type=pa.type_for_alias(column.type))
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        raise DamagedError(f"{column.name} should be of type {column.type}: {error}") from None


def _from_rows(columns: Sequence[Column], rows: list[dict[str, Any]], about: Mapping[str, str]) -> pa.Table:
    return _from_columns(columns, {c.name: [row[c.name] for row in rows] for c in columns}, about)


# ----------------------------------------------------------------------------------- the tables


def _epochs(trials: list[TrialState]) -> dict[str, list[Any]]:
    """Columns, one list each: there can be hundreds of thousands of epochs."""
    records = [record for trial in trials for record in trial.records]
    columns = {c.name: [record.get(c.name) for record in records] for c in EPOCHS if c.name != "trial"}
    return {"trial": [trial.name for trial in trials for _ in trial.records], **columns}


def _trial_row(entry: Entry, parameters: Sequence[Parameter]) -> dict[str, Any]:
    trial = entry.trial
    last = trial.last or {}
    best = max(trial.records, key=lambda r: r["accuracy"], default={})  # max keeps the first of equals
    shared = sum(r.get("shared_from") is not None for r in trial.records)
    return {
        "trial": trial.name,
        "stage": trial.stage,
        "kind": trial.kind,
        "seed": trial.seed,
        **_parameters(entry, parameters),
        "status": trial.status,
        "epochs": len(trial.records),
        "epochs_trained": len(trial.records) - shared,
        "epochs_shared": shared,
        "accuracy": entry.accuracy,
        "best_accuracy": best.get("accuracy"),
        "best_epoch": best.get("epoch"),
        "nll": last.get("nll"),
        "ece": last.get("ece"),
        "live_accuracy": last.get("live_accuracy"),
        "delta_vs_baseline": entry.delta_vs_baseline,
        "delta_vs_same_lr": entry.delta_vs_same_lr,
        "seconds": float(sum(r.get(name) or 0.0 for r in trial.records for name in _SECONDS)),
        "device": trial.device,
        "checkpoint": trial.checkpoints[-1] if trial.checkpoints else None,
        "error": trial.error,
    }


def _comparison_rows(compared: Comparison, parameters: Sequence[Parameter]) -> list[dict[str, Any]]:
    baseline = compared.baseline
    return [
        {
            "rank": rank + 1 if entry.completed else None,
            "configuration": entry.label,
            "trial": entry.trial.name,
            "kind": entry.trial.kind,
            "best_baseline": baseline is not None and entry.trial.name == baseline.trial.name,
            **_parameters(entry, parameters),
            "status": entry.trial.status,
            "epochs": len(entry.trial.records),
            "accuracy": entry.accuracy,
            "nll": (entry.trial.last or {}).get("nll"),
            "baseline": None if baseline is None else baseline.label,
            "baseline_accuracy": None if baseline is None else baseline.accuracy,
            "delta_vs_baseline": entry.delta_vs_baseline,
            "delta_vs_same_lr": entry.delta_vs_same_lr,
            "images": compared.images,
            "seeds": int(entry.completed),
            # one seed has neither a spread nor an interval
            **dict.fromkeys(("mean", "sd", "delta", "interval_low", "interval_high", "p_value")),
        }
        for rank, entry in enumerate((*compared.ranked, *compared.unfinished))
    ]


def _parameters(entry: Entry, parameters: Sequence[Parameter]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for column in parameter_columns(parameters):
        value = entry.params.get(column.name)
        words = column.type == "string" and value is not None
        values[column.name] = format_value(value) if words else value
    return values
