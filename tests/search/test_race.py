"""The race and the planned looks, played without training: who stays, who is tested, when it ends."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.simulated_ray import Driver
from tune_swa.config import Experiment
from tune_swa.experiment.event_lines import encode_event
from tune_swa.experiment.state import ExperimentState
from tune_swa.experiment.trial_state import TrialState
from tune_swa.results.summary import summary_text
from tune_swa.search.confirm_cost import looks_cost, race_configurations, race_cost

SPACE = {"lr": {"choice": [1e-2, 1e-3]}, "swa_start": {"choice": [1, 4]}, "swa_lr": {"choice": [1e-3, 1e-2]}}
RACE = {"configurations": 4, "seeds": 4}
IMAGES = 2000


def experiment(confirm: dict[str, Any], **more: Any) -> Experiment:
    plain = {
        "name": "x", "train": {"epochs": 8}, "space": SPACE, "search": {"sampler": "grid", "seed": 10},
        "scheduler": {"asha": False},
    }  # fmt: skip
    return Experiment.model_validate({**plain, "confirm": confirm, **more})


def drawn(trial: TrialState) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(trial.name.encode()))


def accuracy_of(trial: TrialState) -> float:
    """A rate of 1e-3 is better by five points; but the one run of the search says otherwise."""
    low = trial.params["lr"] == 1e-3
    true = 0.80 + (0.05 if low else 0.0) + (0.02 if trial.kind == "swa" else 0.0)
    if trial.stage == "search":
        return true - (0.10 if low else 0.0)
    return true + 0.001 * drawn(trial).standard_normal()


def right_with(gain: float) -> Any:
    """SWA is right on `gain` more of the test images than plain training, of either rate."""

    def right(trial: TrialState) -> Any:
        chance = 0.7 + (gain if trial.kind == "swa" else 0.0)
        return drawn(trial).random(IMAGES) < chance

    return right


def test_the_race_finds_what_one_run_of_the_search_hid(tmp_path: Path) -> None:
    spec = experiment({"top": 2, "seeds": 5, "race": RACE})
    driver = Driver(spec, tmp_path, 2, confirm=True, accuracy=accuracy_of)
    driver.run_all()
    state = driver.coordinator.state
    searched = sorted((t for t in state.trials.values() if t.stage == "search"), key=accuracy_of)
    assert searched[-1].params["lr"] == 1e-2
    # half of the candidates have the better rate only if the search's order lets them in
    first, *others = state.races
    assert first["round"] == 1
    assert {arm["roles"][0] for arm in first["arms"]} == {"candidate", "baseline"}
    assert len([arm for arm in first["arms"] if arm["kind"] == "swa"]) == 4
    assert all(t.tested is None for t in state.trials.values() if t.stage == "race")
    # fresh seeds of their own, one after another, then those of the look
    seeds = [seed for event in (*state.races, *state.confirmations) for seed in event["seeds"]]
    assert seeds == list(range(11, 11 + 4 + 5))
    assert len(others) == len(first["rounds"]) - 1


def test_both_sides_of_the_look_are_those_that_won(tmp_path: Path) -> None:
    spec = experiment({"top": 1, "seeds": 5, "race": {"configurations": 8, "seeds": 4}})
    driver = Driver(spec, tmp_path, 2, confirm=True, accuracy=accuracy_of)
    driver.run_all()
    (look,) = driver.coordinator.state.confirmations
    swa, *plain = look["arms"]
    assert (swa["kind"], swa["params"]["lr"], swa["roles"]) == ("swa", 1e-3, ["finalist"])
    assert plain[0]["params"] == {"lr": 1e-3}
    assert plain[0]["roles"] == ["baseline", "trunk"]
    runs = [t for t in driver.coordinator.state.trials.values() if t.stage == "confirm"]
    assert len(runs) == 5 * len(look["arms"])
    assert all(t.tested for t in runs)


def test_the_best_plain_training_may_be_that_of_another_candidate(tmp_path: Path) -> None:
    """With a continuous rate, a candidate that gains from averaging is not measured against its own rate
    alone where another candidate's rate does as well without."""
    space = {"lr": {"log_uniform": [1e-4, 1e-1]}, "swa_start": {"choice": [1, 4]}, "swa_lr": 1e-2}
    search = {"sampler": "random", "trials": 6, "seed": 10}
    confirm = {"top": 1, "baselines": 1, "race": {"configurations": 4, "seeds": 3}}
    best: list[float] = []  # the rate of the first candidate, at which SWA loses and plain training wins

    def accuracy(trial: TrialState) -> float:
        good = (trial.params["lr"] in best) == (trial.kind == "baseline")
        noise = 0.001 * drawn(trial).standard_normal()
        return (0.9 if good else 0.6) + (noise if trial.stage == "race" else 0.0)

    spec = experiment(confirm, space=space, search=search)
    driver = Driver(spec, tmp_path, 1, confirm=True, accuracy=accuracy)
    state = driver.coordinator.state
    while (config := driver.suggest()) is not None:
        if state.races and not best:
            best.append(state.races[0].arms[0].params["lr"])
        driver.run(config)
    first, (look,) = state.races[0], state.confirmations
    swa = [arm for arm in first["arms"] if arm["kind"] == "swa"]
    plain = [arm["params"] for arm in first["arms"] if arm["kind"] == "baseline"]
    assert len(swa) == 4
    assert [arm["params"]["lr"] in [p["lr"] for p in plain] for arm in swa] == [True] * 4
    assert len(plain) == len({p["lr"] for p in plain}) <= 5
    finalist, *others = look["arms"]
    assert finalist["params"]["lr"] not in best
    roles = {arm["params"]["lr"]: arm["roles"] for arm in others}
    assert roles[best[0]] == ["baseline"]
    assert [lr for lr in roles if "trunk" in roles[lr]] == [finalist["params"]["lr"]]


