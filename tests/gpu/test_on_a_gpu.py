"""On a real GPU: the checks of benchmarks/gpu.py, and what they leave out because it takes Ray.

    python -m pytest -m gpu tests/gpu/test_on_a_gpu.py

The same bodies run on the CPU in every run of the tests, but for the checks: tests/gpu/test_gpu_benchmark.py
has them walk there.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parent.parent.parent
sys.path.append(str(ROOT / "benchmarks"))

from gpu_catalogue import CHECKS, MEASURES  # type: ignore[import-not-found]  # noqa: E402
from gpu_parts import Part, Worker, choose_sizes  # type: ignore[import-not-found]  # noqa: E402

from helpers.narrow_resnet import narrow_environment  # noqa: E402

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU that torch can use")
ON_GPU = [pytest.mark.gpu, NEEDS_GPU]
EACH_DEVICE = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=ON_GPU)])
EPOCHS = 5
SPACE: dict[str, Any] = {
    "name": "drawn",
    "data": {"dataset": "digits", "image_size": 16, "train_images": 160, "val_fraction": 0.25},
    "train": {"epochs": EPOCHS, "batch_size": 32},
    "averaging": {"anneal_epochs": 1},
    "space": {"lr": {"choice": [1e-3]}, "swa_start": {"choice": [1, 2]}, "swa_lr": {"choice": [5e-4, 1e-3]}},
    "search": {"sampler": "grid", "checkpoint_every": 1, "keep_checkpoints": "all"},
    "scheduler": {"asha": False},
    "resources": {"gpus_per_trial": 0.5},
}


# -------------------------------------------------------------------------------- without Ray


@pytest.mark.gpu
@NEEDS_GPU
@pytest.mark.parametrize("part", CHECKS, ids=lambda part: part.name)
def test_checks_of_the_benchmark(part: Part, tmp_path: Path) -> None:
    """Each in a process of its own: some of them leave a device that nobody should use."""
    worker = Worker(choose_sizes("cuda", tmp_path, quick=True), "gpu_catalogue")
    try:
        outcome = worker.run(part, 3 * part.seconds, short_of_time=False)
    finally:
        worker.stop()
    if outcome.status == "skipped":
        pytest.skip(outcome.reason)
    assert outcome.status == "pass", f"{outcome.reason}\n{outcome.trace}"


def test_no_two_parts_have_the_same_name() -> None:
    """A worker knows them by that."""
    names = [part.name for part in (*CHECKS, *MEASURES)]
    assert len(set(names)) == len(names)


# ------------------------------------------------------------------------------------ with Ray


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A folder for a search; whatever it has started and not ended is ended afterwards."""
    pytest.importorskip("ray", reason="a search needs Ray (pip install 'ray[tune]')")
    (tmp_path / "space.yaml").write_text(json.dumps(SPACE))
    started.clear()
    yield tmp_path
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


started: list[subprocess.Popen[str]] = []


