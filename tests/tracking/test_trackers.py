"""What TensorBoard, optuna-dashboard, MLflow and Weights & Biases show of a search, asked themselves."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from wandb.proto import wandb_internal_pb2

from helpers.narrow_resnet import narrow_environment
from helpers.programs import RUN_SEARCH, run_program
from helpers.simulated_ray import Driver
from tune_swa import signals
from tune_swa.cli import main, run_search
from tune_swa.config import Experiment
from tune_swa.errors import RequestError
from tune_swa.execution import run
from tune_swa.execution.outputs import open_result_writer
from tune_swa.execution.request import Request
from tune_swa.experiment.state import ExperimentState
from tune_swa.experiment.updates import SCALARS
from tune_swa.monitoring.result_writer import ResultWriter
from tune_swa.tracking.base import TrackedRun
from tune_swa.tracking.trackers import TrackerThread

TINY = """
name: tiny
data: {dataset: digits, image_size: 8, train_images: 40, val_fraction: 0.2, test_fraction: 0.9}
train: {epochs: 4, batch_size: 20}
averaging: {anneal_epochs: 1}
averages: [{method: swa}, {method: ema, horizon: 1}]
space: {lr: 1e-2, swa_start: {choice: [1, 2]}, swa_lr: 1e-2}
search: {sampler: grid}
scheduler: {asha: false}
"""


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's own settings count, and nothing leaves the machine."""
    for name in [*os.environ]:
        if name.startswith(("MLFLOW_", "WANDB_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")


# ------------------------------------------------------------------------------ asking the tools


def in_mlflow(folder: Path, name: str = "tiny") -> dict[str, tuple[str, list[dict[str, float]]]]:
    """Of each run its status and its epochs, whose order is that of the steps."""
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    found = {}
    for tracked in client.search_runs([experiment.experiment_id]):
        history = {key: client.get_metric_history(tracked.info.run_id, key) for key in SCALARS}
        steps = [metric.step for metric in history["accuracy"]]
        assert steps == list(range(len(steps)))
        epochs = [{key: metrics[step].value for key, metrics in history.items()} for step in steps]
        assert tracked.info.run_name not in found
        found[tracked.info.run_name] = (tracked.info.status, epochs)
    return found


def in_wandb(folder: Path) -> dict[str, list[list[dict[str, float]]]]:
    """Of each run the scalars of the epochs of every session that had it."""
    found: dict[str, list[list[dict[str, float]]]] = {}
    for name, epochs in read_wandb(folder):
        found.setdefault(name, []).append([{key: epoch[key] for key in SCALARS} for epoch in epochs])
    return found


def read_wandb(folder: Path) -> Iterator[tuple[str, list[dict[str, float]]]]:
    """Name and epochs of each run and session, from the files that `wandb sync` sends."""
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        name, epochs = "", []
        for data in _records(path.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(data)
            if record.WhichOneof("record_type") == "run":
                name = record.run.display_name
            elif record.WhichOneof("record_type") == "history":
                values = {(i.key or i.nested_key[0]): json.loads(i.value_json) for i in record.history.item}
                assert values["_step"] == len(epochs)
                epochs.append(values)
        yield name, epochs


def _records(data: bytes) -> Iterator[bytes]:
    """The records of a log in LevelDB's format: blocks of 32 KB, pieces with a head of 7 bytes."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or its last piece
            yield whole
            whole = b""


def epochs_of(state: ExperimentState, name: str) -> list[dict[str, float]]:
    return [{key: record[key] for key in SCALARS} for record in state.trials[name].records]


# -------------------------------------------------------------------------------- a real search


@pytest.fixture(scope="module")
def searched(module_path: Path, decoded: None) -> tuple[Path, str]:
    folder = module_path
    (folder / "space.yaml").write_text(TINY)
    program = [RUN_SEARCH, "--space", "space.yaml", "--no-confirm"]
    own = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "WANDB_"))}
    result = run_program(
        [*program, "--gpus", "0", "--cpus", "1", "--log", "mlflow", "--log", "wandb"],
        cwd=folder, env=narrow_environment({**own, "WANDB_MODE": "offline"}),
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    return folder / "results" / "tiny", result.stdout


def test_mlflow_and_wandb_have_every_epoch_of_every_trial(searched: tuple[Path, str]) -> None:
    folder, out = searched
    assert "wandb:" not in out
    assert not (folder / "search.log").exists()
    state = ExperimentState.read(folder / "journal.jsonl")
    assert any(r["shared_from"] for t in state.trials.values() for r in t.records)
    expected = {name: epochs_of(state, name) for name in state.trials}
    assert len(expected) == 3
    assert in_mlflow(folder) == {name: ("FINISHED", epochs) for name, epochs in expected.items()}
    assert in_wandb(folder) == {name: [epochs] for name, epochs in expected.items()}


def test_mlflow_and_wandb_have_the_scores_of_every_average(searched: tuple[Path, str]) -> None:
    folder, _ = searched
    state = ExperimentState.read(folder / "journal.jsonl")
    expected = {
        (name, epoch, f"{label}/{metric}"): score[metric]  # type: ignore[literal-required]
        for name, trial in state.trials.items()
        for epoch, scores in trial.scores.items()
        for label, score in scores.items()
        for metric in ("accuracy", "nll", "ece")
    }
    assert {key[2] for key in expected} >= {"swa/accuracy", "ema-1/nll"}
    client, found = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}"), {}
    (experiment,) = client.search_experiments(filter_string="name = 'tiny'")
    for tracked in client.search_runs([experiment.experiment_id]):
        for key in (key for key in tracked.data.metrics if "/" in key):
            for metric in client.get_metric_history(tracked.info.run_id, key):
                found[str(tracked.info.run_name), metric.step, key] = metric.value
    assert found == expected
    logged = {
        (name, epoch, key): value
        for name, epochs in read_wandb(folder)
        for epoch, values in enumerate(epochs)
        for key, value in values.items()
        if "/" in key
    }
    assert logged == expected


@contextmanager
def served(program: str, *arguments: str) -> Iterator[str]:
    """Run a server on a port of the loopback interface; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [str(Path(sys.executable).parent / program), *arguments, "--host", "127.0.0.1", "--port", port]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def ask(address: str, about: dict[str, Any] | None = None, *, seconds: float = 60) -> Any:
    """Ask until there is an answer that is not empty: servers take their time to start and to load."""
    data = None if about is None else json.dumps(about).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                if found := json.load(answer):
                    return found
        except OSError:
            pass
        assert time.monotonic() < end, f"{address} gives no answer"
        time.sleep(0.2)


def test_tensorboard_shows_the_curves_and_the_settings(searched: tuple[Path, str]) -> None:
    folder, out = searched
    assert "tensorboard " in out
    state = ExperimentState.read(folder / "journal.jsonl")
    with served("tensorboard", "--logdir", str(folder / "tensorboard")) as address:
        assert set(ask(f"{address}/data/runs")) == set(state.trials)
        for name, trial in state.trials.items():
            for key in ("accuracy", "learning_rate", "n_averaged"):
                curve = ask(f"{address}/data/plugin/scalars/scalars?run={name}&tag={key}")
                assert [(step, pytest.approx(value)) for _, step, value in curve] == [
                    (record["epoch"], record[key]) for record in trial.records
                ]
        about = {
            "experimentName": "", "startIndex": 0, "sliceSize": 10,
            "allowedStatuses": ["STATUS_SUCCESS"], "colParams": [],
        }  # fmt: skip
        groups = ask(f"{address}/data/plugin/hparams/session_groups", about)["sessionGroups"]
        assert {g["name"]: g["hparams"].get("swa_start") for g in groups} == {
            t.name: t.params.get("swa_start") for t in state.trials.values()
        }
        final = {
            g["name"]: next(m["value"] for m in g["metricValues"] if m["name"]["tag"] == "accuracy")
            for g in groups
        }
        assert final == {
            t.name: pytest.approx(t.records[-1]["accuracy"], rel=1e-6) for t in state.trials.values()
        }


def test_optuna_dashboard_shows_the_trials(searched: tuple[Path, str]) -> None:
    folder, out = searched
    assert "optuna.log " in out
    state = ExperimentState.read(folder / "journal.jsonl")
    with served("optuna-dashboard", str(folder / "optuna.log")) as address:
        studies = ask(f"{address}/api/studies")["study_summaries"]
        assert [s["study_name"] for s in studies] == ["tiny", "tiny-baseline"]
        for study, kind in zip(studies, ("swa", "baseline"), strict=True):
            trials = ask(f"{address}/api/studies/{study['study_id']}")["trials"]
            ours = state.of_kind(kind)  # type: ignore[arg-type]
            assert [(t["state"], t["values"]) for t in trials] == [
                ("Complete", [t.records[-1]["accuracy"]]) for t in ours
            ]
            assert [[v["value"] for v in t["intermediate_values"]] for t in trials] == [
                [r["accuracy"] for r in t.records] for t in ours
            ]
            names = [{a["key"]: a["value"] for a in t["user_attrs"]}["trial"] for t in trials]
            assert [name.strip('"') for name in names] == [t.name for t in ours]


# ------------------------------------------------------------------------------ without training

SPACE = {"lr": 1e-2, "swa_start": {"choice": [1, 2]}, "swa_lr": 1e-2}


def driver(folder: Path) -> Driver:
    spec = {"name": "tiny", "train": {"epochs": 4}, "space": SPACE, "search": {"sampler": "grid"}}
    return Driver(Experiment.model_validate({**spec, "scheduler": {"asha": False}}), folder, 1)


def test_a_resumed_trial_goes_on_in_its_run(tmp_path: Path) -> None:
    played = driver(tmp_path)
    played.run(played.suggest())
    config = played.suggest()
    played.epoch(config)  # and two more that it takes over
    state = played.coordinator.state
    assert len(state.trials["swa-0000"].records) == 3
    for stage in range(2):
        trackers = [
            TrackerThread(name, played.coordinator.experiment, tmp_path) for name in ("mlflow", "wandb")
        ]
        for tracker in trackers:
            tracker.connect()
            tracker(state, tmp_path)
        if stage:
            played.run(config)
        for tracker in trackers:
            tracker(state, tmp_path)
            tracker.close(60)
        expected = {name: epochs_of(state, name) for name in state.trials}
        statuses = ["FINISHED", "FINISHED" if stage else "RUNNING"]
        found = in_mlflow(tmp_path)
        assert found == {
            name: (status, epochs) for (name, epochs), status in zip(expected.items(), statuses, strict=True)
        }
    both = in_wandb(tmp_path)
    assert both["baseline-0000"] == [expected["baseline-0000"]]
    assert both["swa-0000"] == [expected["swa-0000"][:3], expected["swa-0000"]]


def test_their_own_variables_say_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tune_swa.tracking.mlflow_runs import MlflowRuns

    default = MlflowRuns("tiny", tmp_path)
    assert (default.tracking_uri, default.experiment_name) == (f"sqlite:///{tmp_path}/mlflow.db", "tiny")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    given = MlflowRuns("tiny", tmp_path)
    assert (given.tracking_uri, given.experiment_name) == ("http://127.0.0.1:1", "mine")

    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "other"))
    (tmp_path / "other").mkdir()
    played = driver(tmp_path)
    played.run(played.suggest())
    tracker = TrackerThread("wandb", played.coordinator.experiment, tmp_path)
    tracker.connect()
    tracker(played.coordinator.state, tmp_path)
    tracker.close(60)
    assert list(in_wandb(tmp_path / "other")) == ["baseline-0000"]
    assert {path.name for path in tmp_path.iterdir()} == {"other", "journal.jsonl"}


