"""The smallest search that goes the whole way of a given one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tune_swa.config import Experiment, yaml_file
from tune_swa.execution.rehearsal_space import list_shrunk, shrink_experiment
from tune_swa.search.trunk_sharing import planned_epochs

SHIPPED = sorted((Path(__file__).parent.parent.parent / "search_spaces").glob("*.yaml"))
SPACE = {
    "lr": {"log_uniform": [1e-4, 1e-2]},
    "swa_start": {"int": [60, 90]},
    "swa_lr": {"choice": [1e-3, 1e-4]},
}
KEPT = ("batch_size", "optimizer", "augment", "precision", "channels_last", "weight_decay", "schedule")
"""Settings of `train` on which the speed of an epoch depends, or what it does."""


def make_experiment(**changes: Any) -> Experiment:
    return Experiment.model_validate({"name": "x", "train": {"epochs": 120}, "space": SPACE, **changes})


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_spaces_shrink_to_a_baseline_and_a_branch_of_its_trunk(path: Path) -> None:
    whole = yaml_file.load_experiment(path)
    small = shrink_experiment(whole, seeds=2)
    assert small.name == f"{whole.name}-smoke"
    assert (small.baseline_trials, small.swa_trials) == (1, 1)
    # a fork: of 4 epochs, the branch trains the last two. Averages of a baseline take no part of a trunk
    assert planned_epochs(small) in (None, 4 + 2)
    assert all(getattr(small.train, name) == getattr(whole.train, name) for name in KEPT)
    assert (small.model, small.data.image_size) == (whole.model, whole.data.image_size)
    assert len(small.averages) == len(whole.averages)
    assert (small.confirm.seeds, small.confirm.max_seeds, small.confirm.race) == (2, None, False)
    # the sampler is asked for what SWA adds
    assert all(parameter.swa for parameter in small.parameters)


@pytest.mark.parametrize(
    ("changes", "trials"),
    [
        ({}, 1),
        ({"train": {"epochs": 2}, "space": {**SPACE, "swa_start": 0}}, 1),
        ({"averaging": {"tail": "cyclic", "cycle_epochs": 20}}, 1),
        ({"averaging": {"tail": "base"}, "space": {"lr": 1e-3, "swa_start": 60}}, 1),
        ({"merge": [{"method": "swap", "members": 8}], "space": {**SPACE, "lr": 1e-3}}, 1),
        ({"merge": [{"method": "soup"}], "space": {**SPACE, "lr": 1e-3}, "confirm": {"merges": True}}, 2),
        ({"confirm": {"seeds": 15, "ensemble": 3}}, 1),
        ({"search": {"sampler": "cmaes", "epochs": 4000}}, 1),
        ({"search": {"sampler": "grid"}, "space": {"lr": 1e-3, "swa_start": 60, "swa_lr": 1e-3}}, 1),
        ({"space": {**SPACE, "train.augment": {"choice": [[], ["hflip"], ["crop"]]}}}, 1),
        (
            {
                "space": {
                    **SPACE,
                    "train.warmup_epochs": {"choice": [0, 12]},
                    "train.t_max": {"int": [60, 90]},
                }
            },
            1,
        ),
        ({"points": [{"lr": 2e-4, "swa_start": 70, "swa_lr": 1e-3}]}, 1),
        # a schedule that is that of the other optimizer
        (
            {
                "train": {"epochs": 120, "t_max": 60},
                "space": {
                    **SPACE,
                    "train.optimizer": {"choice": ["adam", "schedulefree_adamw"]},
                    "train.schedule": {"choice": ["constant", "cosine"]},
                },
            },
            1,
        ),
        # of four epochs, values become equal and each of the eight combinations gets a baseline
        (
            {
                "search": {"epochs": 600},
                "space": {
                    **SPACE,
                    "lr": {"choice": [1e-3, 3e-3, 1e-2, 3e-2]},
                    "train.warmup_epochs": {"choice": [0, 2, 4]},
                },
            },
            1,
        ),
    ],
)
def test_every_kind_of_space_shrinks(changes: dict[str, Any], trials: int) -> None:
    whole = make_experiment(**changes)
    small = shrink_experiment(whole, seeds=1)
    assert (small.baseline_trials, small.swa_trials) == (1, trials)
    assert len(small.merge) == len(whole.merge)
    assert small.confirm.seeds == (2 if small.confirm.ensemble else 1)
    for params in small.baseline_points or ():
        small.run_settings("baseline", params)
    if changes.get("points"):
        assert small.constants["lr"] == 2e-4


def test_what_is_smaller_is_named() -> None:
    # the two of LAWA become one
    lawa = [{"method": "lawa", "last": last} for last in (2, 3)]
    listed = [{"method": "swa"}, *lawa, {"method": "swag", "rank": 2}]
    whole = make_experiment(averages=listed, train={"epochs": 120, "batch_size": 64})
    small = shrink_experiment(whole, seeds=1)
    assert list_shrunk(whole, small, 12) == [
        "batches of 12 images instead of 64",
        "swag-2 draws 2 instead of 30",
        "no race before the fresh seeds",
    ]
    assert list_shrunk(make_experiment(confirm={"race": False}), small, 64) == []
    fixed = {"lr": 1e-3, "swa_start": {"choice": [60, 75]}, "swa_lr": 1e-3}
    soup = make_experiment(merge=[{"method": "soup"}], space=fixed, confirm={"race": False})
    assert list_shrunk(soup, shrink_experiment(soup, seeds=1), 64) == [
        "no soup, for which one trial is too few"
    ]
