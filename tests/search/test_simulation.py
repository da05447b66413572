"""Searches by a made-up clock: they train what is planned, and take the time that one adds up by hand."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from tune_swa.config import Experiment
from tune_swa.search import simulation
from tune_swa.search.simulation import TrialTimes, simulate_search
from tune_swa.search.trunk_sharing import planned_epochs

TIMES = TrialTimes(train=10.0, refresh=3.0, evaluate=1.0, test=2.0, epoch=0.5, save=0.25, trial=5.0)
GRID = {"lr": {"choice": [1e-3, 1e-2]}, "swa_start": {"choice": [3, 5]}, "swa_lr": {"choice": [1e-3, 1e-4]}}


def make_experiment(**changes: Any) -> Experiment:
    base = {
        "name": "x",
        "train": {"epochs": 8},
        "space": GRID,
        "search": {"sampler": "grid"},
        "scheduler": {"asha": False},
        "confirm": {"top": 1, "seeds": 2, "race": False},
    }
    return Experiment.model_validate({**base, **changes})


def test_one_baseline_and_one_branch_take_what_one_adds_up() -> None:
    """Of four epochs; the branch begins with the second, which its trunk has trained."""
    one = {"lr": 1e-3, "swa_start": 0, "swa_lr": 1e-3}
    experiment = make_experiment(train={"epochs": 4}, space=one)
    found = simulate_search(experiment, 1, TIMES, confirm=False)
    trunk_epoch = 10 + 1 + 0.5
    baseline = 5 + 4 * trunk_epoch + 2 * 0.25  # its trunk's state, and its last one
    fork = 3 + 1 + 0.5
    branch = 5 + fork + 2 * (trunk_epoch + 3 + 1) + 0.25
    assert found.seconds == pytest.approx(baseline + branch)
    assert found.epochs == 4 + 2
    both = simulate_search(experiment, 2, TIMES, confirm=False)
    # with two slots the branch begins after the second epoch of the baseline
    assert both.seconds == pytest.approx(5 + 2 * trunk_epoch + 0.25 + branch)


def test_fresh_seeds_are_tested() -> None:
    one = {"lr": 1e-3, "swa_start": 0, "swa_lr": 1e-3}
    experiment = make_experiment(train={"epochs": 4}, space=one)
    found = simulate_search(experiment, 1, TIMES)
    searched = simulate_search(experiment, 1, TIMES, confirm=False).seconds
    assert found.stages["confirm"].runs == 4
    assert found.stages["confirm"].epochs == 2 * 6
    # a baseline is tested as it is and with refreshed statistics
    assert found.seconds == pytest.approx(searched + 2 * (searched + 2 + (2 + 2 + 3)))


@pytest.mark.parametrize("slots", [1, 2, 3, 16])
@pytest.mark.parametrize("share", [True, False])
def test_as_many_epochs_are_trained_as_are_planned(slots: int, *, share: bool) -> None:
    experiment = make_experiment(search={"sampler": "grid", "share": share})
    found = simulate_search(experiment, slots, TIMES, confirm=False)
    assert found.stages["search"].runs == 10
    assert found.epochs == (planned_epochs(experiment) if share else 80)


def test_more_slots_take_less_time_and_no_less_than_their_part() -> None:
    seconds = [simulate_search(make_experiment(), slots, TIMES).seconds for slots in (1, 2, 4)]
    assert seconds[0] > seconds[1] > seconds[2]
    assert seconds[1] >= seconds[0] / 2
    assert seconds[2] >= seconds[0] / 4


def test_rungs_stop_trials() -> None:
    asha = {"asha": True, "branch_rungs": [6], "reduction_factor": 3}
    whole = simulate_search(make_experiment(), 2, TIMES, confirm=False)
    stopped = simulate_search(make_experiment(scheduler=asha), 2, TIMES, confirm=False)
    assert stopped.epochs < whole.epochs
    assert stopped.stages["search"].runs == whole.stages["search"].runs


def test_further_averages_are_scored_and_tested() -> None:
    one = {"lr": 1e-3, "swa_start": 0, "swa_lr": 1e-3}
    listed = [{"method": "swa"}, {"method": "ema", "horizon": 1}]
    changes: dict[str, Any] = {"train": {"epochs": 4}, "space": one}
    plain = make_experiment(**changes)
    observed = make_experiment(**changes, averages=listed)
    times = TrialTimes(10.0, 3.0, 1.0, 2.0, 0.5, 0.25, 5.0, scores={"ema-1": 100.0}, tests={"ema-1": 1000.0})
    before, after = (simulate_search(each, 1, times, confirm=False).seconds for each in (plain, observed))
    assert after - before == pytest.approx(100)  # after the last epoch
    before, after = (simulate_search(each, 1, times).seconds for each in (plain, observed))
    assert after - before == pytest.approx(3 * 100 + 2 * 1000)


@pytest.mark.parametrize("sampler", ["random", "tpe", "qmc", "gp", "cmaes"])
def test_every_sampler_ends(sampler: str) -> None:
    space = {"lr": {"log_uniform": [1e-4, 1e-2]}, "swa_start": {"int": [2, 6]}, "swa_lr": 1e-3}
    experiment = make_experiment(
        space=space, search={"sampler": sampler, "trials": 6}, merge=[], scheduler={"asha": True}
    )
    found = simulate_search(experiment, 2, TIMES)
    assert found.stages["search"].runs == 6 + experiment.baseline_trials


def test_a_disk_that_refuses_ends_no_search_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was counted by then would be too short a time."""
    (tmp_path / "journal.jsonl").mkdir()
    monkeypatch.setattr(simulation, "scratch_folder", lambda purpose: nullcontext(tmp_path))
    with pytest.raises(IsADirectoryError):
        simulate_search(make_experiment(), 2, TIMES)
