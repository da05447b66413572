"""What a trial takes, and how a GPU is divided by that: tables of made-up costs, and a trial tried out."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tune_swa.config import Experiment
from tune_swa.errors import RequestError, SearchFailed
from tune_swa.execution import gpu_share
from tune_swa.execution.gpu_share import (
    MARGIN,
    check_fraction,
    check_memory,
    choose_fraction,
    describe_cost,
    largest_workload,
    measure_trial,
)
from tune_swa.training.numerics import Numerics, decide_numerics
from tune_swa.training.step_probe import TrialCost, Workload

GB = 1_000_000_000
CONTEXT = 600_000_000
SMALL = TrialCost("Card", 80 * GB, 1 * GB, CONTEXT, host_seconds=0.010, device_seconds=0.002)
"""Of 32 pixels: five times as long to send as to compute."""
MIDDLE = TrialCost("Card", 80 * GB, 5 * GB, CONTEXT, host_seconds=0.010, device_seconds=0.006)
LARGE = TrialCost("Card", 80 * GB, 9 * GB, CONTEXT, host_seconds=0.010, device_seconds=0.030)
"""Of 256 pixels."""


@pytest.mark.parametrize(
    ("cost", "memory", "images", "cores", "trials", "resident"),
    [
        (SMALL, 8, 0.1, 16, 4, True),
        (SMALL, 16, 0.1, 16, 4, True),
        (SMALL, 24, 0.1, 16, 4, True),
        (SMALL, 80, 0.1, 16, 4, True),
        (SMALL, 80, 0.1, 2, 2, True),  # a process that only sends work wants a core of its own
        (SMALL, 4, 0.1, 16, 2, True),
        (SMALL, 2, 0.1, 16, 1, True),
        (SMALL, 1.75, 0.1, 16, 1, False),
        (MIDDLE, 8, 0.1, 16, 1, True),
        (MIDDLE, 16, 0.1, 16, 2, True),
        (MIDDLE, 80, 0.1, 16, 2, True),  # more would wait for the GPU
        (MIDDLE, 16, 3.0, 16, 1, True),
        (MIDDLE, 8, 3.0, 16, 1, False),
        (LARGE, 16, 2.8, 16, 1, True),
        (LARGE, 24, 2.8, 16, 1, True),
        (LARGE, 80, 2.8, 16, 1, True),
    ],
)
def test_a_gpu_is_divided(
    cost: TrialCost, memory: float, images: float, cores: int, trials: int, resident: bool
) -> None:
    share = choose_fraction(cost, int(memory * GB), int(images * GB), cores)
    assert (share.trials, share.resident) == (trials, resident)
    assert share.fraction == 1 / trials


@given(
    trial=st.integers(1, 90 * GB),
    context=st.integers(0, 2 * GB),
    memory=st.integers(4 * GB, 200 * GB),
    images=st.integers(0, 100 * GB),
    host=st.floats(1e-4, 10),
    device=st.floats(1e-4, 10),
    cores=st.integers(1, 256),
)
def test_no_trial_is_over_its_share(
    trial: int, context: int, memory: int, images: int, host: float, device: float, cores: int
) -> None:
    cost = TrialCost("Card", memory, trial, context, host, device)
    if trial * MARGIN + context > memory:
        with pytest.raises(RequestError, match="one trial needs"):
            choose_fraction(cost, memory, images, cores)
        return
    share = choose_fraction(cost, memory, images, cores)
    assert 1 <= share.trials <= max(1, cores)
    needs = trial * MARGIN + context + (images if share.resident else 0)
    assert needs <= share.fraction * memory + 1
    check_fraction(share.fraction, cost, memory)


def test_why_a_gpu_is_divided_so() -> None:
    assert choose_fraction(LARGE, 80 * GB, 0, 16).reason == "one trial keeps the GPU busy"
    assert choose_fraction(SMALL, 80 * GB, 0, 16).reason == "one trial keeps the GPU busy 20 % of the time"
    assert choose_fraction(SMALL, 4 * GB, 0, 16).reason == (
        "one trial keeps the GPU busy 20 % of the time, and more do not fit into its memory"
    )
    assert describe_cost(SMALL, 4, 0.25, "one trial keeps the GPU busy 20 % of the time") == (
        "a trial takes 1 GB (measured on Card, 80 GB) and 600 MB for CUDA itself: "
        "4 trials a GPU, 0.25 each; one trial keeps the GPU busy 20 % of the time"
    )


def test_a_trial_that_does_not_fit_the_gpu_is_refused_with_both_numbers() -> None:
    with pytest.raises(RequestError, match=r"one trial needs 9 GB .* 600 MB .* has 8 GB .*batch_size"):
        choose_fraction(LARGE, 8 * GB, 0, 16)


def test_a_fraction_that_holds_no_trial_is_refused_and_the_advice_works() -> None:
    check_fraction(0.5, LARGE, 24 * GB)
    with pytest.raises(RequestError) as caught:
        check_fraction(0.25, LARGE, 24 * GB)
    assert str(caught.value) == (
        "resources.gpus_per_trial: 0.25 of Card (24 GB) leaves 5.4 GB to a trial (600 MB go to CUDA "
        "itself), but it needs 9 GB. Use auto, at least 0.44, or a smaller train.batch_size or "
        "train.eval_batch_size, or a smaller data.image_size"
    )
    check_fraction(0.44, LARGE, 24 * GB)
    with pytest.raises(RequestError, match=r"leaves 7\.4 GB .* Use a smaller train\.batch_size"):
        check_fraction(1.0, LARGE, 8 * GB)  # no fraction holds it
    with pytest.raises(RequestError, match=r"leaves 0 bytes to a trial"):
        check_fraction(0.01, LARGE, 24 * GB)


# ------------------------------------------------------------------------- the trial that takes most

NUMERICS = Numerics("cpu", "fp32", threads=1, channels_last=True, fused=True, compile=False)
SPACE: dict[str, Any] = {"lr": 1e-3, "swa_start": 3, "swa_lr": 1e-3}


def largest(space: dict[str, Any], train_images: int = 10_000, **more: Any) -> Workload:
    experiment = Experiment.model_validate({"name": "x", "space": {**SPACE, **space}, **more})
    return largest_workload(experiment, NUMERICS, 6, train_images, 500)


@pytest.mark.parametrize(
    ("workload", "batch", "refreshed"),
    [
        (largest({}), 64, 64),
        (largest({}, train={"batch_size": 256}), 256, 256),
        (largest({"train.batch_size": {"choice": [32, 128]}}), 128, 128),
        (largest({"train.batch_size": {"int": [16, 512], "log": True}}), 512, 512),
        (largest({"train.batch_size": 96}), 96, 96),
        (largest({}, points=[{"lr": 1e-3}]), 64, 64),
        (largest({"averaging.bn_batch_size": {"choice": [16, 1024]}}), 64, 1024),
        (largest({"averaging.bn_batch_size": {"choice": [16, None]}}), 64, 64),
        (largest({}, averaging={"bn_batch_size": 500}), 64, 500),
        (largest({}, averaging={"tail": "cyclic", "cycle_epochs": 5}), 64, 64),
        (largest({}, 50), 50, 64),
    ],
)
def test_the_largest_batch_of_the_space_is_tried_out(workload: Workload, batch: int, refreshed: int) -> None:
    assert workload.batch_size == batch
    assert workload.settings.averaging.bn_batch_size == refreshed


@pytest.mark.parametrize(
    ("space", "optimizer"),
    [
        ({}, "adam"),
        ({"train.optimizer": {"choice": ["sgd", "adamw"]}}, "adamw"),
        ({"train.optimizer": "sgd"}, "sgd"),
        ({"train.optimizer": {"choice": ["sgd", "schedulefree_sgd"]}}, "schedulefree_sgd"),
        ({"train.optimizer": {"choice": ["adam", "schedulefree_adamw"]}}, "schedulefree_adamw"),
    ],
)
def test_the_optimizer_with_most_states_is_tried_out(space: dict[str, Any], optimizer: str) -> None:
    assert largest(space).settings.train.optimizer == optimizer


def test_any_schedule_is_cut_short() -> None:
    train = {"epochs": 120, "warmup_epochs": 12, "t_max": 90, "augment": ["hflip"]}
    settings = largest({"train.augment": {"choice": [[], ["hflip", "crop"]]}}, train=train).settings
    assert (settings.train.epochs, settings.train.warmup_epochs, settings.train.t_max) == (3, 0, None)
    assert settings.train.augment == ("hflip", "crop")


# ------------------------------------------------------------------------- trying it out


def test_a_trial_is_tried_out_in_a_process_of_its_own() -> None:
    """On the CPU, by the code that measures on a GPU."""
    experiment = Experiment.model_validate(
        {"name": "x", "space": SPACE, "data": {"image_size": 8}, "train": {"batch_size": 4}}
    )
    numerics = decide_numerics(experiment.train, 8, device="cpu", threads=1)
    workload = largest_workload(experiment, numerics, 3, 30, 9)
    assert Workload.from_dict(json.loads(json.dumps(workload.as_dict()))) == workload
    cost = measure_trial(workload, 0)
    assert cost.device == "cpu"
    # weights and their average, gradients and two states of the optimizer: 11 million numbers each
    assert cost.trial_bytes > 5 * 4 * 11_000_000
    assert 0 < cost.host_seconds <= cost.device_seconds


def test_a_trial_that_fails_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SearchFailed, match=r"GPU 1 .* failed: RuntimeError: .*negative.* --gpus 0"):
        measure_trial(replace(largest({}), train_images=-1), 1)
    monkeypatch.setattr(gpu_share, "PROBE_SECONDS", 0.05)
    with pytest.raises(SearchFailed, match=r"no answer within 0\.05 seconds"):
        measure_trial(largest({}), 0)


def test_memory_that_is_exhausted_while_trying_names_the_gpu_and_who_else_uses_it() -> None:
    full = replace(SMALL, exhausted="CUDA out of memory. Tried to allocate 2 GiB", free=75 * GB)
    with pytest.raises(
        RequestError, match=r"does not fit Card \(80 GB; batches of 64 .* Use a smaller"
    ) as one:
        check_memory(full, largest({}))
    assert "nvidia-smi" not in str(one.value)
    with pytest.raises(RequestError, match=r"Only 5 GB of it are free: see with nvidia-smi"):
        check_memory(replace(full, free=5 * GB), largest({}))
    assert check_memory(SMALL, largest({})) is SMALL