def test_where_all_fail_in_the_race_it_is_said_why_there_is_no_verdict(tmp_path: Path) -> None:
    driver = Driver(experiment({"top": 1, "race": RACE}), tmp_path, 1, confirm=True)
    state = driver.coordinator.state
    while (config := driver.suggest()) is not None:
        assert "No verdict" not in summary_text(state)
        if state.races and state.trials[config["trial"]].kind == "swa":
            driver.coordinator.fail_trial(config["trial"], "diverged")
            driver.end(config)
        else:
            driver.run(config)
    assert len(state.races) == 1
    assert state.confirmations == []
    assert "no SWA configuration completed a run on a fresh seed" in summary_text(state)


@pytest.mark.parametrize("share", [True, False])
def test_trunks_are_shared_in_the_race(tmp_path: Path, share: bool) -> None:
    search = {"sampler": "grid", "seed": 10, "share": share}
    driver = Driver(experiment({"race": RACE}, search=search), tmp_path, 2, confirm=True)
    driver.run_all()
    state = driver.coordinator.state
    first = state.races[0]
    for arm in first["arms"]:
        run = state.trials[f"{arm['name']}-race{first['seeds'][0]}"]
        taken_over = sum(r["shared_from"] is not None for r in run.records)
        start = arm["params"].get("swa_start")
        assert taken_over == (0 if start is None or not share else start + 2)
    assert driver.states() == [[]] * len(driver.states())


def test_a_race_of_equals_keeps_the_order_of_the_search(tmp_path: Path) -> None:
    driver = Driver(experiment({"top": 2, "race": RACE}), tmp_path, 1, confirm=True)
    driver.run_all()
    (look,) = driver.coordinator.state.confirmations
    assert [arm["name"] for arm in look["arms"] if arm["kind"] == "swa"] == ["swa-0000", "swa-0001"]


def test_ties_of_the_search_are_broken_by_nll(tmp_path: Path) -> None:
    """Of a few hundred images many configurations have as many right: their numbers decide nothing."""
    driver = Driver(experiment({"top": 1, "race": False}), tmp_path, 1, confirm=True)
    while (config := driver.suggest()) is not None and config["trial"] != "swa-0000-seed11":
        trial = driver.coordinator.state.trials[config["trial"]]
        driver.nll = 0.5 if trial.name == "swa-0005" else 1.0
        driver.run(config)
        if driver.coordinator.state.confirmations:
            break
    assert driver.coordinator.state.confirmations[0].arms[0].name == "swa-0005"


def test_one_candidate_and_one_baseline_need_no_race(tmp_path: Path) -> None:
    space = {"lr": 1e-2, "swa_start": {"choice": [1, 4]}, "swa_lr": 1e-2}
    driver = Driver(experiment({"top": 2, "race": {}}, space=space), tmp_path, 1, confirm=True)
    driver.run_all()
    assert driver.coordinator.state.races == []
    assert len(driver.coordinator.state.confirmations) == 1


# ----------------------------------------------------------------------------------- the looks


def planned(folder: Path, gain: float, **confirm: Any) -> Driver:
    spec = experiment({"top": 1, "race": False, "seeds": 5, "max_seeds": 20, **confirm})
    return Driver(spec, folder, 2, confirm=True, right=right_with(gain))


def test_a_clear_gain_ends_with_the_first_look(tmp_path: Path) -> None:
    driver = planned(tmp_path, 0.2)
    driver.run_all()
    state = driver.coordinator.state
    assert [len(event["seeds"]) for event in state.confirmations] == [5]
    assert state.stops == {1: "success"}


