"""Columns, types and values of the tables, and where they say they come from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from helpers.journals import Writer, experiment, usual
from tune_swa.errors import RequestError
from tune_swa.experiment.state import ExperimentState
from tune_swa.results.columns import EPOCHS, comparison_columns, trials_columns
from tune_swa.results.tables import build_tables

EVERY_TYPE = {
    "lr": 1e-3,
    "swa_start": {"choice": [0, 1]},
    "swa_lr": 1e-3,
    "train.batch_size": {"choice": [32, 64]},
    "train.weight_decay": {"choice": [0, 1e-4]},
    "train.optimizer": {"choice": ["adam", "sgd"]},
    "train.augment": {"choice": [[], ["hflip", "crop"]]},
    "averaging.bn_batches": {"choice": [None, 5]},
    "averaging.anneal_epochs": {"int": [1, 9]},
}


def rows(table: pa.Table, key: str = "trial") -> dict[str, dict[str, Any]]:
    return {row[key]: row for row in table.to_pylist()}


def test_columns_stand_in_the_order_of_their_list(tmp_path: Path) -> None:
    spec = experiment(space=EVERY_TYPE)
    tables = build_tables(Writer(tmp_path, spec).state())
    for table, columns in (
        (tables.trials, trials_columns(spec.parameters)),
        (tables.epochs, EPOCHS),
        (tables.comparison, comparison_columns(spec.parameters)),
    ):
        assert table.column_names == [c.name for c in columns]
        assert table.schema.types == [pa.type_for_alias(c.type) for c in columns]
        assert [f.metadata[b"description"].decode() for f in table.schema] == [c.meaning for c in columns]
        assert len(set(table.column_names)) == table.num_columns
        assert table.num_rows == 0


def test_a_trial(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.suggest("swa-0", {"lr": 1e-3, "swa_start": 1, "swa_lr": 5e-4})
    writer.start("swa-0")
    writer.epoch("swa-0", 0, 0.5, shared_from="base-0")
    writer.epoch("swa-0", 1, 0.9, shared_from="base-0")
    writer.epoch("swa-0", 2, 0.9, averaged=1, checkpoint="checkpoints/swa-0/epoch-00002.pt")
    writer.epoch("swa-0", 3, 0.8, nll=0.25, averaged=2, checkpoint="checkpoints/swa-0/epoch-00003.pt")
    writer.end("swa-0")
    (row,) = build_tables(writer.state()).trials.to_pylist()
    assert row == {
        "trial": "swa-0",
        "stage": "search",
        "kind": "swa",
        "seed": 7,
        "lr": 1e-3,
        "swa_start": 1,
        "swa_lr": 5e-4,
        "status": "completed",
        "epochs": 4,
        "epochs_trained": 2,
        "epochs_shared": 2,
        "accuracy": 0.8,
        "best_accuracy": 0.9,
        "best_epoch": 1,  # the first of two
        "nll": 0.25,
        "ece": 0.05,
        "live_accuracy": pytest.approx(0.79),
        "delta_vs_baseline": None,
        "delta_vs_same_lr": None,
        "seconds": 5.5,  # two epochs of 2 + 0.5 + 0.25
        "device": "cpu",
        "checkpoint": "checkpoints/swa-0/epoch-00003.pt",
        "error": None,
    }


@pytest.mark.parametrize("status", ["pruned", "failed", "interrupted", None])
def test_an_unfinished_trial_shows_its_last_epoch(tmp_path: Path, status: str | None) -> None:
    writer = usual(tmp_path)
    writer.trial("swa-9", {"lr": 1e-3, "swa_start": 2, "swa_lr": 1e-3}, [0.3, 0.4], status=status, error="e")
    row = rows(build_tables(writer.state()).trials)["swa-9"]
    assert row["status"] == (status or "running")
    assert (row["epochs"], row["accuracy"], row["delta_vs_baseline"]) == (2, 0.4, None)
    assert row["error"] == (None if status is None else "e")


def test_a_trial_that_has_not_started(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.suggest("base-0", {"lr": 1e-3})
    row = rows(build_tables(writer.state()).trials)["base-0"]
    assert row["status"] == "running"
    absent = ("accuracy", "best_accuracy", "best_epoch", "nll", "device", "checkpoint", "swa_start", "swa_lr")
    assert [row[name] for name in absent] == [None] * len(absent)
    assert (row["epochs"], row["seconds"]) == (0, 0.0)


def test_shared_epochs_have_no_times(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.trial("base-0", {"lr": 1e-3}, [0.5, 0.6])
    writer.suggest("swa-0", {"lr": 1e-3, "swa_start": 1, "swa_lr": 5e-4})
    writer.epoch("swa-0", 0, 0.5, shared_from="base-0")
    epochs = build_tables(writer.state()).epochs
    own, _, shared = epochs.to_pylist()
    times = ("train_seconds", "bn_seconds", "eval_seconds", "images_per_second")
    assert [own[t] for t in times] == [2.0, 0.5, 0.25, 200.0]
    assert [shared[t] for t in times] == [None] * 4
    assert (own["shared_from"], shared["shared_from"]) == (None, "base-0")
    assert shared == {**own, "trial": "swa-0", "shared_from": "base-0", **dict.fromkeys(times)}


def test_parameters_of_every_type(tmp_path: Path) -> None:
    spec = experiment(space=EVERY_TYPE)
    writer = Writer(tmp_path, spec)
    params = {
        "swa_start": 1,
        "train.batch_size": 32,
        "train.weight_decay": 0,
        "train.optimizer": "sgd",
        "train.augment": ["hflip", "crop"],
        "averaging.bn_batches": 5,
        "averaging.anneal_epochs": 3,
    }
    writer.trial("swa-0", params, [0.9])
    changed: dict[str, Any] = {"train.augment": [], "averaging.bn_batches": None, "train.weight_decay": 1e-4}
    writer.trial("swa-1", {**params, **changed}, [0.8])
    writer.trial("base-0", {n: v for n, v in params.items() if n.startswith("train.")}, [0.7])
    tables = build_tables(writer.state())
    for table in (tables.trials, tables.comparison):
        assert table.schema.field("train.weight_decay").type == pa.float64()
        assert table.schema.field("train.batch_size").type == pa.int64()
        assert table.schema.field("averaging.anneal_epochs").type == pa.int64()
        assert table.schema.field("averaging.bn_batches").type == pa.int64()
        found = rows(table)
        assert (found["swa-0"]["lr"], found["swa-0"]["swa_start"], found["swa-0"]["swa_lr"]) == (
            1e-3,
            1,
            1e-3,
        )
        assert found["swa-0"]["train.augment"] == "hflip+crop"
        assert found["swa-1"]["train.augment"] == "none"
        assert (found["swa-0"]["averaging.bn_batches"], found["swa-1"]["averaging.bn_batches"]) == (5, None)
        assert (found["base-0"]["lr"], found["base-0"]["swa_start"]) == (1e-3, None)
        assert found["base-0"]["averaging.anneal_epochs"] is None
        assert found["base-0"]["train.optimizer"] == "sgd"


def test_comparison(tmp_path: Path) -> None:
    writer = usual(tmp_path)
    writer.trial("swa-9", {"lr": 1e-3, "swa_start": 2, "swa_lr": 1e-3}, [0.3], status="pruned")
    found = build_tables(writer.state()).comparison.to_pylist()
    assert [r["rank"] for r in found] == [1, 2, 3, 4, None]
    assert [r["trial"] for r in found] == ["swa-0", "base-0", "swa-1", "base-1", "swa-9"]
    assert [r["best_baseline"] for r in found] == [False, True, False, False, False]
    assert [r["seeds"] for r in found] == [0] * 5  # no fresh ones yet
    assert found[0]["configuration"] == "SWA_1_5e-4 lr=1e-3"
    assert {r["baseline"] for r in found} == {"baseline lr=1e-3"}
    assert {r["baseline_accuracy"] for r in found} == {0.9}
    assert {r["images"] for r in found} == {200}
    assert {r["mean"] for r in found} == {None}


def test_a_comparison_without_a_baseline_marks_none(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.trial("swa-0", {"lr": 1e-3, "swa_start": 2, "swa_lr": 1e-3}, [0.3])
    (row,) = build_tables(writer.state()).comparison.to_pylist()
    assert (row["best_baseline"], row["baseline"], row["baseline_accuracy"]) == (False, None, None)


def test_every_file_says_where_it_comes_from(tmp_path: Path) -> None:
    spec = experiment(baseline={"points": [{"lr": 1e-3}]}, data={"split_seed": 3})
    for table in build_tables(Writer(tmp_path, spec).state()):
        if table is None:  # of fresh seeds, and there are none
            continue
        about = {k.decode(): v.decode() for k, v in table.schema.metadata.items()}
        assert about["tune_swa.version"] == "0.1.0"
        assert about["tune_swa.experiment"] == "made-up"
        assert about["tune_swa.created"].endswith("+00:00")
        assert json.loads(about["tune_swa.space"]) == spec.model_dump(mode="json", by_alias=True)
        assert json.loads(about["tune_swa.seeds"]) == {"training": 7, "sampler": 7, "split": 3}
        assert json.loads(about["tune_swa.versions"])["torch"] == "2.0"
        assert about["tune_swa.data_fingerprint"] == "f00d"
        assert about["tune_swa.weights"] == "cafe"
        assert json.loads(about["tune_swa.data"])["val"] == 200
        assert json.loads(about["tune_swa.hardware"])["cpu"] == "made-up"
        assert json.loads(about["tune_swa.numerics"])["precision"] == "fp32"


def test_an_empty_journal_is_refused() -> None:
    with pytest.raises(RequestError, match="has not started yet"):
        build_tables(ExperimentState())


def test_a_description_of_another_version_is_refused(tmp_path: Path) -> None:
    state = Writer(tmp_path).state()
    assert state.header is not None
    state.header.spec["novelty"] = 1
    with pytest.raises(RequestError, match=r"tune_swa 0\.1\.0 .* does not read"):
        build_tables(state)


def test_counts_at_scale(tmp_path: Path) -> None:
    writer = Writer(tmp_path, experiment(train={"epochs": 50}))
    state = writer.state()
    template = usual(tmp_path / "template").state().trials["swa-0"]
    for index in range(200):
        records = [{**template.records[0], "epoch": e} for e in range(50 - index % 7)]
        params = {**template.params, "swa_lr": 1e-3 + index * 1e-6}
        state.trials[f"swa-{index}"] = type(template)(
            f"swa-{index}", "swa", "search", params, 7, "x", index, "t", 2, "completed", records
        )
    tables = build_tables(state)
    assert tables.trials.num_rows == tables.comparison.num_rows == 200
    assert tables.epochs.num_rows == sum(len(t.records) for t in state.trials.values())
    assert sum(tables.trials["epochs"].to_pylist()) == tables.epochs.num_rows
    assert tables.epochs["epoch"].to_pylist()[:50] == list(range(50))


def test_columns_are_cheap_to_import() -> None:
    heavy = "[m for m in ('pyarrow', 'pandas', 'rich', 'pydantic') if m in sys.modules]"
    code = f"import sys, tune_swa.results.columns; print({heavy})"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"
