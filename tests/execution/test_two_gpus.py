"""Searches on two GPUs that Ray is told of and nobody uses: all trials get theirs, and none lies idle."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torchvision
from ray import cloudpickle
from rich.console import Console

from helpers import ray_trials
from helpers.narrow_resnet import build_narrow_resnet, narrow_environment
from tune_swa.config import Experiment
from tune_swa.execution import site, trial_loop
from tune_swa.execution.request import Request
from tune_swa.execution.run import run_search
from tune_swa.execution.slots import Machine
from tune_swa.experiment.state import ExperimentState
from tune_swa.training.numerics import decide_numerics
from tune_swa.training.step_probe import TrialCost

COST = TrialCost("made up", 80 * 10**9, 10**9, 5 * 10**8, host_seconds=0.01, device_seconds=0.002)
SECONDS = 300.0
"""A search that waits for a GPU which never becomes free is interrupted then."""


def search(
    folder: Path, patch: pytest.MonkeyPatch, space: dict[str, Any], *,
    seconds: float = 0.0, confirm: bool = False, epochs: int = 8, gpus: int = 2, resume: bool = False,
    trial: Callable[..., None] = ray_trials.made_up_trial, **more: Any,
) -> ExperimentState:  # fmt: skip
    """A search with two trials on each of two GPUs, of made-up trials or others."""
    experiment = Experiment.model_validate(
        {
            "name": "two",
            "data": {"image_size": 8, "train_images": 50},
            "train": {"epochs": epochs, "batch_size": 20, "weight_decay": seconds},
            "space": space,
            "scheduler": {"asha": False},
            "resources": {"gpus_per_trial": 0.5},
            **more,
        }
    )
    patch.setenv("PYTHONPATH", narrow_environment()["PYTHONPATH"])  # for real trials, in workers
    patch.setattr(torchvision.models, "resnet18", build_narrow_resnet)
    cloudpickle.register_pickle_by_value(ray_trials)  # workers cannot import the tests
    patch.setattr(trial_loop, "train_trial", trial)
    patch.setattr(Machine, "local", classmethod(lambda cls: cls(gpus=gpus, cpus=2 * gpus)))
    # trials train on the CPU, and what one would take of a GPU is made up
    cpu = decide_numerics(experiment.train, 8, device="cpu", threads=1)
    patch.setattr(site, "decide_numerics", lambda *_, **__: cpu)
    patch.setattr(site, "measure_trial", lambda workload, gpu: COST)
    request = Request(
        experiment,
        results_dir=folder,
        resume=resume,
        quiet=True,
        confirm=confirm,
        console=Console(quiet=True),
    )
    limit = threading.Timer(SECONDS, os.kill, (os.getpid(), signal.SIGINT))
    limit.start()
    try:
        outcome = run_search(request)
    finally:
        limit.cancel()
    return outcome.state


@pytest.mark.slow  # trials have to take longer than a worker to start
def test_a_gpu_that_a_producer_had_to_itself_is_used_by_its_branches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = {"lr": 1e-3, "swa_start": 1, "swa_lr": {"choice": [1e-4, 1e-3, 1e-2, 0.1, 0.2, 0.3]}}
    state = search(tmp_path, monkeypatch, space, seconds=4.0, search={"sampler": "grid"})
    assert {t.status for t in state.trials.values()} == {"completed"}
    used = Counter(t.device for t in state.of_kind("swa"))
    assert set(used) == {"0", "1"}
    assert min(used.values()) >= 2, used


def test_fresh_seeds_get_their_whole_gpus_after_a_search_that_shared_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = {"lr": {"log_uniform": [1e-3, 1e-1]}, "swa_start": 1, "swa_lr": 1e-2}
    state = search(
        tmp_path, monkeypatch, space, confirm=True, search={"sampler": "random", "trials": 4, "reuse": False},
        baseline={"trials": 1}
    )  # fmt: skip
    assert {t.status for t in state.trials.values()} == {"completed"}
