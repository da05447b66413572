"""Read the results of a search in Python, as data frames."""

from __future__ import annotations

import difflib
import importlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pyarrow as pa

from tune_swa.config import Experiment
from tune_swa.errors import RequestError
from tune_swa.experiment.model_description import read_network
from tune_swa.experiment.state import ExperimentState
from tune_swa.files import expand_home
from tune_swa.results.comparison import compare_configurations
from tune_swa.results.contrasts import Contrast, Verdict, interval_columns
from tune_swa.results.predictions import FOLDER as PREDICTIONS
from tune_swa.results.provenance import require_header, restore_experiment
from tune_swa.results.tables import build_tables
from tune_swa.results.verdict import compute_verdict
from tune_swa.storage import FolderStore, Store, open_store
from tune_swa.text import first_line, name_first

JOURNAL = "journal.jsonl"
LEADERBOARD = (
    "rank", "configuration", "trial", "kind", "accuracy", "delta_vs_baseline", "delta_vs_same_lr", "nll",
)  # fmt: skip
"""Columns of `Results.leaderboard`, all of comparison.parquet."""

COMPARED = (
    "configuration", "against", "role", "seeds", "delta", "interval_low", "interval_high", "p_value",
    "verdict",
)  # fmt: skip
"""Columns of `Results.compare`."""

# pandas would turn whole numbers into floats as soon as one is missing (swa_start of a baseline)
_NULLABLE = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}


class NoExperimentError(RequestError):
    """What is there is no experiment, or none yet.

    Args:
        message: what is wrong, and what to do.
        why: the same in a few words.
    """

    def __init__(self, message: str, why: str) -> None:
        super().__init__(message)
        self.why = why