@pytest.mark.parametrize(
    ("name", "variable", "value", "said"),
    [
        ("mlflow", "MLFLOW_TRACKING_URI", "gopher://nowhere", "gopher"),
        ("wandb", "WANDB_MODE", "online", "WANDB_API_KEY"),
    ],
)
def test_what_cannot_be_used_is_told_before_anything_starts(
    name: str, variable: str, value: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(RequestError, match=f"--log {name}: .* cannot be used .*{said}"):
        TrackerThread(name, driver(tmp_path).coordinator.experiment, tmp_path).connect()


@pytest.mark.parametrize("package", ["mlflow", "wandb"])
def test_a_missing_package_is_told_at_once(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, p=None: None if n == package else find(n, p))
    (tmp_path / "space.yaml").write_text(TINY)
    given = ["--space", str(tmp_path / "space.yaml"), "--results-dir", str(tmp_path / "results")]
    assert run_search([*given, "--log", package]) == 2
    assert capsys.readouterr().err == (
        f"error: --log {package}: the package {package} is not installed. Install it with "
        f"`pip install 'tune-swa[{package}]'`, or leave --log {package} out\n"
    )
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], ["Optuna's file", "TensorBoard's files"]),
        (["none"], ["Optuna's file"]),
        (["none", "mlflow", "mlflow"], ["Optuna's file", "the runs for MLflow"]),
        (["wandb"], ["Optuna's file", "TensorBoard's files", "the runs for Weights & Biases"]),
    ],
)
@pytest.mark.parametrize("command", ["search", "confirm"])
def test_what_the_option_asks_for_is_what_is_written(
    command: str, given: list[str], expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[str] = []

    def note_logs(request: Request) -> None:
        with open_result_writer(request) as result_writer:
            found.extend(log.what for log in result_writer._logs)
        raise RequestError("that will do")

    monkeypatch.setattr(TrackerThread, "connect", lambda self: None)
    monkeypatch.setattr(signals, "interrupt_once", lambda: None)
    monkeypatch.setattr(run, "run_search", note_logs)
    folder = tmp_path / "results" / "tiny"
    folder.mkdir(parents=True)
    (folder / "journal.jsonl").touch()
    (folder / "space.yaml").write_text(TINY)
    where = [str(folder)]
    if command == "search":
        where = ["--space", str(folder / "space.yaml"), "--results-dir", str(tmp_path / "results")]
    assert main([command, *where, *(f"--log={name}" for name in given)]) == 2
    assert found == expected


class Failing:
    what = "the made-up log"

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, state: ExperimentState, folder: Path) -> None:
        self.calls += 1
        raise OSError("no room")


