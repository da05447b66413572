"""What is published, who waits for it, and what may be removed: without training anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.simulated_ray import Driver
from tune_swa.config import Experiment
from tune_swa.experiment.journal import read_events
from tune_swa.experiment.state import ExperimentState
from tune_swa.search.confirm_cost import max_fresh_states
from tune_swa.search.coordinator import Coordinator
from tune_swa.search.planner import Later, Suggestion
from tune_swa.search.resume import replay_events
from tune_swa.search.trunk_sharing import MAX_STATES, TrunkSharing, fork_points, max_states, planned_epochs

GRID = {"lr": {"choice": [1e-2, 1e-3]}, "swa_start": {"choice": [1, 4]}, "swa_lr": {"choice": [1e-3, 1e-2]}}


def experiment(space: dict[str, Any], epochs: int = 8, **more: Any) -> Experiment:
    return Experiment.model_validate(
        {
            "name": "x", "train": {"epochs": epochs}, "space": space, "search": {"sampler": "grid"},
            "scheduler": {"asha": False}, **more,
        }
    )  # fmt: skip


# ------------------------------------------------------------------------------ what is published


def test_the_tutorials_grid_at_24_epochs() -> None:
    """24 epochs of the trunk, then 10, 7 or 4 for each of fifteen branches, of 16 x 24."""
    rates = {"choice": [0.05, 5e-4, 1e-4, 5e-5, 1e-5]}
    spec = experiment({"lr": 1e-4, "swa_start": {"choice": [12, 15, 18]}, "swa_lr": rates}, 24)
    assert fork_points(spec) == (13, 16, 19)
    assert planned_epochs(spec) == 24 + 5 * (10 + 7 + 4) == 129


def test_a_sampler_decides_for_itself() -> None:
    assert planned_epochs(experiment(GRID, search={"sampler": "tpe", "trials": 8})) is None


@pytest.mark.parametrize(
    ("starts", "expected"),
    [
        ({"int": [3, 6]}, (4, 5, 6, 7)),
        ({"int": [0, 20]}, (1, 4, 7, 10, 13, 16, 19)),  # every third of 21
        ({"int": [10, 50], "step": 10}, (11, 21, 31, 41, 51)),
    ],
)
def test_wide_ranges_are_thinned_out(starts: dict[str, Any], expected: tuple[int, ...]) -> None:
    space = {"lr": 1e-3, "swa_start": starts, "swa_lr": {"log_uniform": [1e-4, 1e-2]}}
    spec = experiment(space, 60, search={"sampler": "tpe", "trials": 20})
    assert fork_points(spec) == expected
    assert len(expected) <= MAX_STATES


def test_the_plan_counts_the_states_that_there_can_be(tmp_path: Path) -> None:
    """Two rates, averaging from any of 41 epochs: no trial publishes more than those that all can use."""
    space = {**GRID, "swa_start": {"int": [10, 50]}}
    spec = experiment(space, 60, search={"sampler": "random", "trials": 40})
    assert max_states(spec) == 2 * len(fork_points(spec)) == 14
    driver = Driver(spec, tmp_path, 1)
    alive = 0
    while (config := driver.suggest()) is not None:
        driver.run(config)
        alive = max(alive, sum(map(len, driver.states())))
    assert 8 <= alive <= 14


def test_the_plan_counts_the_states_of_fresh_seeds_and_of_points() -> None:
    space = {**GRID, "lr": {"log_uniform": [1e-4, 1e-2]}}
    search = {"sampler": "random", "trials": 6, "reuse": False}
    spec = experiment(space, search=search, confirm={"top": 2, "seeds": 5})
    assert (max_states(spec), max_fresh_states(spec)) == (0, 10)
    adaptive = experiment(space, search=search, confirm={"top": 3, "seeds": 5, "max_seeds": 20})
    assert max_fresh_states(adaptive) == 15  # five seeds more at each look
    points = [{"lr": 1e-3, "swa_start": start, "swa_lr": 1e-3} for start in (1, 4)]
    spec = experiment(space, search=search, points=points)
    assert max_states(spec) == 2


def test_a_trunk_that_nobody_will_leave_is_not_published(tmp_path: Path) -> None:
    """As that of the baseline in the tutorial's table, which alone has a warm-up."""
    space = {**GRID, "lr": 1e-3, "train.warmup_epochs": {"choice": [0, 2]}}
    points = [{"swa_start": start, "swa_lr": 1e-3, "train.warmup_epochs": 0} for start in (1, 4)]
    spec = experiment(
        space, points=points, search={"sampler": "grid", "trials": 2},
        baseline={"points": [{"train.warmup_epochs": 2}]},
    )  # fmt: skip
    driver = Driver(spec, tmp_path, 8, gpus=2)
    baseline, first = driver.suggest() or {}, driver.suggest() or {}
    assert (baseline["publish"], baseline["gpus"]) == ([], 0.25)
    assert first["publish"] == [2]
    assert max_states(spec) == 2


