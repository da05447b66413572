"""Recipes of merges on fresh seeds: what is trained, when it is merged, what a kill or a failure changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.simulated_merges import keep_second, plan_merges, play, read_lines
from helpers.simulated_ray import Driver
from tune_swa.experiment.merge_recipe import MergeRecipe
from tune_swa.experiment.state import ExperimentState
from tune_swa.experiment.trial_state import TrialState
from tune_swa.results.api import load_results
from tune_swa.results.comparison import best_trial
from tune_swa.results.provenance import restore_experiment
from tune_swa.results.report.members import tabulate_members
from tune_swa.results.report.page import build_report
from tune_swa.results.report.soups import describe_tests
from tune_swa.results.summary import summary_text
from tune_swa.results.verdict import compute_verdict


def accuracy(trial: TrialState) -> float:
    """Later starts are better."""
    return 0.5 + 0.1 * (trial.fork_epoch or 0)


def begin(folder: Path, slots: int = 2, **changes: Any) -> Driver:
    return Driver(plan_merges(**changes), folder, slots, confirm=True, accuracy=accuracy)


def resume(folder: Path, **changes: Any) -> Driver:
    return Driver.resume(plan_merges(**changes), folder, 1, accuracy=accuracy)


def keep_none(job: dict[str, Any]) -> dict[str, Any]:
    message = keep_second(job)
    for step in message["tried"]:
        step["kept"] = False
    return message


def list_fresh(state: ExperimentState) -> set[str]:
    return {name for name, trial in state.trials.items() if trial.stage == "confirm"}


MERGES = ["greedy-soup-seed8", "greedy-soup-seed9"]
FRESH = {f"{arm}-seed{seed}" for arm in ("swa-0002", "swa-0001", "baseline-0000") for seed in (8, 9)}
"""The finalist, which is a member, the other member, and plain training."""


def test_a_recipe_is_followed_on_every_seed_and_tested(tmp_path: Path) -> None:
    driver = begin(tmp_path)
    merges = play(driver)
    state = driver.coordinator.state
    (look,) = state.confirmations
    (recipe,) = map(MergeRecipe.from_event, look.merges or ())
    assert [member.name for member in recipe.members] == ["swa-0002", "swa-0001"]
    assert [arm.name for arm in look.arms] == ["swa-0002", "baseline-0000"]
    assert list_fresh(state) == FRESH
    assert [merge["candidates"] for merge in merges[1:]] == [
        ("swa-0002-seed8", "swa-0001-seed8"),
        ("swa-0002-seed9", "swa-0001-seed9"),
    ]
    for merge in merges[1:]:
        assert merge["checkpoints"] == [f"checkpoints/{n}/epoch-00004.pt" for n in merge["candidates"]]
    assert list(state.tested_merges) == MERGES
    # of each configuration the best run stays, as without merges
    kept = {t.name for t in state.trials.values() if t.stage == "confirm" and t.checkpoints}
    assert len(kept) == 3
    again = resume(tmp_path)
    assert play(again) == []
    assert again.coordinator.state.tested_merges == state.tested_merges


def test_what_was_found_is_shown(tmp_path: Path) -> None:
    driver = begin(tmp_path, confirm={"top": 1, "seeds": 5, "race": False, "merges": True})
    play(driver)
    state = driver.coordinator.state
    results = load_results(tmp_path)
    assert list(results.merges["run"]) == [f"greedy-soup-seed{seed}" for seed in range(8, 13)]
    assert set(results.merges["members"]) >= {"swa-0002-seed8+swa-0001-seed8"}
    assert set(results.merges["test_brier"]) == {0.3}
    assert set(results.predictions["trial"]) >= set(results.merges["run"])
    roles = results.confirm.groupby("arm")["roles"].first()
    assert dict(roles) == {
        "swa-0002": "finalist+member",
        "swa-0001": "member",
        "baseline-0000": "baseline+trunk",
    }
    assert "and its recipe is followed on 5 fresh seeds." in summary_text(state)
    page = build_report(state, tmp_path)
    assert "greedy soup of 2" in page
    assert "Merges on fresh seeds" in page


def test_a_resumed_search_merges_what_is_left(tmp_path: Path) -> None:
    (straight, killed) = (tmp_path / name for name in ("straight", "killed"))
    for folder in (straight, killed):
        folder.mkdir()
    whole = play(begin(straight, 1))
    first = play(begin(killed, 1), trials=4 + 3)  # those of the search, and all but one of the first seed
    then = play(resume(killed))
    assert [merge["candidates"] for merge in (*first, *then)] == [merge["candidates"] for merge in whole]
    states = [ExperimentState.read(folder / "journal.jsonl") for folder in (straight, killed)]
    assert [list(state.tested_merges) for state in states] == [MERGES, MERGES]
    kept = [{t.name: t.checkpoints for t in state.trials.values()} for state in states]
    assert kept[0] == kept[1]


def test_a_merge_that_fails_keeps_its_members_and_is_tried_again(tmp_path: Path) -> None:
    def fail_first(job: dict[str, Any]) -> dict[str, Any]:
        return (
            {"event": "unmerged", "error": "CheckpointError: gone"} if job["seed"] == 8 else keep_second(job)
        )

    driver = begin(tmp_path)
    play(driver, fail_first)
    assert driver.coordinator.merging.describe_failures() == [
        "The greedy soup of 2 trials on seed 8 (swa-0002-seed8, ...) could not be computed: CheckpointError: "
        "gone. Its trials are done; --resume tries it again"
    ]
    state = driver.coordinator.state
    assert list(state.tested_merges) == MERGES[1:]
    assert all(state.trials[name].checkpoints for name in ("swa-0002-seed8", "swa-0001-seed8"))
    again = resume(tmp_path)
    assert [merge["seed"] for merge in play(again)] == [8]
    assert set(again.coordinator.state.tested_merges) == set(MERGES)
    assert list(load_results(tmp_path).merges["test_accuracy"]) == [0.75, 0.75]


def test_a_seed_on_which_a_member_failed_has_no_merge(tmp_path: Path) -> None:
    driver = begin(tmp_path, 1)
    run = driver.run

    def fail(config: dict[str, Any]) -> None:
        if config["trial"] == "swa-0001-seed8":
            driver.coordinator.fail_trial(config["trial"], "it diverged")
            driver.end(config)
        else:
            run(config)

    driver.run = fail  # type: ignore[method-assign]
    assert [merge["seed"] for merge in play(driver)] == [None, 9]
    state = driver.coordinator.state
    # nothing is kept for what cannot be any more: the finalist's best run, the other member's only one
    kept = [
        t.name for t in state.trials.values() if t.kind == "swa" and t.stage == "confirm" and t.checkpoints
    ]
    assert len(kept) == 2
    assert load_results(tmp_path).merges["test_accuracy"].isna().tolist() == [True, False]


def test_predictions_that_are_lost_count_no_more(tmp_path: Path) -> None:
    play(begin(tmp_path))
    for name in MERGES:
        (tmp_path / "predictions" / f"{name}.npz").write_bytes(b"PK")
    again = resume(tmp_path)
    assert again.coordinator.state.tested_merges == {}
    # the best runs, of the first seed, still have their weights
    assert [merge["seed"] for merge in play(again)] == [8]
    assert load_results(tmp_path).merges["test_accuracy"].isna().tolist() == [False, True]


def test_merges_can_be_asked_for_later(tmp_path: Path) -> None:
    without = {"confirm": {"top": 1, "seeds": 2, "race": False}}
    driver = begin(tmp_path, **without)
    assert [merge["seed"] for merge in play(driver)] == [None]
    before = compute_verdict(driver.coordinator.state, tmp_path)
    assert "fresh seeds do not test it" in summary_text(driver.coordinator.state)
    again = resume(tmp_path)
    merges = play(again)
    # the weights of most runs of the finalist have gone, so its part of the recipe is trained again
    assert [merge["candidates"] for merge in merges] == [
        (f"swa-0002-member-seed{seed}", f"swa-0001-seed{seed}") for seed in (8, 9)
    ]
    first, second = again.coordinator.state.confirmations
    assert (second.plan, second.seeds, second.levels) == (first.plan, first.seeds, first.levels)
    after = compute_verdict(again.coordinator.state, tmp_path)
    assert before is not None
    assert after is not None
    assert after.against_plain[0].interval == before.against_plain[0].interval
    assert play(resume(tmp_path)) == []
    assert len(load_results(tmp_path).merges) == 2


def test_the_members_of_swap_are_trained_and_merged_on_every_seed(tmp_path: Path) -> None:
    driver = begin(tmp_path, merge=[{"method": "swap", "members": 2, "top": 1}])

    def keep_all(job: dict[str, Any]) -> dict[str, Any]:
        return keep_second({**job, "candidates": job["candidates"][:2]})

    merges = play(driver, keep_all)
    state = driver.coordinator.state
    assert [merge["candidates"] for merge in merges] == [
        ("swa-0002", "swa-0002-member2"),
        *((f"swa-0002-seed{seed}", f"swa-0002-member2-seed{seed}") for seed in (8, 9)),
    ]
    assert list(state.tested_merges) == ["swap-seed8", "swap-seed9"]
    runs = [state.trials[name] for name in merges[1]["candidates"]]
    assert [(run.member, run.seed, run.trunk) for run in runs] == [
        (0, 8, runs[0].trunk),
        (2, 8, runs[0].trunk),
    ]
    assert "and its recipe is followed on 2 fresh seeds." in summary_text(state)
    members = tabulate_members(state, restore_experiment(state))
    assert members is not None
    assert members.text.endswith("is under Merges on fresh seeds.")
    assert describe_tests(state, "soup") == "Fresh seeds do not test these means."
    # the model that is handed over is that of a run by itself
    best = best_trial(state)
    assert best is not None
    assert best.member == 0
    assert play(resume(tmp_path, merge=[{"method": "swap", "members": 2, "top": 1}])) == []


def test_a_soup_of_one_trial_is_not_followed(tmp_path: Path) -> None:
    driver = begin(tmp_path)
    play(driver, keep_none)
    assert driver.coordinator.state.confirmations[0].merges is not None
    assert "merges" not in json.loads(read_lines(tmp_path, "confirm")[0])
    said = summary_text(driver.coordinator.state)
    assert "no mean of two or more is there to be tested on fresh seeds" in said


def test_without_the_setting_nothing_is_written_of_it(tmp_path: Path) -> None:
    plain = {"top": 1, "seeds": 2, "race": False}
    driver = begin(tmp_path, confirm=plain)
    play(driver)
    assert "merges" not in (tmp_path / "journal.jsonl").read_text()
    assert plan_merges().fixed_settings() == plan_merges(confirm=plain).fixed_settings()


@pytest.mark.parametrize(
    "changes",
    [
        {"merge": "uniform soup"},
        {"seed": 10},
        {"members": ["swa-0001-seed8", "swa-0002-seed8"]},
        {"shipped": {"accuracy": 2, "nll": 1}},
    ],
)
def test_a_merge_that_cannot_have_been_is_damage(tmp_path: Path, changes: dict[str, Any]) -> None:
    from tune_swa.errors import RequestError

    play(begin(tmp_path))
    journal = tmp_path / "journal.jsonl"
    line = read_lines(tmp_path, "merge_tested")[0]
    altered = json.dumps({**json.loads(line), **changes}, separators=(",", ":"))
    journal.write_text(journal.read_text().replace(line, altered))
    with pytest.raises(RequestError, match="is damaged"):
        ExperimentState.read(journal)
