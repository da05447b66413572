"""`train.arithmetic` in a space file: what it goes with, and what stays as it was without it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tune_swa.config import ArithmeticSpec, Experiment
from tune_swa.config.yaml_file import load_experiment
from tune_swa.errors import RequestError
from tune_swa.execution.dry_run import make_plan
from tune_swa.execution.gpu_share import largest_workload
from tune_swa.execution.slots import Machine
from tune_swa.training.numerics import Numerics

SPACE = """\
name: low
data: {dataset: digits, image_size: 8, train_images: 50}
train: {epochs: 20}
space: {lr: 1e-2, swa_start: {choice: [5, 10]}, swa_lr: 1e-2}
search: {sampler: grid}
"""
LOW, SGD = "train.arithmetic.bits=8", "train.optimizer=sgd"


def load(folder: Path, *changes: str) -> Experiment:
    (folder / "f.yaml").write_text(SPACE)
    return load_experiment(folder / "f.yaml", list(changes))


@pytest.mark.parametrize(
    ("changes", "message", "remedy"),
    [
        ([LOW], "train.optimizer is adam", [SGD]),
        ([LOW, "train.optimizer=adamw"], "train.optimizer is adamw", [SGD]),
        ([LOW, SGD, "train.precision=bf16"], "train.precision is bf16", ["train.precision=fp32"]),
        ([LOW, SGD, "train.precision=fp16"], "train.precision is fp16", ["train.precision=auto"]),
        ([LOW, SGD, "train.precision=tf32"], "train.precision is tf32", ["train.precision=auto"]),
        ([LOW, SGD, "train.compile=true"], "train.compile is true", ["train.compile=false"]),
        ([SGD, "train.arithmetic.bits=2"], "train.arithmetic.bits: 2", ["train.arithmetic.bits=3"]),
        ([SGD, "train.arithmetic.bits=17"], "train.arithmetic.bits: 17", ["train.arithmetic.bits=16"]),
        (
            [SGD, "train.arithmetic.rounding=up"],
            "'stochastic' or 'nearest'",
            ["train.arithmetic.rounding=nearest"],
        ),
        ([SGD, "train.arithmetic.bit=8"], "Did you mean bits?", ["train.arithmetic={bits: 8}"]),
        (
            [LOW, SGD, "space.train.optimizer={choice: [sgd, adam]}"],
            "give train.optimizer=sgd",
            ["space.train.optimizer={choice: [sgd]}"],
        ),
        (
            [SGD, "space.train.arithmetic={choice: [8, 6]}"],
            "set it in its section",
            None,
        ),
    ],
)
def test_what_does_not_go_together_is_refused_in_a_sentence(
    changes: list[str], message: str, remedy: list[str] | None, tmp_path: Path
) -> None:
    with pytest.raises(RequestError) as error:
        load(tmp_path, *changes)
    assert message in str(error.value)
    if remedy is not None:  # the last change is the wrong one, or lacks this one
        kept = changes if remedy[0].partition("=")[0] not in changes[-1] else changes[:-1]
        kept = [change for change in kept if "arithmetic.bit=" not in change]
        assert load(tmp_path, *kept, *remedy).train.arithmetic is not None


def test_its_defaults_are_the_methods(tmp_path: Path) -> None:
    spec = load(tmp_path, SGD, "train.arithmetic={}")
    assert spec.train.arithmetic == ArithmeticSpec(bits=8, rounding="stochastic")
    run = spec.run_settings("swa", {"swa_start": 5})
    assert run.train.arithmetic == spec.train.arithmetic


def test_searches_without_it_go_on_as_before(tmp_path: Path) -> None:
    """It is part of what a resume must have, but not while it is not there."""
    plain, low = load(tmp_path, SGD), load(tmp_path, SGD, LOW)
    assert "arithmetic" not in plain.fixed_settings()["train"]
    assert load(tmp_path, SGD, LOW, "train.arithmetic=null") == plain
    assert low.fixed_settings()["train"]["arithmetic"] == {"bits": 8, "rounding": "stochastic"}


def test_accumulators_are_in_the_plan_and_in_a_trial_that_is_tried_out(tmp_path: Path) -> None:
    machine = Machine(gpus=0, cpus=2)
    plain, low = load(tmp_path, SGD), load(tmp_path, SGD, LOW)
    sizes = [make_plan(spec, machine=machine).checkpoint_bytes for spec in (plain, low)]
    adam = make_plan(load(tmp_path), machine=machine).checkpoint_bytes
    assert sizes[0] < sizes[1] == adam  # two states for each weight: momentum and accumulator
    numerics = Numerics("cuda", "fp32", threads=1, channels_last=True, fused=True, compile=False)
    assert largest_workload(low, numerics, 10, 100, 50).settings.train.arithmetic == ArithmeticSpec()
