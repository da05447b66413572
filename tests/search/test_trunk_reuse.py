"""Suggestions along known trunks, and budgets in epochs: through the coordinator, without training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from helpers.simulated_ray import Driver
from tune_swa.config import Experiment, Params
from tune_swa.errors import RequestError
from tune_swa.experiment.events import TrialSuggested
from tune_swa.experiment.folder import describe_reuse, load_earlier_events, recall_reuse
from tune_swa.experiment.journal import read_events
from tune_swa.experiment.trial_state import TrialState
from tune_swa.search.trunk_reuse import KNOWN_TRUNKS, MOVED_IN_A_ROW, TrunkReuse
from tune_swa.search.trunk_sharing import max_states

EPOCHS = 10
SPACE: dict[str, Any] = {
    "lr": {"log_uniform": [1e-4, 1e-2]},
    "swa_start": {"int": [4, 8]},
    "swa_lr": {"log_uniform": [1e-4, 1e-2]},
}
SAMPLERS = ("tpe", "gp", "random")


def experiment(**changes: Any) -> Experiment:
    """Ten epochs, four baselines and sixteen SWA trials; what changes in some sections is added."""
    search = {"sampler": "tpe", "trials": 16, "seed": 1, **changes.pop("search", {})}
    scheduler = {"trunk_rungs": [4], "branch_rungs": [7], **changes.pop("scheduler", {})}
    return Experiment.model_validate(
        {"name": "x", "train": {"epochs": EPOCHS}, "space": SPACE, "search": search, "scheduler": scheduler,
         "baseline": {"trials": 4}, **changes}
    )  # fmt: skip


def accuracy(trial: TrialState) -> float:
    """Rises from epoch to epoch, and is highest at rates of 1e-3."""
    away = [abs(math.log10(trial.params.get(name, 1e-3) / 1e-3)) for name in ("lr", "swa_lr")]
    return 0.5 + 0.01 * trial.next_epoch - 0.05 * sum(away)


def run_search(driver: Driver, trials: int | None = None) -> Driver:
    """Run trials one after the other, to the end of the search or so many."""
    while trials is None or trials > 0:
        config = driver.suggest()
        if config is None or driver.coordinator.state.trials[config["trial"]].stage != "search":
            break
        driver.run(config)
        trials = None if trials is None else trials - 1
    return driver


def start(spec: Experiment, folder: Path, slots: int = 1) -> Driver:
    return Driver(spec, folder, slots, accuracy=accuracy)


def suggested(folder: Path) -> list[tuple[str, str, Params]]:
    events = read_events(folder / "journal.jsonl")
    found = (e for e in events if isinstance(e, TrialSuggested) and e.stage == "search")
    return [(e.trial, e.source, e.params) for e in found]


def count_trained(driver: Driver) -> int:
    """Epochs that were trained, shared ones once."""
    trials = (t for t in driver.coordinator.state.trials.values() if t.stage == "search")
    return sum(record.get("shared_from") is None for trial in trials for record in trial.records)


# ------------------------------------------------------------------------------------- the rule


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_trunk_is_reused_while_branches_have_taken_fewer_epochs(sampler: str, tmp_path: Path) -> None:
    spec = experiment(search={"sampler": sampler, "trials": 40}, scheduler={"asha": False})
    driver = run_search(start(spec, tmp_path))
    trunks: dict[str, int] = {}
    branches = in_a_row = reused = 0
    for trial in driver.coordinator.state.trials.values():
        if trial.kind == "swa":
            is_due = branches < sum(trunks.values()) and in_a_row < MOVED_IN_A_ROW
            moved = "reused" in trial.source
            assert is_due or not moved, trial.name
            assert trial.trunk in trunks or not moved
            # the Gaussian process repeats itself, and then opens a trunk, or draws the bound of one twice
            assert sampler == "gp" or moved == is_due == (trial.trunk in trunks), trial.name
        in_a_row = in_a_row + 1 if trial.trunk in trunks else 0
        reused += trial.trunk in trunks
        along = EPOCHS if trial.fork_epoch is None else trial.fork_epoch + 1
        trunks[trial.trunk] = max(trunks.get(trial.trunk, 0), along)
        branches += EPOCHS - along
    assert reused > 10
    assert len(trunks) > 8  # of which four are the baselines'


def test_a_moved_suggestion_keeps_its_swa_settings_and_trains_its_branch_only(tmp_path: Path) -> None:
    driver = run_search(start(experiment(scheduler={"asha": False}), tmp_path), 4)
    rates = {trial.params["lr"] for trial in driver.coordinator.state.trials.values()}
    config = driver.suggest() or {}
    trial = driver.coordinator.state.trials[config["trial"]]
    assert trial.kind == "swa"
    assert trial.params["lr"] in rates
    assert trial.next_epoch == trial.fork_epoch  # the fork epoch is trained, too
    assert config["published"][-1] == trial.fork_epoch
    plain = run_search(start(experiment(search={"reuse": False}), tmp_path / "plain"), 5)
    drawn = plain.coordinator.state.trials["swa-0000"].params
    assert drawn["lr"] not in rates
    assert {**drawn, "lr": trial.params["lr"]} == trial.params


def test_trunks_are_opened_however_short_branches_are(tmp_path: Path) -> None:
    spec = experiment(scheduler={"asha": False}, space={**SPACE, "swa_start": 8})
    driver = run_search(start(spec, tmp_path))
    rates = [trial.params["lr"] for trial in driver.coordinator.state.trials.values()]
    opened = [number for number, rate in enumerate(rates) if rate not in rates[:number]]
    assert opened == [0, 1, 2, 3, 9, 15]


def test_trunks_are_opened_where_each_refresh_has_its_own(tmp_path: Path) -> None:
    """A schedule-free optimizer's trunk is refreshed as the average is, so a moved suggestion has another."""
    train = {"epochs": EPOCHS, "optimizer": "schedulefree_sgd", "schedule": "constant"}
    space = {**SPACE, "averaging.bn_batches": {"int": [1, 1000]}}
    driver = run_search(start(experiment(scheduler={"asha": False}, train=train, space=space), tmp_path))
    trials = driver.coordinator.state.trials.values()
    assert len({trial.trunk for trial in trials}) == len(trials)
    assert len({trial.params["lr"] for trial in trials}) > 4 + 1  # of which four are the baselines'