def test_a_log_that_fails_is_told_once_and_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    played = driver(tmp_path)
    failing, after = Failing(), Failing()
    after.what = "another one"
    result_writer = ResultWriter(tmp_path, logs=[failing, after])
    with caplog.at_level(logging.WARNING):
        result_writer.write_all(played.coordinator.state)
        result_writer.write_all(played.coordinator.state)
    assert caplog.messages == [
        "the made-up log cannot be written: no room", "another one cannot be written: no room"
    ]  # fmt: skip
    assert failing.calls == after.calls == 2
    assert (tmp_path / "trials.parquet").exists()


def test_a_callback_that_fails_is_told_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Gone:
        def is_complete(self, trial: TrackedRun) -> bool:
            raise OSError("the server is gone")

    played = driver(tmp_path)
    played.run(played.suggest())
    tracker = TrackerThread("mlflow", played.coordinator.experiment, tmp_path)
    monkeypatch.setattr(tracker, "_run_logger", Gone())
    tracker(played.coordinator.state, tmp_path)
    tracker.close(60)
    assert caplog.messages == ["the runs for MLflow end here: the server is gone"]


def test_a_server_that_is_slow_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers = threading.Event()

    class Slow:
        def is_complete(self, trial: TrackedRun) -> bool:
            answers.wait(60)
            return True

        def on_experiment_end(self, trials: list[TrackedRun]) -> None:
            pass

    played = driver(tmp_path)
    played.run(played.suggest())
    tracker = TrackerThread("wandb", played.coordinator.experiment, tmp_path)
    monkeypatch.setattr(tracker, "_run_logger", Slow())
    begun = time.monotonic()
    tracker(played.coordinator.state, tmp_path)
    tracker.close(0.1)
    assert time.monotonic() - begun < 10
    assert caplog.messages == [
        "the runs for Weights & Biases are not complete: they were too slow for the end of the search"
    ]
    answers.set()