def start_command(home: Path, *words: str) -> subprocess.Popen[str]:
    """A command of the program, in a session of its own; without a GPU it trains the narrow network."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    if not torch.cuda.is_available():
        environment = narrow_environment(environment)
    process = subprocess.Popen(
        [sys.executable, "-m", "tune_swa", *words], cwd=home, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    started.append(process)
    return process


def run_command(home: Path, *words: str, code: int = 0) -> str:
    process = start_command(home, *words)
    output = process.communicate(timeout=400)[0]
    assert process.returncode == code, output
    return output


def search_words(device: str, *more: str) -> list[str]:
    gpus = "1" if device == "cuda" else "0"
    words = ["search", "--space", "space.yaml", "--results-dir", "results", "--no-confirm", "--log", "none"]
    return [*words, "--gpus", gpus, "--cpus", "2", *more]


def read_events(home: Path) -> list[dict[str, Any]]:
    """Whole lines of the journal; a kill may have cut the last one."""
    journal = home / "results" / "drawn" / "journal.jsonl"
    lines = journal.read_text().split("\n")[:-1] if journal.exists() else []
    return [json.loads(line) for line in lines]


@EACH_DEVICE
def test_a_search_goes_on_after_a_kill_and_hands_its_model_over(device: str, home: Path) -> None:
    """Two trials side by side on half a GPU each, four with one trunk; killed with -9 in the middle."""
    process = start_command(home, *search_words(device))
    ends = time.monotonic() + 300
    while sum(event["event"] == "epoch" for event in read_events(home)) < 6:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < ends, "the search trains nothing"
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = read_events(home)
    run_command(home, *search_words(device, "--resume"))
    events = read_events(home)
    assert events[: len(before)] == before

    epochs = Counter((e["trial"], e["record"]["epoch"]) for e in events if e["event"] == "epoch")
    trials = {trial for trial, _ in epochs}
    assert len(trials) == 5
    own = set(epochs)
    import pandas as pd

    table = pd.read_parquet(home / "results" / "drawn" / "epochs.parquet")
    assert Counter(table["trial"]) == dict.fromkeys(trials, EPOCHS)
    assert set(epochs.values()) == {1}  # no epoch was recorded twice
    assert table["shared_from"].notna().sum() >= 4
    assert len(own) <= len(table)
    assert set(pd.read_parquet(home / "results" / "drawn" / "trials.parquet")["status"]) == {"completed"}
    devices = {event["device"] for event in events if event["event"] == "started"}
    assert all(name.startswith("cpu") != (device == "cuda") for name in devices)

    shown = run_command(home, "export-model", "results/drawn")
    assert {path.name for path in (home / "results/drawn/export").iterdir()} == {
        "classify.py", "model.json", "model.pt", "model.pt2", "model.safetensors",
    }  # fmt: skip
    assert "That is the recorded accuracy" in shown


@pytest.mark.gpu
@NEEDS_GPU
def test_a_share_that_holds_no_trial_is_refused_with_both_numbers(home: Path) -> None:
    """Tried out before the search; auto and a whole GPU hold it."""
    big = ("--set", "data.image_size=128", "--set", "train.batch_size=128")
    refused = run_command(home, *search_words("cuda", "--dry-run", *big, "--gpus-per-trial", "0.01"), code=2)
    assert "resources.gpus_per_trial: 0.01 of" in refused
    assert "GB to a trial" in refused
    assert "GB. Use auto, at least" in refused
    shown = run_command(home, *search_words("cuda", "--dry-run", *big, "--gpus-per-trial", "auto"))
    assert "a trial takes" in shown


# ------------------------------------------------------------------------------- in one worker


@EACH_DEVICE
def test_a_trial_after_one_that_exhausted_the_memory(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU, one with a share of almost nothing fails with advice; the next in that process trains."""
    ray = pytest.importorskip("ray", reason="the worker is Ray's (pip install 'ray[tune]')")
    from tune_swa.config import DataSpec, RunSettings, TrainSpec
    from tune_swa.data.dataset import prepare_dataset
    from tune_swa.execution import trainable
    from tune_swa.execution.trial_context import TrialContext
    from tune_swa.experiment.layout import PAYLOAD
    from tune_swa.storage import FolderStore
    from tune_swa.training.numerics import decide_numerics

    spec = DataSpec(image_size=64, train_images=64)
    train = TrainSpec(epochs=2, batch_size=64)
    data = prepare_dataset(spec)
    context = TrialContext(
        FolderStore(tmp_path), spec, None, data.fingerprint,
        decide_numerics(train, 64, device=device, threads=1),
        torch.__version__, None, "auto", keep_all=False,
    )  # fmt: skip
    reports: list[dict[str, Any]] = []
    monkeypatch.setattr(ray.tune, "report", lambda report: reports.append(json.loads(report[PAYLOAD])))

    def train_trial(name: str, gpus: float) -> list[str]:
        reports.clear()
        config = {
            "trial": name, "settings": RunSettings(lr=1e-3, train=train).model_dump(mode="json"),
            "trunk": name, "gpus": gpus, "recorded_epochs": 0, "checkpoints": [], "published": [],
            "publish": [], "test": False, "score": [], "ensemble": False, "nll_sd": False,
        }  # fmt: skip
        trainable.train_trial(config, context)
        return [message["event"] for message in reports]

    if device == "cuda":
        share = 200e6 / torch.cuda.get_device_properties(0).total_memory
        assert train_trial("greedy", share)[-1] == "failed"
        assert "GPU memory is exhausted" in reports[-1]["error"]
        assert "--gpus-per-trial" in reports[-1]["error"]
        assert reports[-1]["exhausted"] == share
    assert train_trial("modest", 1.0)[-2:] == ["epoch", "epoch"]
    assert reports[-1]["record"]["epoch"] == 1
