"""What `--dry-run` says of known trunks and of a budget in epochs."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from tune_swa.config import Experiment
from tune_swa.execution.dry_run import make_plan
from tune_swa.execution.plan_table import print_plan
from tune_swa.execution.slots import Machine

REUSE = "trials go on from known trunks while branches have taken fewer epochs than trunks"


def plan(**search: Any) -> str:
    space = {"lr": {"log_uniform": [1e-4, 1e-2]}, "swa_start": {"int": [4, 8]}, "swa_lr": 1e-3}
    spec = Experiment.model_validate(
        {"name": "x", "train": {"epochs": 10}, "space": space, "baseline": {"trials": 2},
         "search": {"sampler": "tpe", "trials": 6, **search}}
    )  # fmt: skip
    printed = io.StringIO()
    print_plan(Console(file=printed, width=400), make_plan(spec, machine=Machine(gpus=0, cpus=2)))
    return printed.getvalue()


@pytest.mark.parametrize(
    ("search", "trials", "epochs"),
    [
        ({}, "6 with SWA, 2 baselines", f"at most 80 to train (10 per trial); fewer, since {REUSE}"),
        ({"reuse": False}, "6 with SWA, 2 baselines", "at most 80 to train (10 per trial)\n"),
        ({"share": False}, "6 with SWA, 2 baselines", "at most 80 to train (10 per trial)\n"),
        (
            {"epochs": 90, "trials": None},
            "as many with SWA as the epochs allow, 2 baselines",
            f"90 to train (10 per trial): no trial begins once these are trained or under way; {REUSE}",
        ),
        (
            {"epochs": 90, "reuse": False},
            "as many with SWA as the epochs allow, at most 6, 2 baselines",
            "90 to train (10 per trial): no trial begins once these are trained or under way\n",
        ),
    ],
)
def test_the_plan_says_what_ends_the_search(search: dict[str, Any], trials: str, epochs: str) -> None:
    lines = "\n".join(line.rstrip() for line in plan(**search).splitlines()) + "\n"
    assert trials in lines
    assert epochs in lines
