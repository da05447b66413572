"""The search by nll: what is stopped, suggested, kept and raced, and what a journal has of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest

from helpers.journals import Writer, usual
from helpers.journals import experiment as made_up
from helpers.simulated_ray import Driver
from tune_swa.config import Experiment, Params, yaml_file
from tune_swa.errors import RequestError
from tune_swa.experiment.events import TrialEnded
from tune_swa.experiment.folder import load_earlier_events
from tune_swa.experiment.journal import read_events
from tune_swa.experiment.objective import Objective
from tune_swa.experiment.state import ExperimentState
from tune_swa.experiment.trial_state import TrialState
from tune_swa.results.comparison import best_trial

NLL = {"metric": "nll"}
SPACE = {"lr": {"choice": [1e-2, 1e-3]}, "swa_start": {"choice": [1, 4]}, "swa_lr": {"choice": [1e-3, 1e-2]}}
CONTINUOUS = {"lr": 1e-3, "swa_start": {"int": [0, 5]}, "swa_lr": {"log_uniform": [1e-5, 1e-1]}}


def experiment(**changes: Any) -> Experiment:
    plain = {
        "name": "x", "train": {"epochs": 8}, "space": SPACE, "search": {"sampler": "grid", "seed": 10},
        "scheduler": {"asha": False}, "objective": NLL,
    }  # fmt: skip
    return Experiment.model_validate({**plain, **changes})


class NllDriver(Driver):
    """Plays Ray to a search whose accuracies say the opposite of its nll."""

    spreads: Mapping[str, float] = {}
    """Between validation images, by the trial's kind; none: not reported, as by older versions."""

    def epoch(self, config: dict[str, Any]) -> int:
        trial = self.coordinator.state.trials[config["trial"]]
        self.nll, self.nll_sd = nll_of(trial), self.spreads.get(trial.kind)
        self.accuracy = lambda trial: min(1.0, self.nll / 10)
        return super().epoch(config)


def nll_of(trial: TrialState) -> float:
    """Lowest for a base rate of 1e-3, a late start and a rate of 1e-3; above 1, where no accuracy is."""
    worse = 2.0 * (trial.params.get("lr", 1e-3) != 1e-3)
    if trial.kind == "swa":
        worse += 0.5 * (trial.params["swa_start"] < 4) + abs(float(trial.params["swa_lr"]) - 1e-3)
    return 1.5 + worse - 0.1 * (trial.kind == "swa")


def run_all(driver: Driver) -> ExperimentState:
    driver.run_all()
    return driver.coordinator.state


def test_the_higher_nll_is_stopped_and_the_lower_goes_on(tmp_path: Path) -> None:
    spec = experiment(
        space={**SPACE, "lr": 1e-3},
        scheduler={"reduction_factor": 2, "trunk_rungs": [], "branch_rungs": [6]},
        points=[
            {"swa_start": 4, "swa_lr": 1e-2},
            {"swa_start": 1, "swa_lr": 1e-2},
            {"swa_start": 4, "swa_lr": 1e-3},
        ],
    )
    state = run_all(NllDriver(spec, tmp_path, 1))
    found = {(t.params["swa_start"], t.params["swa_lr"]): t.status for t in state.of_kind("swa")}
    assert found == {
        (4, 1e-2): "completed",  # the first one
        (1, 1e-2): "pruned",
        (4, 1e-3): "completed",
        (1, 1e-3): "pruned",
    }


def test_shared_epochs_are_judged_by_nll_and_so_is_a_replay(tmp_path: Path) -> None:
    spec = experiment(
        space={**SPACE, "lr": {"choice": [1e-3, 1e-2]}},
        scheduler={"reduction_factor": 2, "trunk_rungs": [2], "branch_rungs": []},
    )
    first = NllDriver(spec, tmp_path, 1)
    for trial in run_all(first).of_kind("swa"):
        stopped = trial.params["lr"] == 1e-2 and trial.params["swa_start"] == 4  # the other forks before
        assert (trial.status, trial.next_epoch) == (("pruned", 3) if stopped else ("completed", 8))
    again = NllDriver.resume(spec, tmp_path, 1).coordinator
    assert sorted(again.asha.rung_values("trunk", 2).values()) == [-3.5, -1.5]
    assert again.asha.rung_values("trunk", 2) == first.coordinator.asha.rung_values("trunk", 2)


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_samplers_look_for_the_lowest_nll(tmp_path: Path, sampler: str) -> None:
    """They are told nll itself, and that lower is better: what they suggest is near the optimum."""
    spec = experiment(space=CONTINUOUS, search={"sampler": sampler, "trials": 30, "seed": 1})
    driver = NllDriver(spec, tmp_path, 1)
    state = run_all(driver)
    study = driver.coordinator.planner._sources["swa"].study  # type: ignore[attr-defined]
    assert study.direction == optuna.study.StudyDirection.MINIMIZE
    assert [t.value for t in study.trials if t.state.name == "COMPLETE"] == [
        nll_of(t) for t in state.of_kind("swa")
    ]
    assert study.best_trial.values == [min(nll_of(t) for t in state.of_kind("swa"))]
    later = [t.params["swa_start"] >= 4 for t in state.of_kind("swa")[15:]]
    assert sum(later) >= 10  # 5 of 15 by chance, and fewer if it took higher for better


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_suggestions_by_nll_are_those_by_an_accuracy_that_falls_as_it_rises(
    tmp_path: Path, sampler: str
) -> None:
    """These two look at the order of values alone."""
    search = {"sampler": sampler, "trials": 24, "seed": 4}

    class Mirrored(NllDriver):
        """The same search by an accuracy; nll is told to nobody."""

        def epoch(self, config: dict[str, Any]) -> int:
            self.accuracy = lambda trial: 1 - nll_of(trial) / 10
            self.nll = 0.0
            return Driver.epoch(self, config)

    def suggested(driver: Driver) -> list[Params]:
        return [t.params for t in run_all(driver).of_kind("swa")]

    by_nll = suggested(NllDriver(experiment(space=CONTINUOUS, search=search), tmp_path / "a", 1))
    by_accuracy = experiment(space=CONTINUOUS, search=search, objective={"metric": "accuracy"})
    assert by_nll == suggested(Mirrored(by_accuracy, tmp_path / "b", 1))