@dataclass(frozen=True)
class Results:
    """Results of an experiment so far. `results/README.md` explains every column."""

    folder: Path
    """Folder its journal and predictions were read from; for a URI, a copy that goes with this object."""
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
    predictions: pd.DataFrame
    """Their predictions for each test image."""
    averages: pd.DataFrame
    """Scores of every average that the space file lists; empty where it lists none."""
    ensembles: pd.DataFrame
    """Ensembles of the runs on fresh seeds; empty where none were asked for."""
    soups: pd.DataFrame
    """Steps of every soup; empty where none were asked for."""
    merges: pd.DataFrame
    """Merges on fresh seeds; empty where none were asked for."""
    state: ExperimentState = field(repr=False)
    """The fold of the journal."""
    store: Store = field(repr=False)
    """The experiment's folder, here or elsewhere."""
    _copy: TemporaryDirectory[str] | None = field(repr=False, default=None)
    """Temporary folder that holds `folder`, if that is a copy."""

    @property
    def where(self) -> str:
        """The experiment's folder or URI."""
        return self.store.where

    @cached_property
    def verdict(self) -> Verdict | None:
        """The verdict from the runs on fresh seeds; None without any."""
        return compute_verdict(self.state, self.folder)

    def leaderboard(self, n: int = 10) -> pd.DataFrame:
        """The `n` best completed configurations with their distance from the baseline, best first."""
        if n < 1:
            raise RequestError(f"leaderboard({n}): expected a number of rows, 1 or more")
        completed = self.comparison[self.comparison["rank"].notna()]
        return completed.loc[:, list(LEADERBOARD)].head(n).set_index("rank")

    def compare(self) -> pd.DataFrame:
        """Differences on fresh seeds, one row for each pair of configurations that is compared: the
        finalists against the best plain training first (`role` is best; `baseline` in older journals, where
        it is the best baseline of the search), then against their own settings without SWA where those are
        others (`trunk`) and against other plain training (`plain`); these have no verdict of their own.
        Differences are in test accuracy (0.01 is one point), or with nll as the objective in nats by which
        it is lower; the interval is for new seeds and new images. Empty without fresh seeds.
        """
        found = self.verdict
        contrasts: list[tuple[str, Contrast]] = []
        if found:
            headlines = {(c.arm.name, c.against.name) for c in found.against_plain}
            own = {(c.arm.name, c.against.name) for c in found.against_trunk} - headlines
            others = [c for c in found.against_others if (c.arm.name, c.against.name) not in own]
            contrasts = [("baseline" if found.plan is None else "best", c) for c in found.against_plain]
            contrasts += [("trunk", c) for c in found.against_trunk if (c.arm.name, c.against.name) in own]
            contrasts += [("plain", c) for c in others]
        rows = [
            {"configuration": c.arm.label, "role": role, "seeds": len(c.seeds), **interval_columns(c)}
            for role, c in contrasts
        ]
        return pd.DataFrame(rows, columns=list(COMPARED))

    def gain(self) -> pd.DataFrame:
        """Gain of the average over the live model of the same trial, on the validation images: one
        column for each SWA trial, one row for each epoch that has an average (0.01 is one point)."""
        averaged = self.epochs[self.epochs["phase"] == "branch"]
        gains = averaged.assign(gain=averaged["accuracy"] - averaged["live_accuracy"])
        return gains.pivot_table(index="epoch", columns="trial", values="gain")

    def importance(self) -> dict[str, float]:
        """Share of the objective's variance that each searched setting explains (fANOVA by optuna,
        which this imports), the largest first.

        Raises:
            RequestError: there are too few completed trials.
        """
        from tune_swa.results.importance import compute_importance

        values, why = compute_importance(compare_configurations(self.state))
        if values is None:
            raise RequestError(f"{self.where}: {why}")
        return values

    def best_model(self) -> Any:
        """The model that the search hands over, in eval mode (imports torch and torchvision, or timm).

        `best_model.json` beside it describes the images that it expects.

        Raises:
            RequestError: there is none yet, or it is damaged, or timm is missing.
        """
        load = importlib.import_module("torch").load
        networks = importlib.import_module("tune_swa.training.mean_probability")
        try:
            with self.store.local("best_model.json") as path:
                about = read_network(path)
            with self.store.local("best_model.pt") as path:
                weights = load(path, map_location="cpu", weights_only=True)
            return networks.load_networks([weights], about)
        except RequestError:  # the library that has the network is missing
            raise
        except FileNotFoundError:
            raise RequestError(
                f"{self.where}: there is no best_model.pt yet; it is written when the search ends"
            ) from None
        except OSError as error:
            raise RequestError(f"{self.where}: best_model.pt cannot be read ({error})") from None
        except Exception:  # torch.load raises a dozen types for damaged files
            raise RequestError(
                f"{self.where}: best_model.pt or best_model.json is damaged. Write it again: the command "
                "of the search with --resume"
            ) from None

    def curve(self, trial: str) -> pd.DataFrame:
        """Every epoch of one trial, by epoch; empty while it has reported none.

        Raises:
            RequestError: there is no trial of that name.
        """
        names = list(self.trials["trial"])
        if trial not in names:
            close = difflib.get_close_matches(trial, names, n=1)
            hint = f"Did you mean {close[0]}?" if close else f"It has {name_first(names, 10) or 'none yet'}"
            raise RequestError(f"{self.where}: no trial {trial!r}. {hint}")
        return self.epochs[self.epochs["trial"] == trial].drop(columns="trial").set_index("epoch")


def side_by_side(paths: Sequence[str | os.PathLike[str]]) -> pd.DataFrame:
    """Compare experiments in one table: the best configuration of each kind, and the verdict.

    Accuracies are on each experiment's own images: compare rows where `data` (the beginning of the
    fingerprint of images and division) is the same, and differences where `objective` is, too.

    Raises:
        RequestError: one of them cannot be read.
    """
    return pd.DataFrame([describe_experiment(path) for path in paths])


def describe_experiment(path: str | os.PathLike[str]) -> dict[str, Any]:
    """An experiment's row of `side_by_side`; None for what it does not have (yet).

    Raises:
        NoExperimentError: there is none at `path`.
        RequestError: it cannot be read.
    """
    results = load_results(path)
    compared = compare_configurations(results.state)
    swa, baseline = compared.best_swa, compared.baseline
    leading = results.verdict.leading if results.verdict else None
    interval = interval_columns(leading)
    return {
        "experiment": results.where,
        "data": require_header(results.state).data["fingerprint"][:8],
        "trials": len(results.trials),
        "objective": compared.objective.metric,
        "best_swa": swa.label if swa else None,
        "swa_accuracy": swa.accuracy if swa else None,
        "swa_nll": swa.nll if swa else None,
        "best_baseline": baseline.label if baseline else None,
        "baseline_accuracy": baseline.accuracy if baseline else None,
        "baseline_nll": baseline.nll if baseline else None,
        "finalist": leading.arm.label if leading else None,
        "against": interval["against"],
        "seeds": len(leading.seeds) if leading else 0,
        "delta": interval["delta"],
        "interval_low": interval["interval_low"],
        "interval_high": interval["interval_high"],
        "verdict": interval["verdict"],
    }


