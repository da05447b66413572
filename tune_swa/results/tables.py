"""Build the tables of an experiment from the fold of its journal, each with a fixed schema."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from tune_swa.config import Experiment, Parameter, format_value
from tune_swa.experiment.events import DamagedError, PlannedArm
from tune_swa.experiment.layout import fresh_run_name
from tune_swa.experiment.objective import METRICS
from tune_swa.experiment.state import ExperimentState
from tune_swa.experiment.trial_state import TrialState
from tune_swa.results.averages_table import average_records, lists_averages
from tune_swa.results.columns import (
    AVERAGES,
    ENSEMBLES,
    EPOCHS,
    MODEL_METRICS,
    PREDICTIONS,
    Column,
    comparison_columns,
    confirm_columns,
    epochs_columns,
    parameter_columns,
    trials_columns,
)
from tune_swa.results.comparison import Comparison, Entry, compare_configurations, race_values
from tune_swa.results.comparison_rows import ComparisonRow, build_comparison_rows
from tune_swa.results.contrasts import interval_columns
from tune_swa.results.ensembles import build_ensembles, ensemble_records
from tune_swa.results.merge_columns import MERGES, SOUPS
from tune_swa.results.merges import list_trained_arms, merge_records
from tune_swa.results.predictions import CALIBRATED, SHIPPED, TestPredictions, read_predictions
from tune_swa.results.provenance import build_metadata
from tune_swa.results.soups import soup_records
from tune_swa.results.verdict import analyse_confirmation
from tune_swa.text import escape_controls

_SECONDS = ("train_seconds", "bn_seconds", "eval_seconds")


class Tables(NamedTuple):
    """The tables of an experiment; `_fields` are the stems of their files."""

    trials: pa.Table
    epochs: pa.Table
    comparison: pa.Table
    confirm: pa.Table | None
    """None: no fresh seed was planned."""
    predictions: pa.Table | None
    averages: pa.Table | None
    """None: the space file lists no averages."""
    ensembles: pa.Table | None
    """None: none are asked for, or no run was tested."""
    soups: pa.Table | None
    """None: the space file asks for none."""
    merges: pa.Table | None
    """None: fresh seeds follow none."""


def build_tables(state: ExperimentState, folder: Path | None = None) -> Tables:
    """Build the tables from the journal so far; an experiment without trials has them too.

    Args:
        state: the fold of the journal.
        folder: the experiment's folder, which has the predictions on the test images; None: without them.

    Columns and types depend on the space alone, never on the values that have come in; the schema's
    metadata hold their provenance (`tune_swa.results.provenance`).

    Raises:
        RequestError: the journal is empty, or holds values of other types.
    """
    compared = compare_configurations(state)
    parameters, metric = compared.experiment.parameters, compared.objective.metric
    chooses = compared.experiment.objective.of == "best"
    about = build_metadata(state)
    predictions = {} if folder is None else read_predictions(state, folder)
    shipped = {name: variants[SHIPPED] for name, variants in predictions.items()}
    looks = state.confirmations
    found = analyse_confirmation(state, shipped) if looks else None
    comparison = [
        _comparison_record(row, compared)
        for row in build_comparison_rows(compared, found, {m: race_values(state, m) for m in METRICS})
    ]
    trials = [_trial_record(entry, parameters) for entry in compared.trials]
    try:
        confirm = tested = averages = ensembles = None
        if state.header is not None and lists_averages(state.header.spec):
            averages = _from_rows(AVERAGES, average_records(state.trials.values()), about)
        if looks:
            confirm = _from_rows(
                confirm_columns(parameters, chooses=chooses), _confirm_records(compared, state), about
            )
            tested = _from_columns(PREDICTIONS, _prediction_columns(predictions), about)
        if found is not None and folder is not None and compared.experiment.confirm.ensemble is not None:
            rows = ensemble_records(build_ensembles(found, predictions, state, folder))
            ensembles = _from_rows(ENSEMBLES, rows, about)
        return Tables(
            trials=_from_rows(trials_columns(parameters, metric, chooses=chooses), trials, about),
            epochs=_from_columns(
                epochs_columns(chooses=chooses),
                _epoch_columns(list(state.trials.values()), chooses=chooses),
                about,
            ),
            comparison=_from_rows(comparison_columns(parameters, metric, chooses=chooses), comparison, about),
            confirm=confirm,
            predictions=tested,
            averages=averages,
            ensembles=ensembles,
            **_merge_tables(state, compared.experiment, about),
        )
    except DamagedError as error:
        raise state.damaged(error) from None


def build_schema(columns: Sequence[Column], about: Mapping[str, str]) -> pa.Schema:
    """The arrow schema of a file; each field carries its meaning as `description`."""
    fields = [
        pa.field(c.name, pa.type_for_alias(c.type), metadata={"description": c.meaning}) for c in columns
    ]
    return pa.schema(fields, metadata=dict(about))


def _from_columns(columns: Sequence[Column], values: Mapping[str, Any], about: Mapping[str, str]) -> pa.Table:
    arrays = [_typed_array(column, values[column.name]) for column in columns]
    return pa.Table.from_arrays(arrays, schema=build_schema(columns, about))


def _typed_array(column: Column, values: Any) -> pa.Array:
    try:
        return pa.array(values, type=pa.type_for_alias(column.type))
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        raise DamagedError(f"{column.name} should be of type {column.type}: {error}") from None


def _from_rows(columns: Sequence[Column], rows: list[dict[str, Any]], about: Mapping[str, str]) -> pa.Table:
    return _from_columns(columns, {c.name: [row[c.name] for row in rows] for c in columns}, about)


# ----------------------------------------------------------------------------------- the tables


def _merge_tables(
    state: ExperimentState, experiment: Experiment, about: Mapping[str, str]
) -> dict[str, pa.Table | None]:
    """Soups of the search, where it asks for any, and merges on fresh seeds, where these follow some."""
    tested = merge_records(state, experiment)
    return {
        "soups": _from_rows(SOUPS, soup_records(state, experiment), about) if experiment.merge else None,
        "merges": _from_rows(MERGES, tested, about) if tested else None,
    }


def _epoch_columns(trials: list[TrialState], *, chooses: bool) -> dict[str, Sequence[Any]]:
    """Columns, one sequence each: there can be hundreds of thousands of epochs."""
    records = [record for trial in trials for record in trial.records]
    names = [c.name for c in EPOCHS if c.name != "trial"]
    try:
        columns = dict(zip(names, zip(*map(itemgetter(*names), records), strict=True), strict=True))
    except (KeyError, ValueError):  # a record without one of them, or no records
        columns = {name: tuple(record.get(name) for record in records) for name in names}
    trial = list(itertools.chain.from_iterable([t.name] * len(t.records) for t in trials))
    if chooses:
        columns["average"] = tuple(t.read_average(record) for t in trials for record in t.records)
    return {"trial": trial, **columns}


def _trial_record(entry: Entry, parameters: Sequence[Parameter]) -> dict[str, Any]:
    trial = entry.trial
    last = trial.last or {}
    best = max(trial.records, key=itemgetter("accuracy"), default={})  # max keeps the first of equals
    shared = sum(r.get("shared_from") is not None for r in trial.records)
    return {
        "trial": trial.name,
        "stage": trial.stage,
        "kind": trial.kind,
        "seed": trial.seed,
        **_parameter_values(entry, parameters),
        "status": trial.status,
        "epochs": len(trial.records),
        "epochs_trained": len(trial.records) - shared,
        "epochs_shared": shared,
        "accuracy": entry.accuracy,
        "best_accuracy": best.get("accuracy"),
        "best_epoch": best.get("epoch"),
        "nll": entry.nll,
        "ece": last.get("ece"),
        "live_accuracy": last.get("live_accuracy"),
        "delta_vs_baseline": entry.delta_vs_baseline,
        "delta_vs_same_lr": entry.delta_vs_same_lr,
        "seconds": float(sum(r.get(name) or 0.0 for r in trial.records for name in _SECONDS)),
        "device": _printable(trial.device),
        "checkpoint": trial.checkpoints[-1] if trial.checkpoints else None,
        "error": _printable(trial.error),
        "average": trial.chosen_average,
    }


def _printable(text: str | None) -> str | None:
    """An error may name a file whose name is no text."""
    return None if text is None else escape_controls(text)


def _comparison_record(row: ComparisonRow, compared: Comparison) -> dict[str, Any]:
    entry, baseline = row.entry, compared.baseline
    return {
        "rank": row.rank,
        "configuration": entry.label,
        "trial": entry.trial.name,
        "kind": entry.trial.kind,
        "best_baseline": row.best_baseline,
        **_parameter_values(entry, compared.experiment.parameters),
        "status": entry.trial.status,
        "epochs": len(entry.trial.records),
        "accuracy": entry.accuracy,
        "nll": entry.nll,
        "baseline": None if baseline is None else baseline.label,
        "baseline_accuracy": None if baseline is None else baseline.accuracy,
        "baseline_nll": None if baseline is None else baseline.nll,
        "delta_vs_baseline": entry.delta_vs_baseline,
        "delta_vs_same_lr": entry.delta_vs_same_lr,
        "images": compared.images,
        "race_seeds": len(row.race.get("accuracy", ())),
        "race_accuracy": row.race_mean("accuracy"),
        "race_nll": row.race_mean("nll"),
        "seeds": len(row.test_values),
        "mean": row.test_mean,
        "sd": row.test_sd,
        **interval_columns(row.contrast),
        "average": entry.trial.chosen_average,
    }


def _confirm_records(compared: Comparison, state: ExperimentState) -> list[dict[str, Any]]:
    arms: dict[str, tuple[PlannedArm, int]] = {}
    for event in state.confirmations:
        for planned in list_trained_arms(event):
            for seed in event.seeds:
                name = fresh_run_name(planned.name, "confirm", seed)
                arms[name] = planned, arms[name][1] if name in arms else event.look
    rows = []
    for entry in compared.trials:
        trial = entry.trial
        if trial.stage != "confirm":
            continue
        if trial.name not in arms:
            raise DamagedError(f"{trial.name} was never planned")
        arm, look = arms[trial.name]
        tested = trial.tested
        metrics = {
            "test": tested.shipped if tested else {},
            "refreshed": (tested.refreshed if tested else None) or {},
        }
        rows.append(
            {
                "trial": trial.name,
                "configuration": entry.label,
                "arm": arm.name,
                "kind": trial.kind,
                "roles": "+".join(arm.roles),
                "seed": trial.seed,
                "look": look,
                **_parameter_values(entry, compared.experiment.parameters),
                "status": trial.status,
                "images": tested.images if tested else None,
                "val_accuracy": entry.accuracy if entry.completed else None,
                **{
                    f"{of}_{name}": values.get(name)
                    for of, values in metrics.items()
                    for name in MODEL_METRICS
                },
                "average": trial.average,
            }
        )
    return rows


def _prediction_columns(predictions: Mapping[str, Mapping[str, TestPredictions]]) -> dict[str, Any]:
    """Columns as arrays: there can be hundreds of thousands of rows."""
    each = [(trial, model, s) for trial, models in predictions.items() for model, s in models.items()]

    def join_arrays(values: list[Any]) -> Any:
        return np.concatenate(values) if values else []

    def join_scores(name: str) -> Any:
        """Those of older files are null."""
        scores = [
            pa.array(getattr(s.calibrated, name)) if s.calibrated else pa.nulls(len(s.label), pa.float64())
            for _, _, s in each
        ]
        return pa.concat_arrays(scores) if scores else []

    return {
        "trial": [trial for trial, _, s in each for _ in s.label],
        "model": [model for _, model, s in each for _ in s.label],
        "image": join_arrays([np.arange(len(s.label)) for _, _, s in each]),
        **{
            name: join_arrays([getattr(s, name) for _, _, s in each])
            for name in ("label", "predicted", "probability", "confidence", "nll", "brier")
        },
        **{f"{name}_calibrated": join_scores(name) for name in CALIBRATED},
    }


def _parameter_values(entry: Entry, parameters: Sequence[Parameter]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for column in parameter_columns(parameters):
        value = entry.params.get(column.name)
        as_text = column.type == "string" and value is not None
        values[column.name] = format_value(value) if as_text else value
    return values