def test_a_resumed_search_by_nll_suggests_what_it_would_have(tmp_path: Path) -> None:
    spec = experiment(
        space=CONTINUOUS, search={"sampler": "tpe", "trials": 20, "seed": 2}, confirm={"top": 1}
    )
    straight = NllDriver(spec, tmp_path / "straight", 1)
    run_all(straight)
    broken = NllDriver(spec, tmp_path / "broken", 1)
    for _ in range(14):
        config = broken.suggest()
        assert config is not None
        broken.run(config)
    resumed = NllDriver.resume(spec, tmp_path / "broken", 1)
    resumed.coordinator.confirms = False
    run_all(resumed)
    found = [d.coordinator.state.trials for d in (straight, resumed)]
    assert {n: (t.params, t.records[-1]["nll"]) for n, t in found[0].items()} == {
        n: (t.params, t.records[-1]["nll"]) for n, t in found[1].items()
    }


def test_race_finalists_and_baselines_are_chosen_by_nll(tmp_path: Path) -> None:
    confirm = {"top": 1, "seeds": 2, "race": {"configurations": 4, "seeds": 2}}
    state = run_all(NllDriver(experiment(confirm=confirm), tmp_path, 1, confirm=True))
    first = state.races[0]
    # of eight configurations the four of the better rate, and both baselines
    assert {arm.params["lr"] for arm in first.arms if arm.kind == "swa"} == {1e-3}
    assert {arm.params["lr"] for arm in first.arms if arm.kind == "baseline"} == {1e-2, 1e-3}
    finalist, *plain = state.confirmations[0].arms
    assert finalist.params == {"lr": 1e-3, "swa_start": 4, "swa_lr": 1e-3}
    # the best one first, and none is dropped, since nothing is known of nll image by image
    assert [arm.params["lr"] for arm in plain] == [1e-3, 1e-2]
    handed = best_trial(state)
    assert handed is None or handed.params == finalist.params


@pytest.mark.parametrize(
    ("spreads", "tested"),
    [
        ({"baseline": 0.5}, [1e-3]),  # of three images: sqrt(2 x 0.25 / 3) = 0.41, and the other is 2 higher
        ({"baseline": 2.0}, [1e-3, 1e-2]),
        ({"swa": 0.5}, [1e-3, 1e-2]),
        ({"baseline": 0.0}, [1e-3]),
    ],
)
def test_the_race_drops_a_baseline_whose_nll_is_clearly_higher(
    spreads: dict[str, float], tested: list[float], tmp_path: Path
) -> None:
    confirm = {"top": 1, "seeds": 2, "race": {"configurations": 4, "seeds": 2}}
    driver = NllDriver(experiment(confirm=confirm), tmp_path, 1, confirm=True)
    driver.spreads = spreads
    _, *plain = run_all(driver).confirmations[0].arms
    assert [arm.params["lr"] for arm in plain] == tested


def test_the_checkpoints_that_stay_are_those_of_the_lowest_nll() -> None:
    """What keeps them asks the objective of the state, as all rankings do."""
    trials = {}
    for name, accuracy, nll in (("a", 0.9, 2.0), ("b", 0.8, 0.5), ("c", 0.85, 0.5), ("d", 0.7, None)):
        trials[name] = TrialState(name, "swa", "search", {}, 0, "x", 0, "t", 1)
        trials[name].records = [{"epoch": 0, "accuracy": accuracy, "nll": nll}]
    assert sorted(trials, key=lambda n: Objective("nll").rank_trial(trials[n])) == ["c", "b", "a", "d"]
    assert sorted(trials, key=lambda n: Objective().rank_trial(trials[n])) == ["a", "c", "b", "d"]


