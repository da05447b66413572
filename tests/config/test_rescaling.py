"""Spaces with another number of epochs: still valid, in proportion, and unchanged with as many as before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tune_swa.config import Experiment, yaml_file
from tune_swa.config.rescaling import name_rescaled, rescale_experiment
from tune_swa.errors import RequestError
from tune_swa.results.export import write_space
from tune_swa.training.schedule import step_rate

ROOT = Path(__file__).parent.parent.parent
SHIPPED = sorted((ROOT / "search_spaces").glob("*.yaml"))
SPACE = {"lr": 1e-3, "swa_start": {"choice": [60, 75, 90]}, "swa_lr": {"log_uniform": [1e-4, 1e-2]}}
CYCLIC = {"tail": "cyclic", "cycle_epochs": 10}
FAMILY = [
    {"method": "swa"},
    {"method": "ema", "horizon": 6, "warmup": {"method": "power", "start": 30}},
    {"method": "lawa", "last": 12},
    {"method": "lawa", "last": 3},
    {"method": "power_ema", "length": 0.1},
    {"method": "swad", "converge": 6, "tolerance": 30},
    {"method": "swag", "rank": 20},
    {"method": "subspace", "rank": 5, "last": 20},
]
SPACES: dict[str, dict[str, Any]] = {
    "bare": {"space": {**SPACE, "swa_start": 90}},
    "constant": {"space": {**SPACE, "swa_start": {"constant": 0.98}}},
    "fractions": {
        "space": {**SPACE, "swa_start": {"int": [0.4, 0.98]}},
        "points": [{"swa_start": 0.75, "swa_lr": 1e-3}],
    },
    "mixed": {"space": {**SPACE, "swa_start": {"choice": [0.5, 60.0 + 1, 0.9]}}},
    "stepped": {
        "space": {
            **SPACE,
            "swa_start": {"int": [50, 110], "step": 20},
            "train.t_max": {"choice": [None, 60]},
        },
        "points": [{"swa_start": 70, "swa_lr": 1e-3}, {"swa_start": 110, "swa_lr": 1e-3, "train.t_max": 60}],
        "search": {"trials": 12, "epochs": 3000, "checkpoint_every": 30},
    },
    "log": {"space": {**SPACE, "swa_start": {"int": [1, 110], "log": True}}},
    "searched": {
        "train": {"epochs": 120, "warmup_epochs": 12},
        "space": {
            **SPACE,
            "train.warmup_epochs": {"int": [0, 24], "step": 6},
            "averaging.anneal_epochs": {"choice": [0, 5, 10]},
        },
        "points": [{"swa_start": 90, "swa_lr": 1e-3, "averaging.anneal_epochs": 5}],
        "baseline": {"points": [{}, {"train.warmup_epochs": 24}, {"train.warmup_epochs": 18}]},
    },
    "units": {
        "train": {"epochs": 120, "unit": "batch", "warmup_epochs": 240, "t_max": 500},
        "space": {**SPACE, "train.warmup_epochs": {"choice": [0, 240]}},
    },
    "cyclic": {"averaging": CYCLIC},
    "cycles": {
        "averaging": {"tail": "cyclic"},
        "space": {**SPACE, "averaging.cycle_epochs": {"choice": [None, 4, 20]}},
        "averages": [{"method": "swag", "rank": 2}],
    },
    "base": {
        "averaging": {"tail": "base"},
        "space": {"lr": 1e-3, "swa_start": {"choice": [60, 117]}},
        "merge": [{"method": "swap"}, {"method": "soup"}],
        "confirm": {"merges": True},
    },
    "swap": {"merge": [{"method": "swap"}], "confirm": {"merges": True}},
    "family": {"averages": FAMILY, "baseline": {"averages": [{"method": "lawa", "last": 100}]}},
    "best": {"averages": [{"method": "lawa"}, {"method": "swa"}], "objective": {"of": "best"}},
    "rungs": {"scheduler": {"trunk_rungs": [19, 39], "branch_rungs": [80, 100, 118], "grace_epochs": 120}},
}
NEEDS_THREE = {"cyclic", "cycles"}


def make_experiment(**changes: Any) -> Experiment:
    return Experiment.model_validate({"name": "x", "train": {"epochs": 120}, "space": SPACE, **changes})


def check_runs(experiment: Experiment) -> None:
    """Build every run of the points and of the ends of the space, and its learning rates."""
    starts = experiment.list_extremes("swa_start") if "swa_start" in experiment.space else []
    points = [dict(point) for point in experiment.swa_points]
    for start in starts:
        params = {
            p.name: experiment.list_extremes(p.name)[-1]
            for p in experiment.parameters
            if p.name != "swa_start"
        }
        points.append({**params, "swa_start": start})
    for params in points:
        run = experiment.run_settings("swa", params)
        assert run.swa_start is not None
        assert 0 <= run.swa_start <= run.train.epochs - 2
        for epoch in range(run.train.epochs):
            rate = step_rate(run, epoch, 0, 5)
            assert rate is None or rate >= 0
    for params in experiment.baseline_points or ():
        experiment.run_settings("baseline", params)


@pytest.mark.parametrize("epochs", [2, 4, 10, "half", "same", "double"])
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_spaces_are_valid_with_any_number_of_epochs(
    path: Path, epochs: int | str, tmp_path: Path
) -> None:
    whole = yaml_file.load_experiment(path)
    known = {"half": whole.train.epochs // 2, "same": whole.train.epochs, "double": 2 * whole.train.epochs}
    number = epochs if isinstance(epochs, int) else known[epochs]
    found = rescale_experiment(whole, number)
    if number == whole.train.epochs:
        assert found.experiment is whole
        assert found.changes == ()
        return
    assert found.experiment.name == f"{whole.name}-{number}-epochs"
    assert found.experiment.train.epochs == number
    assert found.changes[0] == f"train.epochs: {whole.train.epochs} -> {number}"
    check_runs(found.experiment)
    write_space(found.experiment, tmp_path / "space.yaml")
    again = yaml_file.load_experiment(tmp_path / "space.yaml")
    assert again.fixed_settings() == found.experiment.fixed_settings()
    assert rescale_experiment(again, number).experiment is again, "resumed with the flag: the same experiment"


@pytest.mark.parametrize("epochs", [2, 3, 4, 10, 60, 119, 240])
@pytest.mark.parametrize("name", SPACES)
def test_every_kind_of_setting_is_valid_with_any_number_of_epochs(name: str, epochs: int) -> None:
    whole = make_experiment(**SPACES[name])
    if epochs == 2 and name in NEEDS_THREE:
        with pytest.raises(RequestError, match="give 3 or more"):
            rescale_experiment(whole, epochs)
        return
    check_runs(rescale_experiment(whole, epochs).experiment)


def test_the_values_are_in_proportion() -> None:
    whole = make_experiment(
        train={"epochs": 120, "warmup_epochs": 12, "t_max": 100},
        averages=FAMILY,
        scheduler={"grace_epochs": 12, "trunk_rungs": [59], "branch_rungs": [79, 99]},
        search={"trials": 20, "epochs": 2400, "checkpoint_every": 30},
    )
    found = rescale_experiment(whole, 40)
    short = found.experiment
    assert short.list_extremes("swa_start") == [20, 25, 30]
    assert (short.train.warmup_epochs, short.train.t_max) == (4, 33)
    assert short.averaging.anneal_epochs == 3  # the default 10 of 120
    assert (short.scheduler.grace_epochs, short.scheduler.trunk_rungs) == (4, (19,))
    assert short.scheduler.branch_rungs == (25, 32)  # after 26 of 40 epochs, as after 80 of 120
    assert (short.search.trials, short.search.epochs, short.search.checkpoint_every) == (20, 800, 10)
    labels = [average.label for average in short.averages]
    # two of LAWA became equal; 40 epochs from 30 on have 9 models for SWAG, whose rank is no time
    assert labels == [
        "swa", "ema-2-warmup-power-start-10", "lawa-4", "lawa-2", "power_ema-0.1", "swad-2-10-0.3", "swag-9",
        "subspace-5-last-7",
    ]  # fmt: skip
    assert "space.swa_start: 60, 75, 90 -> 20, 25, 30" in found.changes
    assert "train.warmup_epochs: 12 -> 4" in found.changes
    assert "averages: lawa-12 -> lawa-4" in found.changes


def test_values_that_become_equal_are_merged_and_named() -> None:
    whole = yaml_file.load_experiment(ROOT / "search_spaces" / "tutorial_table.yaml")
    found = rescale_experiment(whole, 4)
    assert "space.swa_start: 60, 75, 90 -> 2 (values that became equal are merged)" in found.changes
    assert "points: moved with the space (values that became equal are merged)" in found.changes
    assert "search.trials: 7 -> 5, with the points" in found.changes
    assert found.experiment.swa_trials == len(found.experiment.swa_points) == 5
    assert found.experiment.constants["swa_start"] == 2
    # what has an effect keeps it: 12 batches of warm-up become 1, not 0
    assert found.experiment.baseline_points == ({"train.warmup_epochs": 1},)


def test_fractions_stay_where_they_fit() -> None:
    found = rescale_experiment(make_experiment(space={**SPACE, "swa_start": {"int": [0.4, 0.9]}}), 20)
    assert found.experiment.model_dump(by_alias=True)["space"]["swa_start"]["int"] == (0.4, 0.9)
    assert "space.swa_start: from 0.4 to 0.9 of the epochs, as before" in found.changes
    shorter = rescale_experiment(make_experiment(space={**SPACE, "swa_start": {"int": [0.4, 0.9]}}), 4)
    assert shorter.experiment.list_extremes("swa_start") == [1, 2]
    assert "space.swa_start: from 0.4 to 0.9 -> from 1 to 2" in shorter.changes


def test_two_epochs_leave_out_what_needs_two_models() -> None:
    found = rescale_experiment(make_experiment(averages=FAMILY, merge=[{"method": "swap"}]), 2)
    labels = [average.label for average in found.experiment.averages]
    assert labels == ["swa", "ema-0.1-warmup-power-start-0.5", "power_ema-0.1"]
    assert not found.experiment.merge
    left_out = "lawa-12, lawa-3, swad-6-30-0.3, swag-20, subspace-5"
    assert f"averages: {left_out} left out, as there is one model to average" in found.changes
    best = rescale_experiment(make_experiment(**SPACES["best"]), 2)
    assert best.experiment.objective.of == "first"


@pytest.mark.parametrize("epochs", [1, 0, -3, 100_001])
def test_other_numbers_are_refused(epochs: int) -> None:
    with pytest.raises(RequestError, match=f"--epochs {epochs}: expected 2 to 100,000"):
        rescale_experiment(make_experiment(), epochs)


def test_a_space_that_cannot_be_rescaled_says_in_which_direction_it_can() -> None:
    grid = {
        "lr": 1e-3,
        "swa_start": {"int": [1, 90]},
        "swa_lr": 1e-3,
        "train.warmup_epochs": {"int": [0, 99]},
    }
    with pytest.raises(RequestError, match=r"so many epochs \(space: the grid has .*\)\. Give fewer$"):
        rescale_experiment(make_experiment(space=grid, search={"sampler": "grid"}), 1200)
    budget = {"lr": {"choice": [1e-3, 3e-3, 1e-2, 3e-2]}, "train.warmup_epochs": {"choice": [0, 2, 4]}}
    whole = make_experiment(space={**SPACE, **budget}, search={"epochs": 600})
    with pytest.raises(RequestError, match=r"so few epochs \(search.epochs: 8 baselines .*\)\. Give more$"):
        rescale_experiment(whole, 4)
    assert rescale_experiment(whole, 60).experiment.baseline_trials == 1


def test_long_names_stay_valid() -> None:
    assert rescale_experiment(make_experiment(name="x" * 100), 4).experiment.name == "x" * 91 + "-4-epochs"
    assert name_rescaled("digits", 4) == "digits-4-epochs"
    assert rescale_experiment(make_experiment(), 4, rename=False).experiment.name == "x"


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_range_of_starts_stays_valid_and_in_order(data: st.DataObject) -> None:
    old = data.draw(st.integers(3, 200))
    low = data.draw(st.integers(0, old - 2))
    step = data.draw(st.integers(1, 9))
    high = low + step * data.draw(st.integers(0, (old - 2 - low) // step))
    start = {"int": [low, high], "step": step}
    point = low + step * data.draw(st.integers(0, (high - low) // step))
    whole = Experiment.model_validate(
        {
            "name": "x",
            "train": {"epochs": old, "warmup_epochs": data.draw(st.integers(0, old - 1))},
            "space": {**SPACE, "swa_start": start},
            "points": [{"swa_start": point, "swa_lr": 1e-3}],
        }
    )
    new = data.draw(st.integers(2, 300))
    found = rescale_experiment(whole, new).experiment
    check_runs(found)
    before, after = whole.list_extremes("swa_start"), found.list_extremes("swa_start")
    assert abs(int(before[0]) / old - int(after[0]) / new) <= 2 / min(old, new)  # type: ignore[arg-type]
    assert int(after[0]) <= int(after[-1])  # type: ignore[arg-type]
