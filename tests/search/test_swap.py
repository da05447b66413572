"""Members of SWAP: which configurations get them, when, and in which order they are merged."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from helpers.altered_journals import list_alterations
from helpers.journals import experiment
from helpers.simulated_ray import Driver
from tune_swa.config import Experiment
from tune_swa.errors import RequestError
from tune_swa.execution.dry_run import _checkpoint_bytes
from tune_swa.experiment.layout import CHECKPOINTS
from tune_swa.experiment.trial_state import TrialState
from tune_swa.results.api import load_results
from tune_swa.results.report.page import build_report
from tune_swa.results.summary import summary_text
from tune_swa.search.confirm_cost import count_members, members_cost
from tune_swa.search.merging import MergeJob

SPACE: dict[str, Any] = {
    "lr": {"choice": [1e-3, 3e-3]},
    "swa_start": {"choice": [0, 1]},
    "swa_lr": 1e-3,
}
SWAP = {"method": "swap", "members": 4, "top": 1}


def plan(**changes: Any) -> Experiment:
    given = {"space": SPACE, "search": {"sampler": "grid"}, "scheduler": {"asha": False}, "merge": [SWAP]}
    return experiment(**{**given, **changes})


def late_start_is_best(trial: TrialState) -> float:
    """On the first trunk; members have values of their own."""
    return 0.5 + 0.1 * (trial.fork_epoch or 0) - 0.01 * trial.index + 0.02 * trial.member


class Player:
    """Plays Ray with checkpoints, and ends the members in an order of our choice."""

    def __init__(self, driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
        self.driver, self.jobs = driver, list[MergeJob]()
        self.begun: list[str] = []
        record = driver.coordinator.record_epoch

        def with_checkpoint(name: str, values: dict[str, Any], checkpoint: None, **more: Any) -> Any:
            return record(name, values, f"{CHECKPOINTS}/{name}/epoch-{values['epoch']:05d}.pt", **more)

        monkeypatch.setattr(driver.coordinator, "record_epoch", with_checkpoint)

    def ask(self) -> dict[str, Any] | None:
        """The next trial; merges are done at once."""
        driver = self.driver
        while isinstance(answer := driver.searcher.suggest(f"ray-{driver._asked}"), dict):
            driver._asked += 1
            if "merge" in answer:
                self._merge(MergeJob(**answer["job"]))
                driver.searcher.on_trial_complete(f"ray-{driver._asked - 1}")
            elif answer["trial"] is None:
                driver.searcher.on_trial_complete(f"ray-{driver._asked - 1}")
                return None
            else:
                driver._ids[answer["trial"]] = f"ray-{driver._asked - 1}"
                self.begun.append(answer["trial"])
                driver.coordinator.record_start(answer["trial"], device="", node="", from_epoch=0, damaged=[])
                return answer
        return None

    def _merge(self, job: MergeJob) -> None:
        self.jobs.append(job)
        tried = [
            {"trial": name, "accuracy": 0.8 + 0.01 * i, "nll": 0.5, "ece": 0.1, "kept": True}
            for i, name in enumerate(job.candidates[1:])
        ]
        self.driver.coordinator.merging.take_report(job, {"event": "merged", "tried": tried})

    def search(self) -> dict[str, Any] | None:
        """Run the search to its end; returns the first run after it."""
        while (config := self.ask()) is not None:
            if self.trials[config["trial"]].stage != "search":
                return config
            self.driver.run(config)
        return None

    def finish(self, config: dict[str, Any] | None) -> None:
        while config is not None:
            self.driver.run(config)
            config = self.ask()

    @property
    def trials(self) -> dict[str, TrialState]:
        return self.driver.coordinator.state.trials


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_whoever_ends_first_the_merge_is_the_same(
    order: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    player = Player(Driver(plan(), tmp_path, slots=3, accuracy=late_start_is_best), monkeypatch)
    live = [player.search(), player.ask(), player.ask()]
    for number in order:
        config = live[number]
        assert config is not None
        assert player.jobs == []
        player.driver.run(config)
        assert player.ask() is None
    first = live[0]["trial"].removesuffix("-member2") if live[0] else ""
    names = (first, *(f"{first}-member{number}" for number in (2, 3, 4)))
    trunk = player.trials[first].trunk
    assert player.jobs == [MergeJob("swap", "uniform", trunk, f"merged/swap-{first}.pt", names)]


def test_the_best_configurations_get_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    swap = {**SWAP, "top": 2, "members": 3, "batch_size": 8}
    spec = plan(merge=[swap], train={"epochs": 4, "batch_size": 16})
    player = Player(Driver(spec, tmp_path, slots=1, accuracy=late_start_is_best), monkeypatch)
    player.finish(player.search())
    state = player.driver.coordinator.state
    searched = [t for t in state.trials.values() if t.stage == "search" and t.kind == "swa"]
    ranked = sorted(searched, key=state.objective.rank_trial)
    members = [t for t in state.trials.values() if t.stage == "swap"]
    assert [t.name for t in members] == [f"{t.name}-member{n}" for t in ranked[:2] for n in (2, 3)]
    for member in members:
        first = state.trials[member.name.partition("-member")[0]]
        assert (member.params, member.seed, member.trunk) == (first.params, first.seed, first.trunk)
        settings = spec.run_settings("swa", member.params, member.seed, member=member.member)
        assert settings == spec.run_settings("swa", first.params).model_copy(
            update={"member": int(member.name[-1])}
        )
        assert settings.branch_batch_size == 8
        assert member.rungs == {}
    assert [job.candidates[0] for job in player.jobs] == [t.name for t in ranked[:2]]


def test_the_search_does_not_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tpe = {"sampler": "tpe", "trials": 5}
    space = {**SPACE, "swa_lr": {"log_uniform": [1e-4, 1e-2]}}
    found = []
    for number, merge in enumerate(([], [SWAP])):
        folder = tmp_path / str(number)
        folder.mkdir()
        spec = plan(search=tpe, merge=merge, space=space, scheduler={"asha": True, "reduction_factor": 2})
        player = Player(Driver(spec, folder, slots=1, accuracy=late_start_is_best), monkeypatch)
        player.finish(player.search())
        trials = [t for t in player.trials.values() if t.stage == "search"]
        found.append([(t.name, t.params, t.status, t.rungs) for t in trials])
        assert bool(player.jobs) == bool(merge)
    assert found[0] == found[1]


def test_members_take_over_the_trunk_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for share in (True, False):
        folder = tmp_path / str(share)
        folder.mkdir()
        spec = plan(search={"sampler": "grid", "share": share})
        player = Player(Driver(spec, folder, slots=1, accuracy=late_start_is_best), monkeypatch)
        player.finish(player.search())
        for trial in player.trials.values():
            if trial.stage == "swap":
                assert trial.fork_epoch == 2
                shared = [record["shared_from"] is not None for record in trial.records]
                assert shared == ([True, True, True, False] if share else [False] * 4)
        assert all(states == [] for states in player.driver.states())


def test_what_is_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    player = Player(Driver(plan(), tmp_path, slots=2, accuracy=late_start_is_best), monkeypatch)
    first, second = player.search(), player.ask()
    assert first is not None
    assert second is not None
    player.driver.run(second)
    player.driver.epoch(first)
    again = Player(Driver.resume(plan(), tmp_path, 2, accuracy=late_start_is_best), monkeypatch)
    again.driver.coordinator.confirms = False
    again.finish(again.ask())
    assert again.begun == [first["trial"], first["trial"].replace("member2", "member4")]
    assert [job.candidates[1:] for job in again.jobs] == [
        tuple(first["trial"].replace("member2", f"member{n}") for n in (2, 3, 4))
    ]


def test_a_longer_search_gives_members_to_what_is_best_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def later_is_better(trial: TrialState) -> float:
        return 0.5 + 0.1 * trial.index

    player = Player(
        Driver(plan(search={"sampler": "grid", "trials": 2}), tmp_path, 1, accuracy=later_is_better),
        monkeypatch,
    )
    player.finish(player.search())
    again = Player(Driver.resume(plan(), tmp_path, 1, accuracy=later_is_better), monkeypatch)
    again.driver.coordinator.confirms = False
    again.finish(again.ask())
    assert [job.candidates[0] for job in (*player.jobs, *again.jobs)] == ["swa-0001", "swa-0003"]
    assert len(again.driver.coordinator.state.merges) == 2


def test_a_member_that_fails_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    player = Player(Driver(plan(), tmp_path, slots=1, accuracy=late_start_is_best), monkeypatch)
    config = player.search()
    assert config is not None
    player.driver.coordinator.fail_trial(config["trial"], "it is made to")
    player.driver.end(config)
    player.finish(player.ask())
    assert [name[-8:] for name in player.jobs[0].candidates[1:]] == ["-member3", "-member4"]


def test_members_come_before_fresh_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(plan(confirm={"seeds": 2}), tmp_path, 1, accuracy=late_start_is_best, confirm=True)
    player = Player(driver, monkeypatch)
    player.finish(player.search())
    stages = [stage for stage, _ in itertools.groupby(t.stage for t in player.trials.values())]
    assert [s for s in stages if s != "race"] == ["search", "swap", "confirm"]
    assert len(player.jobs) == 1


def test_each_number_of_members_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(plan(), tmp_path, slots=2, accuracy=late_start_is_best)
    player = Player(driver, monkeypatch)
    player.finish(player.search())
    state = driver.coordinator.state
    steps = load_results(tmp_path).soups
    assert list(steps["merge"]) == ["swap"] * 4
    assert list(steps["size"]) == [1, 2, 3, 4]
    first = state.trials[steps.trial[0]]
    assert list(steps.accuracy.round(6)) == [round(late_start_is_best(first), 6), 0.8, 0.81, 0.82]
    assert list(steps.own_accuracy) == [late_start_is_best(state.trials[name]) for name in steps.trial]
    said = summary_text(state)
    assert "Best SWAP: mean of 4 members, 82.00 %, +" in said
    assert f"against the first one alone, {first.name} of the search. The same validation images" in said
    page = build_report(state, tmp_path)
    assert "of the first member, of the first two, and so on" in page
    assert "Means of the averages of several trials" not in page


def test_an_altered_journal_gives_results_or_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    player = Player(Driver(plan(), tmp_path, slots=1, accuracy=late_start_is_best), monkeypatch)
    player.finish(player.search())
    journal = tmp_path / "journal.jsonl"
    lines = journal.read_text().splitlines()
    chosen = [a for a in list_alterations(lines) if a.where.split()[0] in ("swap", "merged")]
    chosen += [a for a in list_alterations(lines) if a.where.startswith("suggested member")]
    refused = 0
    for alteration in chosen[::7]:
        journal.write_text(alteration.apply_to(lines))
        try:
            load_results(tmp_path)
        except RequestError as error:
            refused += 1
            assert str(journal) in str(error), alteration.where
    assert len(chosen) / 70 < refused < len(chosen) / 7


def test_the_plan_counts_members() -> None:
    spec = plan(merge=[{**SWAP, "top": 3}])
    assert count_members(spec) == 9
    assert members_cost(spec).runs == (9, 9)
    assert members_cost(spec).epochs == (9, 18)  # one or two of the four epochs follow the fork
    alone = plan(merge=[SWAP], search={"sampler": "grid", "share": False})
    assert members_cost(alone).epochs == (12, 12)
    bytes_of = [_checkpoint_bytes(s, 1, 10, confirm=False) for s in (plan(merge=[]), plan())]
    weights = 4 * (11_176_512 + 5130)
    assert bytes_of[1] - bytes_of[0] == (3 * 2 + 1) * weights  # three members, and the mean


def test_without_swap_nothing_says_so() -> None:
    assert "merge" not in plan(merge=[]).fixed_settings()
    assert plan().fixed_settings()["merge"] == [
        {"method": "swap", "members": 4, "batch_size": None, "top": 1}
    ]