# ------------------------------------------------------------------------ space file and journal


def write_space(folder: Path, objective: str) -> Path:
    path = folder / "space.yaml"
    path.write_text(
        f"name: x\nspace: {{lr: 1e-3, swa_start: {{int: [5, 10]}}, swa_lr: 1e-3}}\nobjective: {objective}\n"
    )
    return path


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        ("{metric: loss}", "space.yaml:3: objective.metric: 'loss': expected 'accuracy' or 'nll'"),
        ("{metric: [nll]}", "space.yaml:3: objective.metric: ['nll']: expected 'accuracy' or 'nll'"),
        (
            "{metrc: nll}",
            "space.yaml:3: objective.metrc: unknown key. Did you mean metric? Allowed: metric, of",
        ),
        ("nll", "space.yaml:3: objective: 'nll': expected settings of its own (KEY: VALUE)"),
    ],
)
def test_wrong_objectives_are_named(tmp_path: Path, objective: str, said: str) -> None:
    with pytest.raises(RequestError) as caught:
        yaml_file.load_experiment(write_space(tmp_path, objective))
    assert str(caught.value) == str(tmp_path / said)


def test_the_default_leaves_no_trace_and_nll_is_part_of_the_identity(tmp_path: Path) -> None:
    written = yaml_file.load_experiment(write_space(tmp_path, "{metric: accuracy}"))
    absent = yaml_file.load_experiment(write_space(tmp_path, "{}"))
    for experiment in (written, absent):
        assert "objective" not in experiment.model_dump(mode="json", by_alias=True)
        assert "objective" not in experiment.fixed_settings()
    by_nll = yaml_file.load_experiment(write_space(tmp_path, "{}"), ["objective.metric=nll"])
    assert by_nll.fixed_settings()["objective"] == NLL
    assert Experiment.model_validate(by_nll.model_dump(mode="json", by_alias=True)) == by_nll


@pytest.mark.parametrize(("before", "after"), [("accuracy", "nll"), ("nll", "accuracy")])
def test_a_resume_with_another_objective_is_refused(tmp_path: Path, before: str, after: str) -> None:
    run_all(NllDriver(experiment(objective={"metric": before}), tmp_path, 1))
    load_earlier_events(tmp_path, experiment(objective={"metric": before}), resume=True)
    said = f"these differ:\n  objective.metric: was '{before}', is '{after}'\n"
    with pytest.raises(RequestError, match=said):
        load_earlier_events(tmp_path, experiment(objective={"metric": after}), resume=True)


def test_the_end_of_a_trial_has_the_value_of_the_objective(tmp_path: Path) -> None:
    state = run_all(NllDriver(experiment(), tmp_path, 1))
    ends = [e for e in read_events(tmp_path / "journal.jsonl") if isinstance(e, TrialEnded)]
    assert {end.trial: end.value for end in ends} == {n: nll_of(t) for n, t in state.trials.items()}
    assert all(end.value > 1 for end in ends)  # type: ignore[operator]
    assert ExperimentState.read(tmp_path / "journal.jsonl").trials == state.trials


@pytest.mark.parametrize(
    ("spec", "change", "why"),
    [
        (None, {"value": 1.5}, "the accuracy is 1.5"),
        (NLL, {"value": -0.5}, "the nll is -0.5"),
    ],
)
def test_values_that_the_metric_cannot_have_are_damage(
    tmp_path: Path, spec: dict[str, str] | None, change: dict[str, float], why: str
) -> None:
    writer = usual(tmp_path, spec=made_up(**({"objective": spec} if spec else {})))
    lines = writer.path.read_text().splitlines()
    end = json.loads(lines[-1])
    assert end["event"] == "ended"
    writer.path.write_text("\n".join([*lines[:-1], json.dumps({**end, **change})]) + "\n")
    with pytest.raises(RequestError, match=why):
        writer.state()


def test_an_epoch_without_nll_is_damage_only_where_it_is_the_objective(tmp_path: Path) -> None:
    for name, objective in (("accuracy", {}), ("nll", {"objective": NLL})):
        writer = Writer(tmp_path / name, made_up(**objective))
        writer.suggest("swa-0", {"lr": 1e-3, "swa_start": 1, "swa_lr": 5e-4})
        writer.start("swa-0")
        writer.epoch("swa-0", 0, 0.5, nll=None)
        if name == "accuracy":
            assert writer.state().trials["swa-0"].next_epoch == 1
        else:
            with pytest.raises(RequestError, match="epoch 0 of swa-0 has no nll, the objective"):
                writer.state()


def test_an_objective_that_this_version_does_not_know_is_refused(tmp_path: Path) -> None:
    writer = usual(tmp_path, spec=made_up(objective=NLL))
    writer.path.write_text(writer.path.read_text().replace('"metric":"nll"', '"metric":"auc"'))
    with pytest.raises(RequestError, match=r"objective.metric is 'auc'"):
        writer.state()