def test_a_hopeless_one_ends_early_too(tmp_path: Path) -> None:
    driver = planned(tmp_path, -0.2)
    driver.run_all()
    assert driver.coordinator.state.stops == {1: "futility"}
    assert len(driver.coordinator.state.confirmations) == 1


def test_an_open_answer_is_looked_at_again_as_planned(tmp_path: Path) -> None:
    driver = planned(tmp_path, 0.008)
    driver.run_all()
    state = driver.coordinator.state
    looks = state.confirmations
    assert len(looks) > 1
    assert all(event["looks"] == looks[0]["looks"] for event in looks)
    assert all(event["levels"] == looks[0]["levels"] for event in looks)
    assert [len(event["seeds"]) for event in looks] == looks[0]["looks"][: len(looks)]
    assert looks[-1]["seeds"][:5] == looks[0]["seeds"]
    assert [state.stops[k] for k in range(1, len(looks))] == [None] * (len(looks) - 1)
    assert state.stops[len(looks)] in ("success", "futility", "seeds")


def test_other_settings_change_nothing_of_what_was_planned(tmp_path: Path) -> None:
    driver = planned(tmp_path / "a", 0.008)
    while len(driver.coordinator.state.confirmations) < 2:
        driver.run(driver.suggest())
    looks = driver.coordinator.state.confirmations[0].looks
    spec = experiment({"top": 1, "race": False, "seeds": 5})
    again = Driver.resume(spec, tmp_path / "a", 2, right=right_with(0.008))
    again.run_all()
    assert again.coordinator.state.confirmations[-1].looks == looks
    assert again.coordinator.state.stops[len(again.coordinator.state.confirmations)] is not None


# ------------------------------------------------------------------------------------- resuming


def outcome(state: ExperimentState) -> dict[str, Any]:
    """What was planned and judged, and what became of every run; not who trained what, and when."""
    planned = [
        {**json.loads(encode_event(event)), "time": None} for event in (*state.races, *state.confirmations)
    ]
    runs = {
        t.name: (
            t.kind,
            t.stage,
            t.params,
            t.seed,
            t.status,
            t.records[-1]["accuracy"],
            t.tested and t.tested.shipped,
        )
        for t in state.trials.values()
    }
    return {"planned": planned, "stops": state.stops, "runs": runs}


def test_a_kill_at_any_line_changes_nothing(tmp_path: Path) -> None:
    """Between looks, within a round of the race, and at every other line of the journal after the search."""
    spec = experiment({"top": 1, "seeds": 5, "max_seeds": 10, "race": {"configurations": 3, "seeds": 2}})
    right = right_with(0.02)
    whole = Driver(spec, tmp_path / "whole", 1, confirm=True, accuracy=accuracy_of, right=right)
    whole.run_all()
    expected = outcome(whole.coordinator.state)
    assert len(whole.coordinator.state.confirmations) == 2
    lines = (tmp_path / "whole" / "journal.jsonl").read_text().splitlines(keepends=True)
    events = [json.loads(line) for line in lines]
    first = next(i for i, e in enumerate(events) if e["event"] == "race")
    boundaries = {i for i, e in enumerate(events) if e["event"] in ("race", "confirm", "judged", "suggested")}
    boundaries |= {i for i, e in enumerate(events) if e["event"] in ("ended", "tested")}
    for number in sorted({i + more for i in boundaries for more in (0, 1)}):
        if not first <= number < len(lines):
            continue
        folder = tmp_path / str(number)
        (folder / "predictions").mkdir(parents=True)
        (folder / "journal.jsonl").write_text("".join(lines[:number]))
        tested = [e["trial"] for e in events[:number] if e["event"] == "tested"]
        for name in tested:
            file = f"predictions/{name}.npz"
            (folder / file).write_bytes((tmp_path / "whole" / file).read_bytes())
        again = Driver.resume(spec, folder, 1, accuracy=accuracy_of, right=right)
        again.run_all()
        assert outcome(again.coordinator.state) == expected, f"killed after line {number}"
        assert again.states() == [[]] * len(again.states())


def test_a_judgement_that_was_recorded_stands_without_its_predictions(tmp_path: Path) -> None:
    driver = planned(tmp_path, 0.2)
    driver.run_all()
    for path in (tmp_path / "predictions").iterdir():
        path.unlink()
    again = Driver.resume(driver.coordinator.experiment, tmp_path, 2)
    assert again.run_all() == []
    assert again.coordinator.state.stops == {1: "success"}


