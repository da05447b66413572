"""The search by the best average: each trial's own is what is compared, raced, tested and handed over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.simulated_ray import Driver
from tune_swa.config import Experiment, Metric
from tune_swa.errors import RequestError
from tune_swa.execution.dry_run import _count_averages
from tune_swa.execution.gpu_share import largest_workload
from tune_swa.execution.plan_table import _describe_averages
from tune_swa.experiment.events import EpochReported, TrialSuggested
from tune_swa.experiment.folder import load_earlier_events
from tune_swa.experiment.journal import read_events
from tune_swa.experiment.state import ExperimentState
from tune_swa.experiment.trial_state import TrialState
from tune_swa.results.comparison import best_trial
from tune_swa.search.arms import Arm
from tune_swa.training.numerics import Numerics

AVERAGES = [{"method": "swa"}, {"method": "ema", "horizon": 1}, {"method": "lawa", "last": 2}]
BEST = {"of": "best"}
SPACE = {"lr": {"choice": [1e-2, 1e-3]}, "swa_start": {"choice": [1, 4]}, "swa_lr": {"choice": [1e-3, 1e-2]}}
CONFIRM = {"top": 1, "seeds": 2, "race": {"configurations": 4, "seeds": 2}}


def experiment(**changes: Any) -> Experiment:
    plain = {
        "name": "x", "train": {"epochs": 8}, "space": SPACE, "search": {"sampler": "grid", "seed": 10},
        "scheduler": {"asha": False}, "objective": BEST, "averages": AVERAGES, "confirm": CONFIRM,
    }  # fmt: skip
    return Experiment.model_validate({**plain, **changes})


class AverageDriver(Driver):
    """Plays Ray to trials of which EMA is the best at a late start, LAWA at an early one, SWA never."""

    def epoch(self, config: dict[str, Any]) -> int:
        self.sent.setdefault(config["trial"], config["settings"])
        return super().epoch(config)

    @property
    def sent(self) -> dict[str, dict[str, Any]]:
        """Settings that each trial's worker got."""
        found: dict[str, dict[str, Any]] = self.__dict__.setdefault("_sent", {})
        return found

    def add_choice(self) -> None:
        """Have reports name their average, as workers do."""
        record_epoch = self.coordinator.record_epoch

        def record(name: str, record: dict[str, Any], *arguments: Any, **more: Any) -> Any:
            settings = self.sent[name]
            if settings["chosen_by"] is not None and record["phase"] == "branch":
                record = {**record, "average": expected_average(self.coordinator.state.trials[name])}
            return record_epoch(name, record, *arguments, **more)

        self.coordinator.record_epoch = record  # type: ignore[method-assign]


def expected_average(trial: TrialState) -> str:
    return "ema-1" if trial.params["swa_start"] == 4 else "lawa-2"


def accuracy_of(trial: TrialState) -> float:
    if trial.kind == "baseline":
        return 0.5
    return 0.6 + 0.1 * (trial.params["swa_start"] == 4) + trial.params["swa_lr"] + 10 * trial.params["lr"]


def start(spec: Experiment, folder: Path, **more: Any) -> AverageDriver:
    driver = AverageDriver(spec, folder, 1, accuracy=accuracy_of, **more)
    driver.add_choice()
    return driver


def run_all(driver: Driver) -> ExperimentState:
    while (config := driver.suggest()) is not None:
        driver.run(config)
    return driver.coordinator.state


def first_label(settings: dict[str, Any]) -> str:
    first = settings["averages"][0]
    return {"swa": "swa", "ema": "ema-1", "lawa": "lawa-2"}[first["method"]]


@pytest.mark.parametrize("metric", ["accuracy", "nll"])
def test_trials_of_the_search_choose_and_fresh_seeds_run_what_was_chosen(
    metric: Metric, tmp_path: Path
) -> None:
    driver = start(experiment(objective={"metric": metric, **BEST}), tmp_path, confirm=True)
    state = run_all(driver)
    assert {trial.stage for trial in state.of_kind("swa")} == {"search", "race", "confirm"}
    for trial in state.trials.values():
        settings = driver.sent[trial.name]
        if trial.kind == "baseline":
            assert (trial.chosen_average, settings["chosen_by"], settings["averages"]) == (None, None, [])
            continue
        assert trial.chosen_average == expected_average(trial)
        assert settings["chosen_by"] == (metric if trial.stage == "search" else None)
        assert trial.average == (None if trial.stage == "search" else expected_average(trial))
        assert first_label(settings) == (trial.average or "swa")
        assert {average["method"] for average in settings["averages"]} == {"swa", "ema", "lawa"}
    for planned in (*state.races[0].arms, *state.confirmations[0].arms):
        arm = Arm.from_event(planned)
        trial = state.trials[arm.name]
        assert arm.average == (None if arm.kind == "baseline" else expected_average(trial))
    finalist = state.confirmations[0].arms[0]
    assert (finalist.params["swa_start"], finalist.average) == (4, "ema-1")
    assert state == ExperimentState.read(tmp_path / "journal.jsonl")