def test_the_nearest_trunk_is_found_in_all_of_its_settings() -> None:
    spec = experiment(
        space={
            **SPACE,
            "train.weight_decay": {"choice": [0.0, 1e-4]},
            "train.momentum": {"uniform": [0, 0.5]},
        }
    )
    rule = TrunkReuse.of_experiment(spec)
    assert rule is not None
    near = {"lr": 1e-3, "train.weight_decay": 0.0, "train.momentum": 0.2}
    for name, params in {
        "decays": {**near, "train.weight_decay": 1e-4},
        "rate": {**near, "lr": 3e-3},  # a quarter of the range
        "momentum": {**near, "train.momentum": 0.35},  # three tenths of it
    }.items():
        rule.apply_event(suggestion(name, params))
        assert rule.move_params("swa", {**near, "swa_lr": 0.1}) != {**params, "swa_lr": 0.1}  # it still runs
        rule.apply_event(end(name, 0.5))
    assert rule.move_params("swa", {**near, "swa_lr": 0.1}) == {**near, "lr": 3e-3, "swa_lr": 0.1}


def test_only_the_best_trunks_are_known(tmp_path: Path) -> None:
    rule = TrunkReuse.of_experiment(experiment())
    assert rule is not None
    for number in range(KNOWN_TRUNKS + 2):
        rule.apply_event(suggestion(f"t{number}", {"lr": 1e-3 + 1e-5 * number}))
        rule.apply_event(end(f"t{number}", 0.5 + 0.01 * number if number != 3 else None))
    best = [f"t{n}" for n in range(KNOWN_TRUNKS + 1, -1, -1) if n != 3]
    assert rule.known_trunks() == best[:KNOWN_TRUNKS]
    assert not rule.may_return_to("t3")
    nll = TrunkReuse.of_experiment(experiment(objective={"metric": "nll"}))
    assert nll is not None
    for name, value in (("low", 0.1), ("high", 0.9)):
        nll.apply_event(suggestion(name, {"lr": 1e-3}))
        nll.apply_event(end(name, value))
    assert nll.known_trunks() == ["low", "high"]


