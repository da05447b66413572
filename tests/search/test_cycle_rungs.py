"""Rungs of cyclic tails: they are at the ends of cycles, or see what the last cycle's end left."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from helpers.journals import experiment
from tune_swa.config import Experiment, SchedulerSpec
from tune_swa.execution.dry_run import make_plan
from tune_swa.execution.plan_table import print_plan
from tune_swa.execution.slots import Machine
from tune_swa.experiment.trial_state import TrialState
from tune_swa.search.asha import PhaseAsha, branch_rungs, move_rungs

EPOCHS = 20


def make_experiment(start: Any, **changes: Any) -> Experiment:
    space = {"lr": {"choice": [1e-3, 3e-3]}, "swa_start": start, "swa_lr": 1e-3, **changes.pop("space", {})}
    cyclic = {"tail": "cyclic", "cycle_epochs": 4}
    return experiment(**{"train": {"epochs": EPOCHS}, "space": space, "averaging": cyclic, **changes})


def make_trial(name: str, start: int, **params: Any) -> TrialState:
    return TrialState(name, "swa", "search", params, 0, "tpe", 0, f"trunk of {name}", start + 1)


def test_where_all_trials_have_the_same_cycles_rungs_move_to_their_ends() -> None:
    """Cycles end after epochs 6, 10, 14, 18: the rungs of 20 epochs, 12 and 16, move to 10 and 14."""
    assert branch_rungs(SchedulerSpec(), EPOCHS) == [12, 16]
    assert PhaseAsha.of_experiment(make_experiment(5)).branch_rungs == {10, 14}
    # the first end after the fork at 12 is that of epoch 16; at 13 there is only a copy of a raw model
    assert PhaseAsha.of_experiment(make_experiment(11)).branch_rungs == {16}
    assert PhaseAsha.of_experiment(make_experiment(12)).branch_rungs == frozenset()
    assert move_rungs([12, 13], 6, 4) == {10}


def test_other_rungs_stay_where_they_are() -> None:
    for other in (
        make_experiment({"int": [4, 6]}),
        make_experiment(5, scheduler={"branch_rungs": [12, 16]}),
        make_experiment(
            5, averaging={"tail": "cyclic"}, space={"averaging.cycle_epochs": {"choice": [2, 4]}}
        ),
        make_experiment(5, averaging={"tail": "constant"}),
    ):
        assert PhaseAsha.of_experiment(other).branch_rungs == {12, 16}


def test_an_average_of_one_model_is_not_judged() -> None:
    """Within the first cycle it is still the copy of a raw model."""
    rule = PhaseAsha.of_experiment(make_experiment({"int": [4, 14]}))
    assert rule.judge_epoch(make_trial("first", 4), 12, 0.9).rung == 12
    assert rule.judge_epoch(make_trial("begun", 8), 12, 0.1).rung is None  # its first cycle ends at 13
    assert rule.judge_epoch(make_trial("ended", 7), 12, 0.1).stop


def test_a_cycle_that_is_searched_counts() -> None:
    space = {"averaging.cycle_epochs": {"choice": [2, 4, None]}}
    rule = PhaseAsha.of_experiment(make_experiment({"int": [4, 14]}, space=space))
    assert rule.judge_epoch(make_trial("first", 4, **{"averaging.cycle_epochs": 4}), 12, 0.9).rung == 12
    assert rule.judge_epoch(make_trial("short", 9, **{"averaging.cycle_epochs": 2}), 12, 0.1).stop
    assert rule.judge_epoch(make_trial("null", 9, **{"averaging.cycle_epochs": None}), 12, 0.1).stop
    assert not rule.judge_epoch(make_trial("long", 9, **{"averaging.cycle_epochs": 4}), 12, 0.1).stop


def test_the_plan_names_the_rungs_that_there_are() -> None:
    console = Console(width=200)
    with console.capture() as captured:
        print_plan(console, make_plan(make_experiment(5), machine=Machine(gpus=0, cpus=2)))
    assert "after epochs 10, 14 (averaged)" in captured.get()