def load_results(path: str | os.PathLike[str]) -> Results:
    """Read the results of a search, whether it has finished, is running, or was killed.

    The journal is read rather than the parquet files, which may be minutes behind it or missing.

    Args:
        path: the experiment's folder (`results/NAME`), or the journal in it; or a URI of what `--storage`
            keeps (`s3://bucket/swa/NAME`), of which the journal and the predictions are copied first.

    Raises:
        RequestError: there is no experiment at `path`, it cannot be reached, or its journal is damaged.
    """
    if "://" in str(path):
        copy = TemporaryDirectory(prefix="tune_swa-results-")
        store = open_store(str(path).removesuffix(f"/{JOURNAL}"))
        return _build_results(_copy_experiment(store, Path(copy.name)), store, copy)
    journal = _find_journal(expand_home(os.fspath(path), "load_results:"))
    return _build_results(journal, FolderStore(journal.parent))


def _build_results(journal: Path, store: Store, copy: TemporaryDirectory[str] | None = None) -> Results:
    state = ExperimentState.read(journal)
    if state.header is None:
        raise NoExperimentError(
            f"{store.where}/{JOURNAL}: holds no experiment yet; wait until the search has started",
            "has not started yet",
        )
    tables = build_tables(state, journal.parent)
    return Results(
        folder=journal.parent,
        experiment=restore_experiment(state),
        trials=_to_frame(tables.trials),
        epochs=_to_frame(tables.epochs),
        comparison=_to_frame(tables.comparison),
        confirm=pd.DataFrame() if tables.confirm is None else _to_frame(tables.confirm),
        predictions=pd.DataFrame() if tables.predictions is None else _to_frame(tables.predictions),
        averages=pd.DataFrame() if tables.averages is None else _to_frame(tables.averages),
        ensembles=pd.DataFrame() if tables.ensembles is None else _to_frame(tables.ensembles),
        soups=pd.DataFrame() if tables.soups is None else _to_frame(tables.soups),
        merges=pd.DataFrame() if tables.merges is None else _to_frame(tables.merges),
        state=state,
        store=store,
        _copy=copy,
    )


def _copy_experiment(store: Store, folder: Path) -> Path:
    """The journal of an experiment elsewhere, copied to `folder` with the predictions beside it."""

    def copy_file(name: str) -> None:
        with store.local(name) as file:
            shutil.copyfile(file, folder / name)

    try:
        copy_file(JOURNAL)  # before the predictions, which it may refer to
        (folder / PREDICTIONS).mkdir()
        for name in store.names(PREDICTIONS):
            copy_file(f"{PREDICTIONS}/{name}")
    except FileNotFoundError:
        raise NoExperimentError(
            f"{store.where}: no experiment there (looked for {JOURNAL}). Give what --storage was, and the "
            "experiment's name: URI/NAME",
            "holds no experiment",
        ) from None
    except OSError as error:
        raise RequestError(f"{store.where}: cannot be read ({first_line(error, 200)})") from None
    return folder / JOURNAL


def _find_journal(path: Path) -> Path:
    journal = path if path.name == JOURNAL else path / JOURNAL
    try:
        if journal.is_file():
            return journal
        exists = os.path.lexists(path)
    except (OSError, ValueError) as error:  # longer than any path can be, or with a NUL in it
        raise RequestError(
            f"{path}: {first_line(error)}. Give the folder of an experiment, such as results/NAME"
        ) from None
    what = "there is no such folder"
    if exists:
        what = "the folder holds no experiment" if path.is_dir() else "is a file, no experiment's folder"
    for around in (path, path.parent):
        found = sorted(p.parent.name for p in around.glob(f"*/{JOURNAL}"))
        if found:
            hint = f" Experiments in {around}: {name_first(found, 10)}"
            break
    else:
        hint = " Give the folder of an experiment, such as results/NAME"
    message = f"{path}: {what} (looked for {journal}).{hint}"
    if exists:
        raise NoExperimentError(message, "holds no experiment" if path.is_dir() else "is a file")
    raise RequestError(message)


def _to_frame(table: Any) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas(types_mapper=_NULLABLE.get)
    return frame
