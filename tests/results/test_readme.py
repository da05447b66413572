"""results/README.md says what the code does, and its examples run."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import pytest

import tune_swa
from helpers.journals import usual
from tune_swa.results.api import load_results
from tune_swa.results.columns import (
    AVERAGES,
    ENSEMBLES,
    EPOCHS,
    PREDICTIONS,
    Column,
    comparison_columns,
    confirm_columns,
    trials_columns,
)
from tune_swa.results.export import write_tables
from tune_swa.results.merge_columns import MERGES, SOUPS
from tune_swa.results.provenance import build_metadata
from tune_swa.tracking.optuna_log import StudyFile

README = Path(__file__).parents[2] / "results" / "README.md"


def section(title: str) -> str:
    return README.read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize(
    ("file", "columns"),
    [
        ("trials.parquet", trials_columns(())),
        ("epochs.parquet", EPOCHS),
        ("comparison.parquet", comparison_columns(())),
        ("confirm.parquet", confirm_columns(())),
        ("predictions.parquet", PREDICTIONS),
        ("averages.parquet", AVERAGES),
        ("ensembles.parquet", ENSEMBLES),
        ("soups.parquet", SOUPS),
        ("merges.parquet", MERGES),
    ],
)
def test_the_columns_are_those_of_the_code(file: str, columns: tuple[Column, ...]) -> None:
    documented = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*) \|$", section(file), re.M)
    assert documented == [(c.name, c.type, c.meaning) for c in columns]


def test_the_metadata_are_those_of_the_code(tmp_path: Path) -> None:
    text = README.read_text()
    listed = text.split("that begin with `tune_swa.`:")[1].split(" (JSON")[0]
    written = [key.removeprefix("tune_swa.") for key in build_metadata(usual(tmp_path).state())]
    assert re.findall(r"`(\w+)`", listed) == written


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = usual(tmp_path / "results" / "digits", "digits")
    write_tables(writer.state(), writer.path.parent)
    StudyFile()(writer.state(), writer.path.parent)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tune_swa, "load_results", load_results, raising=False)
    python = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    (sql,) = re.findall(r"```sql\n(.*?)```", README.read_text(), re.S)
    assert len(python) == 3
    for code in python:
        exec(code, {})
    with duckdb.connect() as connection:
        assert connection.execute(sql).fetchall() == [
            (0, 1, pytest.approx(0.01)),
            (1, 1, pytest.approx(0.03)),
        ]
