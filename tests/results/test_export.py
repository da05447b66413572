"""Files on the disk: whole or not there, and readable by everyone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow.parquet as pq
import pytest

from helpers.journals import Writer, experiment, usual
from tune_swa.config import yaml_file
from tune_swa.results.columns import EPOCHS, Column, comparison_columns, trials_columns
from tune_swa.results.export import write_space, write_tables
from tune_swa.results.tables import build_tables

FILES = {"trials.parquet", "epochs.parquet", "comparison.parquet"}
DUCKDB = {"string": "VARCHAR", "int64": "BIGINT", "float64": "DOUBLE", "bool": "BOOLEAN"}


def columns(stem: str) -> tuple[Column, ...]:
    parameters = experiment().parameters
    lists = {
        "trials": trials_columns(parameters),
        "epochs": EPOCHS,
        "comparison": comparison_columns(parameters),
    }
    return lists[stem]


def query(sql: str) -> list[Any]:
    with duckdb.connect() as connection:
        return connection.execute(sql).fetchall()


@pytest.mark.parametrize("stem", ["trials", "epochs", "comparison"])
def test_three_readers_see_the_same(tmp_path: Path, stem: str) -> None:
    state = usual(tmp_path).state()
    write_tables(state, tmp_path)
    file = tmp_path / f"{stem}.parquet"
    expected = getattr(build_tables(state), stem)
    read = pq.read_table(file)
    assert read.equals(expected)
    assert read.schema.equals(expected.schema, check_metadata=True)
    names = [c.name for c in columns(stem)]
    assert list(pd.read_parquet(file).columns) == names
    described = query(f"DESCRIBE SELECT * FROM '{file}'")
    assert [(d[0], d[1]) for d in described] == [(c.name, DUCKDB[c.type]) for c in columns(stem)]
    counted = query(f"SELECT count(*) FROM '{file}'")
    assert counted == [(expected.num_rows,)]
    assert len(pd.read_parquet(file)) == expected.num_rows


def test_an_experiment_without_trials(tmp_path: Path) -> None:
    write_tables(Writer(tmp_path).state(), tmp_path / "new")
    for file in FILES:
        read = pq.read_table(tmp_path / "new" / file)
        assert read.num_rows == 0
        assert list(pd.read_parquet(tmp_path / "new" / file).columns) == read.column_names


def test_only_the_files_remain(tmp_path: Path) -> None:
    state = usual(tmp_path).state()
    write_tables(state, tmp_path / "out")
    write_tables(state, tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == FILES


def test_a_failure_leaves_the_old_files_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = usual(tmp_path)
    out = tmp_path / "out"
    write_tables(writer.state(), out)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    writer.trial("base-2", {"lr": 2e-3}, [0.99])
    write_table, calls = pq.write_table, []

    def full_disk(table: Any, file: Any, **options: Any) -> None:
        calls.append(file)
        if len(calls) == 2:
            file.write_bytes(b"PAR1")
            raise OSError("No space left on device")
        write_table(table, file, **options)

    monkeypatch.setattr(pq, "write_table", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_tables(writer.state(), out)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_the_new_name_is_taken_only_by_a_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renamed = []

    def replace(source: Path, target: Path) -> Path:
        assert {p.name for p in (tmp_path / "out").iterdir()} >= {source.name}
        renamed.append((pq.read_table(source).num_rows, target.name, target.exists()))
        return source.rename(target)

    monkeypatch.setattr(Path, "replace", replace)
    write_tables(usual(tmp_path).state(), tmp_path / "out")
    assert renamed == [
        (4, "trials.parquet", False),
        (16, "epochs.parquet", False),
        (4, "comparison.parquet", False),
    ]


SPACES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "name that is a number": {"name": "1e5"},
    "name of digits": {"name": "08"},
    "name that is a word of YAML": {"name": "null"},
    "path with oddities": {"data": {"dataset": "folder", "path": "C:\\x: y # 'z' \u00e9"}},
    "fixed baselines": {"baseline": {"points": [{"lr": 1e-3}]}},
    "number of baselines": {"baseline": {"trials": 3}},
    "points": {"points": [{"lr": 1e-3, "swa_start": 0.25, "swa_lr": "5e-4"}]},
    "every domain": {
        "space": {
            "lr": {"uniform": [1e-5, 1e-3]},
            "swa_start": {"int": [0.25, 0.5]},
            "swa_lr": {"constant": 1e-7},
            "train.augment": {"choice": [[], ["hflip", "crop"]]},
            "averaging.bn_batches": {"choice": [None, 5]},
            "train.unit": {"choice": ["epoch", "batch"]},
            "train.momentum": {"uniform": [0, 0.9], "step": 0.1},
            "averaging.anneal_epochs": {"int": [1, 64], "log": True},
            "train.crop_padding": 3,
        }
    },
    "rungs": {"scheduler": {"trunk_rungs": [0, 1], "branch_rungs": [2], "reduction_factor": 1e3}},
}


@pytest.mark.parametrize("changes", SPACES.values(), ids=SPACES.keys())
def test_a_space_reads_back_as_the_same_experiment(tmp_path: Path, changes: dict[str, Any]) -> None:
    spec = experiment(**changes)
    path = tmp_path / "space.yaml"
    write_space(spec, path)
    again = yaml_file.load_experiment(path)
    assert again.model_dump() == spec.model_dump()
    assert again.fixed_settings() == spec.fixed_settings()
    assert (again.parameters, again.constants) == (spec.parameters, spec.constants)
    assert (again.swa_points, again.baseline_points) == (spec.swa_points, spec.baseline_points)
    write_space(again, tmp_path / "again.yaml")
    assert (tmp_path / "again.yaml").read_text() == path.read_text()


def test_a_space_is_readable(tmp_path: Path) -> None:
    write_space(experiment(), tmp_path / "space.yaml")
    text = (tmp_path / "space.yaml").read_text()
    assert text.startswith("name: made-up\ndata:\n  dataset: digits\n")
    assert "  lr:\n    choice: [0.001, 0.003]\n" in text
    assert text.index("\ntrain:") < text.index("\nspace:") < text.index("\nsearch:")
    assert [p.name for p in tmp_path.iterdir()] == ["space.yaml"]