def test_a_resumed_search_goes_on_with_what_was_chosen(tmp_path: Path) -> None:
    straight = run_all(start(experiment(), tmp_path / "straight", confirm=True))
    broken = start(experiment(), tmp_path / "broken", confirm=True)
    for _ in range(len(straight.trials) - 3):  # in the middle of the tested runs
        config = broken.suggest()
        assert config is not None
        broken.run(config)
    resumed = AverageDriver.resume(experiment(), tmp_path / "broken", 1, accuracy=accuracy_of)
    resumed.add_choice()
    found = run_all(resumed)
    assert {n: (t.average, t.chosen_average, t.params) for n, t in found.trials.items()} == {
        n: (t.average, t.chosen_average, t.params) for n, t in straight.trials.items()
    }


def test_a_run_of_the_same_configuration_with_another_average_is_not_handed_over(tmp_path: Path) -> None:
    """The search's own run may have chosen another one, where a sampler suggested its settings twice."""
    driver = start(experiment(), tmp_path, confirm=True)
    state = run_all(driver)
    finalist = state.confirmations[0].arms[0]
    for trial in state.trials.values():
        if trial.stage != "race":  # which keeps none
            trial.checkpoints = ["x"]
    others = [t for t in state.trials.values() if t.params == finalist.params and t.name == finalist.name]
    for trial in others:
        trial.records[-1] = {**trial.records[-1], "accuracy": 1.0}
    handed = best_trial(state)
    assert handed is not None
    assert handed.name == finalist.name
    for trial in others:
        trial.records[-1] = {**trial.records[-1], "average": "swa"}
    handed = best_trial(state)
    assert handed is not None
    assert (handed.stage, handed.chosen_average) == ("confirm", "ema-1")


def test_an_average_that_the_space_does_not_list_is_refused() -> None:
    params = {"lr": 1e-3, "swa_start": 1, "swa_lr": 1e-3}
    for label in ("ema-2", "swag-20"):
        with pytest.raises(ValueError, match="no average"):
            experiment().run_settings("swa", params, average=label)


def test_the_plan_says_what_is_chosen_and_counts_its_weights() -> None:
    swag = {"method": "swag", "rank": 2}
    plan = _describe_averages(experiment(averages=[*AVERAGES, swag], baseline={"averages": AVERAGES[1:2]}))
    assert plan == (
        "the best of swa, ema-1, lawa-2 on the validation images, chosen in each trial; beside them swag-2; "
        "of baselines ema-1"
    )
    of_first, of_best = (_count_averages(experiment(objective={"of": of})) for of in ("first", "best"))
    assert of_best == of_first + 1


def test_a_trial_that_is_measured_beforehand_chooses_where_its_averages_do() -> None:
    numerics = Numerics("cpu", "fp32", threads=1, channels_last=False, fused=False, compile=False)
    found = [
        largest_workload(experiment(objective=objective), numerics, 10, 400, 100).settings.chosen_by
        for objective in ({"metric": "nll", **BEST}, {"metric": "nll"})
    ]
    assert found == ["nll", None]


# ------------------------------------------------------------------------- identity and journal


def test_the_default_leaves_no_trace(tmp_path: Path) -> None:
    of_first = experiment(objective={"of": "first"})
    assert "objective" not in of_first.model_dump(mode="json", by_alias=True)
    assert of_first.fixed_settings() == experiment(objective={}).fixed_settings()
    by_nll = experiment(objective={"metric": "nll", "of": "first"})
    assert by_nll.model_dump(mode="json")["objective"] == {"metric": "nll"}
    run_all(Driver(of_first, tmp_path, 1, confirm=True))
    assert '"average"' not in (tmp_path / "journal.jsonl").read_text().split("\n", 1)[1]
    events = list(read_events(tmp_path / "journal.jsonl"))
    assert all(e.average is None for e in events if isinstance(e, TrialSuggested))
    assert all("average" not in e.record for e in events if isinstance(e, EpochReported))


def test_the_setting_is_part_of_the_identity(tmp_path: Path) -> None:
    run_all(start(experiment(), tmp_path))
    load_earlier_events(tmp_path, experiment(), resume=True)
    with pytest.raises(RequestError, match="objective.of: was 'best', is 'first'\n"):
        load_earlier_events(tmp_path, experiment(objective={}), resume=True)


@pytest.mark.parametrize(("objective", "same"), [({}, True), (BEST, False)])
def test_what_is_scored_changes_results_only_where_the_best_is_chosen_by_it(
    objective: dict[str, str], same: bool, tmp_path: Path
) -> None:
    run_all(Driver(experiment(objective=objective), tmp_path, 1))
    other = experiment(objective=objective, averaging={"score": "every"})
    if same:
        load_earlier_events(tmp_path, other, resume=True)
        return
    with pytest.raises(RequestError, match="averaging.score: was 'rungs', is 'every'"):
        load_earlier_events(tmp_path, other, resume=True)
