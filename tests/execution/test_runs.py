"""Whole searches through Ray: of real trials on real images, and of made-up ones for the rules."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import torchvision
from PIL import Image
from torchvision import transforms

import tune_swa
from helpers.narrow_resnet import build_narrow_resnet, narrow_environment
from helpers.programs import ROOT, RUN_SEARCH, run_program
from tune_swa.config import yaml_file
from tune_swa.experiment.state import ExperimentState
from tune_swa.results.columns import EPOCHS, comparison_columns, trials_columns

DIGITS = ROOT / "search_spaces" / "digits.yaml"
TIMES = ["train_seconds", "bn_seconds", "eval_seconds", "images_per_second"]
SMALL = [
    "--set", "train.epochs=6", "--set", "data.image_size=16", "--set", "data.train_images=100",
    "--set", "space.swa_start={int: [1, 4]}", "--set", "points=[]", "--gpus", "0",
    "--no-confirm",
    "--set", "scheduler={grace_epochs: 2}",
]  # fmt: skip


def run(*arguments: str, cwd: Path, check: bool = True, **more: str) -> subprocess.CompletedProcess[str]:
    """Run `run_search.py` as a user does, in a process of its own, with a narrow network."""
    environment = narrow_environment({**os.environ, **more})
    result = run_program([RUN_SEARCH, *arguments], cwd=cwd, env=environment)
    if check:
        assert result.returncode == 0, result.stdout + result.stderr
    return result


@pytest.fixture(scope="module")
def cache(module_path: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNE_SWA_CACHE", str(module_path / "cache"))
        yield


@pytest.fixture(scope="module")
def finished(module_path: Path, cache: None) -> tuple[Path, str]:
    """A finished search of real trials: TPE, ASHA, two slots where there are two cores."""
    folder = module_path / "finished"
    folder.mkdir()
    arguments = ["--space", str(DIGITS), *SMALL, "--trials", "6", "--results-dir", "out"]
    result = run(*arguments, cwd=folder)
    assert result.stderr == ""
    return folder / "out" / "digits", result.stdout


def test_it_ends_with_the_comparison_and_names_the_files(finished: tuple[Path, str]) -> None:
    folder, out = finished
    state = ExperimentState.read(folder / "journal.jsonl")
    assert state.finished == "completed"
    assert [t.status for t in state.of_kind("baseline")] == ["completed"] * 3
    assert len(state.of_kind("swa")) == 6
    assert "SWA_" in out
    assert "baseline lr=" in out
    assert "Files in out/digits/" in out
    named = re.findall(r"^  (\S+\.\w+)  ", out, re.MULTILINE)
    assert named == [
        "report.html", "trials.parquet", "epochs.parquet", "comparison.parquet", "optuna.log",
        "best_model.pt", "best_model.json", "space.yaml", "journal.jsonl",
    ]  # fmt: skip
    assert all((folder / name).exists() for name in named)
    assert not re.search(r"\x1b|WARNING|INFO|\(pid=|ray::|Trial .* errored", out)


def test_nothing_but_the_results_is_left(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    assert sorted(p.name for p in folder.iterdir()) == [
        ".lock", "best_model.json", "best_model.pt", "checkpoints", "comparison.parquet", "epochs.parquet",
        "journal.jsonl", "optuna.log", "report.html", "space.yaml", "tensorboard", "trials.parquet",
    ]  # fmt: skip
    state = ExperimentState.read(folder / "journal.jsonl")
    on_disk = sorted(str(p.relative_to(folder)) for p in (folder / "checkpoints").rglob("*.pt"))
    assert on_disk == sorted(c for t in state.trials.values() for c in t.checkpoints)
    assert len(on_disk) == 2  # the best baseline and the SWA trial that would be the finalist


def test_parquet_files_open_everywhere_with_the_documented_columns(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    experiment = yaml_file.load_experiment(folder / "space.yaml")
    documented = {
        "trials": trials_columns(experiment.parameters),
        "epochs": EPOCHS,
        "comparison": comparison_columns(experiment.parameters),
    }
    for name, columns in documented.items():
        path = folder / f"{name}.parquet"
        schema = pq.read_schema(path)
        assert schema.names == [c.name for c in columns]
        assert list(pd.read_parquet(path).columns) == schema.names
        described = duckdb.sql(f"DESCRIBE SELECT * FROM '{path}'").fetchall()
        assert [row[0] for row in described] == schema.names
        assert b"tune_swa.versions" in schema.metadata


def test_epochs_has_a_row_for_every_epoch_of_every_trial(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    results = tune_swa.load_results(folder)
    counts = results.epochs.groupby("trial").epoch.agg(["count", "nunique", "max"])
    for trial in results.trials.itertuples():
        row = counts.loc[trial.trial]
        assert row["count"] == row["nunique"] == row["max"] + 1 == trial.epochs
        assert trial.epochs == trial.epochs_trained + trial.epochs_shared
        shared = results.epochs[results.epochs.trial == trial.trial].shared_from.notna()
        assert shared.sum() == trial.epochs_shared
        assert trial.kind == "swa" or not shared.any()
    assert results.trials.epochs_shared.sum() > 0
    completed = results.trials[results.trials.status == "completed"]
    assert (completed.epochs == 6).all()


def test_the_best_model_is_the_best_configurations(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    about = json.loads((folder / "best_model.json").read_text())
    trials = tune_swa.load_results(folder).trials
    completed = trials[trials.status == "completed"]
    assert about["validation"]["accuracy"] == completed.accuracy.max()
    model = build_narrow_resnet(num_classes=about["num_classes"])
    model.load_state_dict(torch.load(folder / "best_model.pt", weights_only=True))
    from tune_swa.data.dataset import prepare_dataset

    data = prepare_dataset(yaml_file.load_experiment(folder / "space.yaml").data)
    model.eval()
    images = torch.from_numpy(data.images[data.val]).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        predicted = model(images).argmax(1).numpy()
    assert (predicted == data.labels[data.val]).mean() == about["validation"]["accuracy"]


def test_a_finished_search_is_not_started_over_but_extended(finished: tuple[Path, str], cache: None) -> None:
    folder, _ = finished
    cwd = folder.parent.parent
    again = ["--space", str(DIGITS), *SMALL, "--results-dir", "out"]
    refused = run(*again, "--trials", "6", cwd=cwd, check=False)
    assert refused.returncode == 2
    assert "Continue it with --resume" in refused.stderr
    changed = run(*again, "--trials", "6", "--resume", "--set", "train.batch_size=32", cwd=cwd, check=False)
    assert changed.returncode == 2
    assert "train.batch_size: was 64, is 32" in changed.stderr
    before = ExperimentState.read(folder / "journal.jsonl")
    run(*again, "--trials", "12", "--resume", cwd=cwd)
    after = ExperimentState.read(folder / "journal.jsonl")
    assert len(after.of_kind("swa")) == 12
    told = pq.read_schema(folder / "trials.parquet").metadata[b"tune_swa.space"]
    assert json.loads(told)["search"]["trials"] == 12
    assert tune_swa.load_results(folder).experiment == yaml_file.load_experiment(folder / "space.yaml")
    for name, trial in before.trials.items():  # not trained again
        assert after.trials[name].records == trial.records
        assert after.trials[name].attempts == trial.attempts == 1


def test_another_seed_gives_other_numbers(finished: tuple[Path, str], tmp_path: Path, cache: None) -> None:
    """That the same seed gives the same ones is in test_crashes.py."""
    folder, _ = finished
    arguments = ["--space", str(DIGITS), *SMALL, "--trials", "1", "--seed", "5", "--quiet"]
    run(*arguments, "--set", "space.lr=1e-3", "--set", "baseline.trials=1", cwd=tmp_path)
    first, other = (tune_swa.load_results(f) for f in (folder, tmp_path / "results" / "digits"))
    assert not set(first.trials.swa_lr.dropna()) & set(other.trials.swa_lr.dropna())
    same_lr = first.trials[(first.trials.kind == "baseline") & (first.trials.lr == 1e-3)].trial.item()
    assert list(first.curve(same_lr).train_loss) != list(other.curve("baseline-0000").train_loss)


# ----------------------------------------------------------------------------- the tutorial's search


@pytest.fixture(scope="module")
def photos(module_path: Path) -> Path:
    """Kaggle's layout with JPEGs of six colours, and a validation folder beside it."""
    root = module_path / "photos"
    rng = np.random.default_rng(0)
    for part, count in (("seg_train/seg_train", 5), ("val", 4), ("seg_test/seg_test", 1)):
        for c, label in enumerate(("buildings", "forest", "glacier", "mountain", "sea", "street")):
            folder = root / part / label
            folder.mkdir(parents=True)
            for i in range(count):
                colour = np.array([40 * c, 255 - 40 * c, 120])
                pixels = np.clip(colour + rng.normal(0, 60, (30, 30, 3)), 0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.jpg")
    return root


def test_swa_grid_on_the_cpu(photos: Path, tmp_path: Path, cache: None) -> None:
    """The tutorial's grid, shortened: 45 SWA trials and 3 baselines, and no point twice."""
    run(
        "--space", str(ROOT / "search_spaces" / "swa_grid.yaml"), "--gpus", "0", "--no-confirm",
        "--data-dir", str(photos),
        "--set", "train.epochs=4", "--set", "train.warmup_epochs=1", "--set", "data.image_size=16",
        "--set", "space.swa_start={choice: [0, 1, 2]}", "--set", "model.weights=none",
        "--set", "scheduler.asha=false", "--set", "train.batch_size=16", cwd=tmp_path,
    )  # fmt: skip
    trials = tune_swa.load_results(tmp_path / "results" / "swa_grid").trials
    assert trials.kind.value_counts().to_dict() == {"swa": 45, "baseline": 3}
    assert (trials.status == "completed").all()
    swa = trials[trials.kind == "swa"]
    assert len(swa[["lr", "swa_start", "swa_lr"]].drop_duplicates()) == 45


TUTORIAL_ROWS = {
    "SWA_9_0.05", "SWA_9_5e-4", "SWA_9_1e-4", "SWA_9_5e-5", "SWA_9_1e-5", "SWA_7_5e-5", "SWA_6_5e-5",
    "baseline",
}  # fmt: skip
"""Its seven SWA configurations and the baseline, with a tenth of the epochs."""


def test_the_tutorials_table_ends_with_its_eight_rows(photos: Path, tmp_path: Path, cache: None) -> None:
    """A tenth of the 120 epochs (fractions that say the same starts), and Kaggle's two folders alone."""
    for part in ("seg_train", "seg_test"):
        shutil.copytree(photos / part, tmp_path / "intel" / part)
    table = yaml_file.load_experiment(ROOT / "search_spaces" / "tutorial_table.yaml")
    assert [p["swa_start"] for p in table.points] == [90, 90, 90, 90, 90, 75, 60]
    shorter = [{**p, "swa_start": int(p["swa_start"]) // 10} for p in table.points]
    printed = run(
        "--space", str(ROOT / "search_spaces" / "tutorial_table.yaml"), "--gpus", "0", "--no-confirm",
        "--data-dir", "intel", "--set", "data.image_size=16", "--set", "model.weights=none",
        "--set", "train.epochs=12", "--set", "train.batch_size=16",
        "--set", "space.swa_start={choice: [6, 7, 9]}", "--set", f"points={json.dumps(shorter)}",
        cwd=tmp_path, COLUMNS="160",
    ).stdout  # fmt: skip
    folder = tmp_path / "results" / "tutorial_table"
    trials = pd.read_parquet(folder / "trials.parquet")
    assert trials.kind.value_counts().to_dict() == {"swa": 7, "baseline": 1}
    assert (trials.status == "completed").all()
    assert trials.accuracy.notna().all()
    comparison = pd.read_parquet(folder / "comparison.parquet")
    assert set(comparison.trial) == set(trials.trial)
    assert sorted(comparison["rank"]) == list(range(1, 9))
    labels = set(comparison.configuration)
    assert {label.split()[0] for label in labels} == TUTORIAL_ROWS
    page = (folder / "report.html").read_text()
    for label in labels:
        assert re.search(rf"^\W*\d+ +{re.escape(label)} +completed ", printed, re.MULTILINE), printed
        assert f">{label}<" in page


def test_every_epochs_accuracy_from_its_checkpoint_by_torchvision_alone(
    photos: Path, tmp_path: Path, cache: None
) -> None:
    """keep_checkpoints: all; each accuracy recomputed with ImageFolder, Resize and ToTensor."""
    run(
        "--space", str(ROOT / "search_spaces" / "tutorial_table.yaml"), "--gpus", "0", "--no-confirm",
        "--data-dir", str(photos), "--set", "data.image_size=24",
        "--set", "train.epochs=5", "--set", "train.batch_size=16",
        "--set", "space.swa_start={choice: [0, 1, 3]}", "--set", "model.weights=none", "--trials", "3",
        "--set", "points=[{swa_start: 1, swa_lr: 5e-5, train.warmup_epochs: 0}]",
        "--set", "search.keep_checkpoints=all", cwd=tmp_path,
    )  # fmt: skip
    folder = tmp_path / "results" / "tutorial_table"
    epochs = pd.read_parquet(folder / "epochs.parquet")
    assert len(epochs) == 4 * 5
    transform = transforms.Compose([transforms.Resize((24, 24)), transforms.ToTensor()])
    validation = torchvision.datasets.ImageFolder(str(photos / "val"), transform)
    images = torch.stack([image for image, _ in validation])
    labels = torch.tensor(validation.targets)
    for row in epochs.itertuples():
        # a trial begins to average after an epoch that it shares, so that average is its own
        own = row.phase == "branch" or pd.isna(row.shared_from)
        of = row.trial if own else row.shared_from
        path = folder / "checkpoints" / of / f"epoch-{row.epoch:05d}.pt"
        saved = torch.load(path, weights_only=True)
        model = build_narrow_resnet(num_classes=6)
        for weights, expected in (
            (saved["averaging"]["average"] if saved["averaging"] else saved["model"], row.accuracy),
            (saved["model"], row.live_accuracy),
        ):
            model.load_state_dict(weights)
            model.eval()
            with torch.no_grad():
                found = (model(images).argmax(1) == labels).double().mean().item()
            assert found == expected, path


# --------------------------------------------------------------------------------- made-up trials


def search_made_up(
    folder: Path, space: dict[str, Any], sampler: str, trials: int | None, **changes: Any
) -> Any:
    """A search through Ray whose trials report curves without training."""
    from ray import cloudpickle
    from rich.console import Console

    from helpers import ray_trials
    from tune_swa.config import Experiment
    from tune_swa.execution import trial_loop
    from tune_swa.execution.request import Request
    from tune_swa.execution.run import run_search

    experiment = Experiment.model_validate(
        {
            "name": sampler,
            "data": {"image_size": 8, "train_images": 50},
            "train": {"epochs": 8},
            "space": space,
            "search": {"sampler": sampler, "trials": trials},
            "scheduler": {"grace_epochs": 2},
            **changes,
        }
    )
    cloudpickle.register_pickle_by_value(ray_trials)  # workers cannot import the tests
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial_loop, "train_trial", ray_trials.made_up_trial)
        request = Request(
            experiment, results_dir=folder, gpus=0, quiet=True, confirm=False, console=Console(quiet=True)
        )
        return run_search(request)


FINITE = {
    "lr": {"choice": [1e-3, 1e-2]},
    "swa_start": {"choice": [1, 3, 5]},
    "swa_lr": {"choice": [1e-3, 1e-2]},
}
CONTINUOUS = {
    "lr": {"log_uniform": [1e-4, 1e-1]},
    "swa_start": {"int": [1, 6]},
    "swa_lr": {"log_uniform": [1e-4, 1e-1]},
}


@pytest.mark.parametrize("sampler", ["grid", "random", "tpe", "qmc", "gp", "cmaes"])
def test_every_sampler_finishes_a_search_through_ray(
    sampler: str, tmp_path: Path, cache: None, one_ray: None
) -> None:
    grid = sampler == "grid"
    outcome = search_made_up(tmp_path, FINITE if grid else CONTINUOUS, sampler, None if grid else 12)
    swa = outcome.state.of_kind("swa")
    assert len(swa) == 12
    assert all(t.ended for t in outcome.state.trials.values())
    assert any(t.status == "completed" for t in swa)
    assert {t.status for t in outcome.state.of_kind("baseline")} == {"completed"}
    points = {tuple(t.params.items()) for t in swa}
    assert len(points) == 12
    if grid:
        assert outcome.state.finished == "completed"  # exhausted, and ended by itself


def test_failures_are_told_and_the_search_goes_on(tmp_path: Path, cache: None, one_ray: None) -> None:
    """A loss that is not finite, a function that returns early, a worker that dies always, and once."""
    space = {"lr": 1e-2, "swa_start": {"choice": [1, 3]}, "swa_lr": 1e-2}
    space["train.weight_decay"] = {"choice": [0.0, 0.1, 0.2, 0.3, 0.4]}
    outcome = search_made_up(
        tmp_path,
        space,
        "grid",
        None,
        search={"sampler": "grid", "max_failures": 1},
        scheduler={"asha": False},
    )
    by_decay: dict[float, set[tuple[str, str | None]]] = {}
    for trial in outcome.state.trials.values():
        by_decay.setdefault(trial.params["train.weight_decay"], set()).add((trial.status, trial.error))
    assert by_decay[0.0] == {("completed", None)}
    assert by_decay[0.1] == {("failed", "the training loss is nan in epoch 1")}
    assert by_decay[0.2] == {("failed", "the worker ended without finishing its epochs")}
    [(status, error)] = by_decay[0.3]
    assert status == "failed"
    assert error is not None
    assert "its worker process died (2 times): Worker" in error
    # one that died once was started again, and has every epoch once
    assert by_decay[0.4] == {("completed", None)}
    retried = [t for t in outcome.state.trials.values() if t.params["train.weight_decay"] == 0.4]
    assert [t.attempts for t in retried] == [2] * 3
    assert all([r["epoch"] for r in t.records] == list(range(8)) for t in retried)


def test_all_trials_failing_is_exit_1_with_the_first_reason(
    tmp_path: Path, cache: None, one_ray: None
) -> None:
    from tune_swa.errors import SearchFailed

    space = {**FINITE, "train.weight_decay": 0.1}
    with pytest.raises(
        SearchFailed, match=r"no trial of grid completed\. The first reason: the training loss is nan"
    ):
        search_made_up(tmp_path, space, "grid", 2)


def test_a_search_takes_its_name_on_the_storage_as_it_begins(
    tmp_path: Path, cache: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is published: two searches of one name would mix their checkpoints."""
    from contextlib import nullcontext

    from tune_swa.errors import Interrupted, RequestError
    from tune_swa.execution import ray_runtime, run, session
    from tune_swa.execution.request import Request
    from tune_swa.execution.slots import Machine

    monkeypatch.setattr(ray_runtime, "start_local_ray", lambda *_: nullcontext())

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "TrialLoop", interrupted)
    monkeypatch.setattr(Machine, "local", lambda: Machine(0, 1))

    def begin(results: str) -> None:
        request = Request(
            yaml_file.load_experiment(DIGITS, ["data.image_size=8", "data.train_images=50"]),
            tmp_path / results,
            storage=str(tmp_path / "shared"),
            quiet=True,
        )
        run.run_search(request)

    with pytest.raises(Interrupted):
        begin("mine")
    with pytest.raises(RequestError, match=r"--storage .*shared/digits: holds a search of this name already"):
        begin("yours")