def test_predictions_that_vanish_before_they_are_judged_end_the_search_with_a_reason(tmp_path: Path) -> None:
    driver = planned(tmp_path, 0.2)
    while True:
        config = driver.suggest()
        state = driver.coordinator.state
        if (
            state.confirmations
            and sum(t.stage == "confirm" for t in state.trials.values())
            == len(state.confirmations[0].arms) * 5
        ):
            driver.run(config)
            break
        driver.run(config)
    next((tmp_path / "predictions").iterdir()).unlink()
    assert driver.suggest() is None
    assert "the predictions on the test images cannot be read" in (driver.coordinator.halt_reason or "")
    assert driver.coordinator.state.stops == {}


def test_after_a_longer_search_there_is_a_new_race(tmp_path: Path) -> None:
    space = {**SPACE, "swa_lr": {"log_uniform": [1e-4, 1e-1]}}
    search = {"sampler": "random", "trials": 6, "seed": 10}
    spec = experiment({"top": 1, "race": RACE}, space=space, search=search)
    driver = Driver(spec, tmp_path, 2, confirm=True)
    driver.run_all()
    rounds = len(driver.coordinator.state.races)
    longer = experiment({"top": 1, "race": RACE}, space=space, search={**search, "trials": 8})
    again = Driver.resume(longer, tmp_path, 2)
    again.run_all()
    state = again.coordinator.state
    assert state.races[rounds].round == 1
    assert [e["plan"] for e in state.confirmations] == [1, 2]
    used = [set(e["seeds"]) for e in (*state.races, *state.confirmations)]
    assert sum(map(len, used)) == len(set().union(*used))


# ---------------------------------------------------------------------------------------- costs


def count_runs(state: ExperimentState, stage: str) -> tuple[int, int]:
    """Runs of a stage, and epochs that they trained by themselves."""
    runs = [t for t in state.trials.values() if t.stage == stage]
    return len(runs), sum(r.get("shared_from") is None for t in runs for r in t.records)


@pytest.mark.parametrize(
    "confirm",
    [
        {"race": {"configurations": 4, "seeds": 4}},
        {"race": {}},
        {"race": False, "baselines": 1},
        {"race": {"configurations": 8, "seeds": 3}, "top": 3, "seeds": 6, "max_seeds": 9},
    ],
)
@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("sampler", ["grid", "random"])
def test_the_cost_is_foreseen(tmp_path: Path, confirm: dict[str, Any], share: bool, sampler: str) -> None:
    """Also with a continuous rate, where hardly any trunk has a baseline."""
    space = SPACE if sampler == "grid" else {**SPACE, "lr": {"log_uniform": [1e-4, 1e-1]}}
    search = {"sampler": sampler, "seed": 10, "share": share, "trials": 8}
    spec = experiment(confirm, search=search, space=space)
    driver = Driver(spec, tmp_path, 1, confirm=True)
    driver.run_all()
    for stage, cost in (("race", race_cost(spec)), ("confirm", looks_cost(spec))):
        runs, epochs = count_runs(driver.coordinator.state, stage)
        assert cost.runs[0] <= runs <= cost.runs[1]
        assert cost.epochs[0] <= epochs <= cost.epochs[1]


def test_the_race_of_itself_costs_half_as_much_at_most() -> None:
    for epochs in (8, 200):
        for trials in (3, 8, 30, 100):
            space = {"lr": {"log_uniform": [1e-4, 1e-1]}, "swa_start": {"int": [3, 5]}, "swa_lr": 1e-2}
            spec = experiment(
                {}, space=space, train={"epochs": epochs}, search={"sampler": "tpe", "trials": trials}
            )
            bare = spec.model_copy(update={"confirm": spec.confirm.model_copy(update={"race": False})})
            whole = (spec.swa_trials + spec.baseline_trials) * epochs + looks_cost(bare).epochs[1]
            assert race_cost(spec).epochs[1] <= whole / 2
            assert race_configurations(spec) <= 8


@pytest.mark.parametrize("search", [{"sampler": "grid"}, {"sampler": "tpe", "trials": 16}])
def test_the_race_is_the_same_without_sharing(search: dict[str, Any], tmp_path: Path) -> None:
    """Whose runs cost more: what the race may cost is counted as if they did not."""
    rates = (
        {"choice": [1e-2, 3e-3, 1e-3, 3e-4]} if search["sampler"] == "grid" else {"log_uniform": [1e-4, 1e-2]}
    )
    space, entered = {**SPACE, "lr": rates}, []
    for share in (True, False):
        spec = experiment({"top": 1, "seeds": 5}, space=space, search={**search, "seed": 10, "share": share})
        driver = Driver(spec, tmp_path / f"{share}", 1, confirm=True, accuracy=accuracy_of)
        driver.run_all()
        state = driver.coordinator.state
        entered.append(
            [arm["name"] for event in (*state.races, *state.confirmations) for arm in event["arms"]]
        )
    assert entered[0] == entered[1]
    assert entered[0]