def test_rates_that_do_not_recur_are_not_published(tmp_path: Path) -> None:
    space = {**GRID, "lr": {"log_uniform": [1e-4, 1e-2]}}
    driver = Driver(
        experiment(space, search={"sampler": "tpe", "trials": 6, "reuse": False}, baseline={"trials": 1}),
        tmp_path,
        1,
    )
    while (config := driver.suggest()) is not None:
        assert config["publish"] == config["published"] == []
        driver.run(config)


# ------------------------------------------------------------------------------------ who waits


def test_a_branch_waits_for_its_state_and_another_trunk_does_not(tmp_path: Path) -> None:
    driver = Driver(experiment(GRID), tmp_path, 3)
    first, second = driver.suggest(), driver.suggest()
    assert first is not None
    assert second is not None
    assert [first["trial"], second["trial"]] == ["baseline-0000", "baseline-0001"]
    assert first["publish"] == [2, 5]
    assert driver.suggest() is None  # every branch waits for one of the two
    while driver.epoch(second) < 2:
        assert driver.suggest() is None
    # the first branches of the grid belong to the other rate: they wait, and this one is offered
    branch = driver.suggest()
    assert branch is not None
    assert branch["trial"] == "swa-0004"
    assert branch["recorded_epochs"] == 2
    assert branch["published"] == [2]
    assert branch["publish"] == [2]  # known, so not published again


def test_without_anybody_alive_nobody_waits(tmp_path: Path) -> None:
    """Ray would sleep for minutes."""
    driver = Driver(experiment(GRID), tmp_path, 3)
    while (config := driver.suggest()) is not None:
        driver.end(config)  # it failed: whoever is next takes over
        driver.coordinator.fail_trial(config["trial"], "no reason")
    assert len(driver.coordinator.state.trials) == 10
    assert driver.coordinator.planner.next_suggestion() is None


def test_the_next_one_takes_over_from_the_last_published_state(tmp_path: Path) -> None:
    driver = Driver(experiment({**GRID, "lr": 1e-3}), tmp_path, 2)
    baseline = driver.suggest()
    assert baseline is not None
    while driver.epoch(baseline) < 3:
        pass
    early = driver.suggest()
    assert early is not None
    assert early["trial"] == "swa-0000"
    driver.run(early)
    driver.run(driver.suggest() or {})  # the other one that starts early
    assert driver.suggest() is None  # the late ones wait for epoch 5 of the baseline
    driver.coordinator.fail_trial("baseline-0000", "lost")
    driver.end(baseline)
    late = driver.suggest()
    assert late is not None
    assert late["trial"] == "swa-0002"
    assert late["recorded_epochs"] == 3  # the state after epoch 2; epoch 3 was trained, but not published
    assert late["publish"] == [2, 5]
    assert driver.suggest() is None  # and the last one waits for it
    driver.run(late)
    last = driver.suggest()
    assert last is not None
    assert last["recorded_epochs"] == 5
    driver.run(last)
    records = driver.coordinator.state.trials["swa-0003"].records
    assert [r["shared_from"] for r in records] == ["baseline-0000"] * 4 + ["swa-0002"] * 2 + [None] * 2
    assert driver.suggest() is None
    assert driver.coordinator.planner.next_suggestion() is None


