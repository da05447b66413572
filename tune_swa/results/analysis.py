"""How does one look at the results of a search in Python?"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tune_swa.errors import RequestError
from tune_swa.journal import ExperimentState
from tune_swa.results.provenance import experiment_of
from tune_swa.results.tables import build_tables
from tune_swa.spec import Experiment

JOURNAL = "journal.jsonl"
LEADERBOARD = (
    "rank", "configuration", "trial", "kind", "accuracy", "delta_vs_baseline", "delta_vs_same_lr", "nll",
)  # fmt: skip
"""Columns of `Results.leaderboard`, all of comparison.parquet."""

# pandas would turn whole numbers into floats as soon as one is missing (swa_start of a baseline)
_NULLABLE = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}


@dataclass(frozen=True)
class Results:
    """What an experiment has found so far. `results/README.md` tells every column."""

    folder: Path
    experiment: Experiment
    """The settings it ran with."""
    trials: pd.DataFrame
    """One row for each trial."""
    epochs: pd.DataFrame
    """One row for each epoch of each trial."""
    comparison: pd.DataFrame
    """One row for each configuration, best first."""
    confirm: pd.DataFrame
    """Runs on fresh seeds; empty where there were none."""

    def leaderboard(self, n: int = 10) -> pd.DataFrame:
        """The `n` best completed configurations with their distance from the baseline, best first."""
        if n < 1:
            raise RequestError(f"leaderboard({n}): expected a number of rows, 1 or more")
        completed = self.comparison[self.comparison["rank"].notna()]
        return completed.loc[:, list(LEADERBOARD)].head(n).set_index("rank")

    def curve(self, trial: str) -> pd.DataFrame:
        """Every epoch of one trial, by epoch; empty while it has reported none.

        Raises:
            RequestError: there is no trial of that name.
        """
        names = list(self.trials["trial"])
        if trial not in names:
            close = difflib.get_close_matches(trial, names, n=1)
            hint = f"Did you mean {close[0]}?" if close else f"It has {_listed(names)}"
            raise RequestError(f"{self.folder}: no trial {trial!r}. {hint}")
        return self.epochs[self.epochs["trial"] == trial].drop(columns="trial").set_index("epoch")


def load_results(path: str | os.PathLike[str]) -> Results:
    """Read the results of a search, whether it has finished, is running, or was killed.

    The journal is read rather than the parquet files, which may be minutes behind it or missing.

    Args:
        path: the experiment's folder (`results/NAME`), or the journal in it.

    Raises:
        RequestError: there is no experiment at `path`, or its journal is damaged.
    """
    journal = _journal(Path(path))
    state = ExperimentState.read(journal)
    if state.header is None:
        raise RequestError(f"{journal}: holds no experiment yet; wait until the search has started")
    tables = build_tables(state)
    return Results(
        folder=journal.parent,
        experiment=experiment_of(state),
        trials=_frame(tables.trials),
        epochs=_frame(tables.epochs),
        comparison=_frame(tables.comparison),
        confirm=_confirm(journal.parent / "confirm.parquet"),
    )


def _confirm(path: Path) -> pd.DataFrame:
    if not path.exists():
        return pd.DataFrame()
    try:
        return _frame(pq.read_table(path))
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise RequestError(f"{path}: cannot be read ({reason}). Move it away to see the rest") from None


def _journal(path: Path) -> Path:
    journal = path if path.name == JOURNAL else path / JOURNAL
    try:
        if journal.is_file():
            return journal
    except OSError as error:  # longer than any path can be
        raise RequestError(
            f"{path}: {error.strerror}. Give the folder of an experiment, such as results/NAME"
        ) from None
    what = "there is no such folder" if not journal.parent.is_dir() else "the folder holds no experiment"
    for around in (path, path.parent):
        found = sorted(p.parent.name for p in around.glob(f"*/{JOURNAL}"))
        if found:
            hint = f" Experiments in {around}: {_listed(found)}"
            break
    else:
        hint = " Give the folder of an experiment, such as results/NAME"
    raise RequestError(f"{path}: {what} (looked for {journal}).{hint}")


def _listed(names: list[str], most: int = 10) -> str:
    shown = ", ".join(names[:most]) or "none yet"
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _frame(table: Any) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas(types_mapper=_NULLABLE.get)
    return frame