def suggestion(trunk: str, params: Params) -> TrialSuggested:
    """A baseline on a trunk of the same name."""
    return TrialSuggested(
        trial=trunk, kind="baseline", stage="search", params=dict(params), seed=0, source="tpe", index=0,
        trunk=trunk, first_average=None,
    )  # fmt: skip


def end(trial: str, value: float | None) -> Any:
    from helpers.journals import make_event

    status = "failed" if value is None else "completed"
    return make_event("ended", trial=trial, status=status, value=value, error=None)


@pytest.mark.parametrize(
    "changes",
    [{"search": {"reuse": False}}, {"search": {"sampler": "qmc"}}, {"search": {"sampler": "cmaes"}},
     {"space": {**SPACE, "lr": {"choice": [1e-3, 2e-3, 3e-3]}}}],
    ids=["false", "qmc", "cmaes", "listed"],
)  # fmt: skip
def test_it_can_be_turned_off_and_is_not_where_it_has_no_sense(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    spec = experiment(**changes)
    assert "reuse" not in spec.fixed_settings()["search"]
    run_search(start(spec, tmp_path))
    assert not any("reused" in source for _, source, _ in suggested(tmp_path))


# ------------------------------------------------------------------------------ resumes and sharing


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("changes", [{}, {"epochs": 90}], ids=["trials", "epochs"])
def test_a_resumed_search_suggests_what_it_would_have(
    sampler: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    spec = experiment(search={"sampler": sampler, **changes})
    run_search(start(spec, tmp_path / "straight"))
    straight = (tmp_path / "straight" / "journal.jsonl").read_bytes().splitlines(keepends=True)
    expected = suggested(tmp_path / "straight")
    assert sum("reused" in source for _, source, _ in expected) > 4
    for part in range(1, 9):  # killed after any line
        folder = tmp_path / f"{part}"
        folder.mkdir()
        (folder / "journal.jsonl").write_bytes(b"".join(straight[: 1 + part * len(straight) // 9]))
        run_search(Driver.resume(spec, folder, 1, accuracy=accuracy))
        assert suggested(folder) == expected


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_trial_at_a_time_suggests_the_same_without_sharing(sampler: str, tmp_path: Path) -> None:
    shared = run_search(start(experiment(search={"sampler": sampler}), tmp_path / "shared"))
    alone = run_search(start(experiment(search={"sampler": sampler, "share": False}), tmp_path / "alone"))
    assert suggested(tmp_path / "shared") == suggested(tmp_path / "alone")
    assert count_trained(shared) < 0.8 * count_trained(alone)


def test_a_longer_search_puts_its_baselines_on_trunks_of_swa(tmp_path: Path) -> None:
    run_search(start(experiment(scheduler={"asha": False}), tmp_path))
    longer = experiment(scheduler={"asha": False}, search={"trials": 24}, baseline={"trials": 8})
    driver = Driver.resume(longer, tmp_path, 1, accuracy=accuracy)
    before = {t.params["lr"] for t in driver.coordinator.state.trials.values() if t.kind == "swa"}
    run_search(driver)
    new = [t for t in driver.coordinator.state.trials.values() if t.kind == "baseline" and t.index >= 4]
    assert len({t.params["lr"] for t in new}) == 4
    assert any(t.params["lr"] in before for t in new)


def test_a_search_of_before_goes_on_as_it_began(tmp_path: Path) -> None:
    old = experiment(search={"reuse": False})
    driver = run_search(start(old, tmp_path), 6)
    header = driver.coordinator.state.header
    assert header is not None
    assert "reuse" not in header.identity["search"]
    recalled = recall_reuse(experiment(), header)
    assert not recalled.reuses_trunks
    assert recalled.fixed_settings() == header.identity
    new = start(experiment(), tmp_path / "new").coordinator.state.header
    assert recall_reuse(experiment(), new).reuses_trunks
    assert "search.reuse is false, as when this search began" in (describe_reuse(experiment(), header) or "")
    assert describe_reuse(old, header) is None  # nobody asks for it
    assert describe_reuse(experiment(), new) is None
    with pytest.raises(RequestError, match="search.reuse: was 'auto', is False"):
        load_earlier_events(tmp_path / "new", old, resume=True)


# ----------------------------------------------------------------------------------- several slots


def run_slots(driver: Driver, slots: int, limit: int = 2000) -> int:
    """Run several trials side by side, an epoch each in turn; return the most states that there were."""
    live: list[dict[str, Any]] = []
    most = 0
    for _ in range(limit):
        while len(live) < slots and (config := driver.suggest()) is not None:
            live.append(config)
        if not live:
            return most
        for config in list(live):
            trial = driver.coordinator.state.trials[config["trial"]]
            if not trial.ended:
                driver.epoch(config)
            if trial.ended:
                driver.end(config)
                live.remove(config)
        most = max(most, sum(map(len, driver.states())))
    raise AssertionError("it does not end")


@pytest.mark.parametrize("slots", [2, 5])
def test_trials_side_by_side_end_and_leave_no_state(slots: int, tmp_path: Path) -> None:
    spec = experiment(search={"trials": 60})
    driver = start(spec, tmp_path, slots)
    most = run_slots(driver, slots)
    assert len(driver.coordinator.state.trials) == 64
    assert most <= max_states(spec, slots)
    assert driver.states() == [[]] * len(driver.states())
    assert sum("reused" in source for _, source, _ in suggested(tmp_path)) > 20


# ---------------------------------------------------------------------------------- the budget


@pytest.mark.parametrize("reuse", ["auto", False])
@pytest.mark.parametrize("slots", [1, 3])
def test_no_trial_begins_when_the_epochs_are_used_up(reuse: Any, slots: int, tmp_path: Path) -> None:
    spec = experiment(search={"trials": None, "epochs": 150, "reuse": reuse})
    driver = start(spec, tmp_path, slots)
    run_slots(driver, slots)
    trained = count_trained(driver)
    assert 150 <= trained < 150 + EPOCHS * slots
    assert driver.coordinator.has_searched
    assert len(driver.coordinator.state.of_kind("swa")) > (20 if reuse else 9)
    longer = experiment(search={"trials": None, "epochs": 200, "reuse": reuse})
    assert longer.fixed_settings() == spec.fixed_settings()
    driver = Driver.resume(longer, tmp_path, 1, accuracy=accuracy)
    assert not driver.coordinator.has_searched
    run_search(driver)
    assert 200 <= count_trained(driver) < 200 + EPOCHS


def test_the_number_of_trials_holds_within_a_budget(tmp_path: Path) -> None:
    driver = run_search(start(experiment(search={"trials": 3, "epochs": 500}), tmp_path))
    assert len(driver.coordinator.state.of_kind("swa")) == 3
    assert driver.coordinator.has_searched


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"epochs": 40}, "4 baselines of 10 epochs train 40, which leaves none for SWA; give more than 40"),
        ({"epochs": 400, "sampler": "grid"}, "a grid is run as a whole; take epochs out"),
    ],
)
def test_budgets_that_make_no_sense_are_refused(search: dict[str, Any], message: str) -> None:
    space = {"lr": {"choice": [1e-3, 2e-3]}, "swa_start": 4, "swa_lr": 1e-3}
    if "sampler" not in search:
        space = SPACE
    with pytest.raises(ValueError, match=message):
        experiment(search=search, space=space)
    if "sampler" not in search:
        assert experiment(search={"epochs": 41}).search.epochs == 41  # the advice works