def test_a_trunk_that_diverges_is_trained_once(tmp_path: Path) -> None:
    """Every trial that trains the epoch fails at once; the one that forks before goes on."""
    space = {**GRID, "swa_start": {"choice": [0, 2, 4]}}
    driver = Driver(experiment(space), tmp_path, 2)
    first, second = driver.suggest() or {}, driver.suggest() or {}
    while driver.epoch(first) < 2:
        pass
    driver.coordinator.fail_trial(first["trial"], "the training loss is nan in epoch 3", trunk_epoch=3)
    driver.end(first)
    begun = [driver.suggest() or {}]
    driver.run(second)
    while (config := driver.suggest()) is not None:
        begun.append(config)
        driver.run(config)
    driver.run(begun[0])
    state = driver.coordinator.state
    on_it = [t for t in state.trials.values() if t.trunk == state.trials[first["trial"]].trunk]
    assert {t.params["swa_start"]: t.status for t in on_it[1:]} == {0: "completed", 2: "failed", 4: "failed"}
    for trial in on_it:
        if trial.params.get("swa_start", 0) > 0:
            assert trial.next_epoch == 3
            assert trial.error == (
                "the training loss is nan in epoch 3 (found by baseline-0000, which has the same trunk)"
            )
    assert len(begun) == 2 + 6
    again = ExperimentState.read(tmp_path / "journal.jsonl")
    assert again.trunks == state.trunks
    assert {t.status for t in again.trials.values() if t.trunk != on_it[0].trunk} == {"completed"}


def test_a_sampler_is_asked_for_no_more_than_a_few_that_wait(tmp_path: Path) -> None:
    space = {**GRID, "lr": 1e-3, "swa_lr": {"log_uniform": [1e-4, 1e-2]}}
    driver = Driver(experiment(space, search={"sampler": "tpe", "trials": 9}), tmp_path, 2)
    assert driver.suggest() is not None
    assert driver.suggest() is None
    assert driver.suggest() is None
    assert len(driver.coordinator.state.trials) == 1 + 2  # the baseline, and as many as there are slots
    assert driver.coordinator.planner.next_suggestion(draw=False) is Later.HELD_BACK
    assert isinstance(driver.coordinator.planner.next_suggestion(), Suggestion)


@pytest.mark.parametrize(
    ("gpus", "slots", "shares"),
    [
        (1, 4, [0.25, 0.25]),  # the branches need it, too
        (2, 8, [1.0, 0.25]),  # one of the two is left to the branches
        (3, 12, [1.0, 1.0]),
        (4, 4, [1.0, 1.0]),  # a GPU for each trial anyway
    ],
)
def test_whoever_others_wait_for_has_a_gpu_to_itself(
    gpus: int, slots: int, shares: list[float], tmp_path: Path
) -> None:
    driver = Driver(experiment(GRID), tmp_path, slots, gpus)
    first, second = driver.suggest() or {}, driver.suggest() or {}
    assert [first["gpus"], second["gpus"]] == shares
    driver.run(first)
    branches = []
    while (config := driver.suggest()) is not None:
        branches.append(config)
        assert config["gpus"] == gpus / slots
    assert len(branches) == min(4, slots - 1)  # those of the other rate wait
    for config in (second, *branches):
        driver.run(config)
    assert driver.suggest() is not None


@pytest.mark.parametrize(("gpus", "share"), [(3, 0.25), (4, 1.0)])
def test_no_whole_gpu_is_asked_for_where_none_may_be_free(gpus: int, share: float, tmp_path: Path) -> None:
    """Three trials with a part of one are out, on three GPUs perhaps."""
    space = {**GRID, "lr": {"log_uniform": [1e-4, 1e-1]}}
    points = [{"lr": lr, "swa_start": 1, "swa_lr": rate} for lr, rate in
              ((1e-3, 1e-3), (2e-3, 1e-3), (3e-3, 1e-3), (3e-3, 1e-2))]  # fmt: skip
    search = {"sampler": "random", "trials": 4, "reuse": False}
    spec = experiment(space, points=points, baseline={"trials": 1}, search=search)
    driver = Driver(spec, tmp_path, 4 * gpus, gpus)
    configs = [driver.suggest() or {} for _ in range(4)]
    assert [c["gpus"] for c in configs] == [0.25, 0.25, 0.25, share]
    assert [c["publish"] for c in configs] == [[], [], [], [2]]


# --------------------------------------------------------------------------------- what is pruned


def test_a_trunk_that_is_too_low_takes_its_branches_with_it_but_no_baseline(tmp_path: Path) -> None:
    """The better rate's trunk is seen first, then the worse one's: its branches end at the rung."""
    scheduler = {"trunk_rungs": [3], "branch_rungs": [6], "reduction_factor": 2}
    driver = Driver(experiment(GRID, scheduler=scheduler), tmp_path, 2)
    good, bad = driver.suggest(), driver.suggest()
    assert good is not None
    assert bad is not None
    reported = driver.coordinator.asha
    driver.run(good)
    driver.epoch(bad), driver.epoch(bad), driver.epoch(bad)
    trial = driver.coordinator.state.trials[bad["trial"]]
    record = {**trial.records[-1], "epoch": 3, "accuracy": 0.1, "live_accuracy": 0.1}
    driver.coordinator.record_epoch(trial.name, record, None)
    assert reported.stopped_at(trial.trunk, 6) == 3
    assert not trial.ended
    while (config := driver.suggest()) is not None:
        driver.run(config)
    trials = driver.coordinator.state.trials.values()
    doomed = [t for t in trials if t.trunk == trial.trunk and t.kind == "swa" and (t.fork_epoch or 0) > 3]
    assert len(doomed) == 2
    for other in doomed:
        assert other.status == "pruned"
        assert [r["shared_from"] for r in other.records] == [trial.name] * 4
        assert other.rungs == {3: "stop"}
    # averaging began before the rung: the branch is judged by its own
    early = [t for t in trials if t.trunk == trial.trunk and t.fork_epoch == 2]
    assert all(3 not in t.rungs for t in early)
    assert not trial.ended  # the baseline goes on


# ------------------------------------------------------------------------------- what is removed


def test_states_go_when_nobody_can_need_them(tmp_path: Path) -> None:
    driver = Driver(experiment({**GRID, "lr": 1e-3}), tmp_path, 1)
    driver.run(driver.suggest() or {})
    assert driver.states() == [[2, 5]]
    for expected in ([2, 5], [5], [5], []):
        driver.run(driver.suggest() or {})
        assert driver.states() == [expected]


def test_states_stay_while_a_sampler_may_come_back_to_them(tmp_path: Path) -> None:
    driver = Driver(experiment(GRID, search={"sampler": "random", "trials": 6}), tmp_path, 1)
    while (config := driver.suggest()) is not None:
        driver.run(config)
        if driver.coordinator.planner.draws_more():
            assert [2, 5] in driver.states()
    assert driver.states() == [[], []]


def test_the_end_of_a_trial_releases_its_own_trunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To look through all of them for each of thousands of trials would take the driver's time."""
    looked: list[str] = []
    unneeded_states = TrunkSharing.unneeded_states

    def spy(sharing: TrunkSharing, trunk: str) -> list[int]:
        looked.append(trunk)
        return unneeded_states(sharing, trunk)

    monkeypatch.setattr(TrunkSharing, "unneeded_states", spy)
    driver = Driver(experiment(GRID), tmp_path, 1)
    driver.run(driver.suggest() or {})
    while (config := driver.suggest()) is not None:
        looked.clear()
        driver.run(config)
        assert looked == [driver.coordinator.state.trials[config["trial"]].trunk]
    assert driver.states() == [[], []]


def test_a_journal_says_who_shared_what(tmp_path: Path) -> None:
    driver = Driver(experiment(GRID), tmp_path, 2)
    while (config := driver.suggest()) is not None:
        driver.run(config)
    driver.coordinator.close()
    again = ExperimentState.read(tmp_path / "journal.jsonl")
    assert again.trials == driver.coordinator.state.trials
    assert again.trunks == driver.coordinator.state.trunks
    replayed = Coordinator(driver.coordinator.experiment, tmp_path, again)
    replay_events(replayed, list(read_events(tmp_path / "journal.jsonl")))
    assert replayed.planner.next_suggestion() is None
