"""Fresh seeds: who is run again, on which seeds, in which order, and what a kill changes."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import tune_swa
from helpers.journals import make_event
from helpers.narrow_resnet import build_narrow_resnet, narrow_environment
from helpers.programs import RUN_SEARCH, TUNE_SWA, run_program
from helpers.serial_search import CRASHING
from helpers.simulated_ray import Driver
from tune_swa.config import Experiment
from tune_swa.execution.request import Request
from tune_swa.execution.site import place_trials
from tune_swa.execution.slots import Machine
from tune_swa.experiment.event_lines import decode_event, encode_event
from tune_swa.experiment.journal import read_events
from tune_swa.experiment.state import ExperimentState
from tune_swa.experiment.trial_state import TrialState
from tune_swa.results.comparison import best_trial
from tune_swa.search.confirmation import Look, Step, next_step
from tune_swa.search.coordinator import Coordinator
from tune_swa.search.planner import Later
from tune_swa.search.resume import replay_events

SPACE = {"lr": {"choice": [1e-2, 1e-3]}, "swa_start": {"choice": [1, 4]}, "swa_lr": {"choice": [1e-3, 1e-2]}}


def experiment(**more: Any) -> Experiment:
    """Without a race, unless `confirm` asks for one."""
    plain = {
        "name": "x", "train": {"epochs": 8}, "space": SPACE, "search": {"sampler": "grid", "seed": 10},
        "scheduler": {"asha": False},
    }  # fmt: skip
    confirm = {"race": False, **more.pop("confirm", {})}
    return Experiment.model_validate({**plain, "confirm": confirm, **more})


def open_question(event: Any) -> None:
    """Judges that more seeds are worth it."""


def next_look(spec: Experiment, known: ExperimentState, judge: Any = open_question) -> Look:
    step = next_step(spec, known, judge)
    assert isinstance(step, Look)
    return step


def trial(
    name: str, accuracy: float | None, lr: float, start: int | None = None, swa_lr: float = 1e-3
) -> Any:
    kind = "baseline" if start is None else "swa"
    params: dict[str, Any] = {"lr": lr} | ({} if start is None else {"swa_start": start, "swa_lr": swa_lr})
    record = {"epoch": 7, "accuracy": accuracy, "nll": 1.0}
    status = "failed" if accuracy is None else "completed"
    records = [] if accuracy is None else [record]
    first = None if start is None else start + 1
    return TrialState(name, kind, "search", params, 10, "grid", 0, "t", first, status, records)  # type: ignore[arg-type]


def state(*trials: Any) -> ExperimentState:
    return ExperimentState(trials={t.name: t for t in trials})


SEARCHED = (
    trial("baseline-0000", 0.80, 1e-2),
    trial("baseline-0001", 0.70, 1e-3),
    trial("swa-0000", 0.90, 1e-3, 1),
    trial("swa-0001", 0.85, 1e-2, 1),
    trial("swa-0002", 0.95, 1e-2, 4, 1e-2),
    trial("swa-0003", None, 1e-2, 4),
)


# ------------------------------------------------------------------------------------- planning


@pytest.mark.parametrize(
    ("ended", "more", "slots"),
    [
        (3, {}, 10),  # as from the start, for the fresh seeds that follow
        (3, {"confirm": False}, 7),
        (10, {}, 20),  # four configurations on five seeds
        (10, {"confirm": False}, 1),
        (10, {"look": 2}, 18),  # of which two have ended
        (10, {"look": 2, "trials": 40}, 32),
    ],
)
def test_places_are_for_what_is_left_of_both_stages(
    ended: int, more: dict[str, Any], slots: int, tmp_path: Path
) -> None:
    known = [*SEARCHED, *(trial(f"swa-000{i}", 0.1, 1e-3, 4, 1e-2) for i in range(4, 8))][:ended]
    trials = experiment(
        space={**SPACE, "swa_lr": {"log_uniform": [1e-4, 1e-1]}},
        search={"sampler": "random", "trials": more.get("trials", 8), "seed": 10},
    )
    found = state(*known)
    if more.get("look"):
        look = next_look(trials, found)
        found.confirmations.append(look.to_event())
        for name in look.names[: more["look"]]:
            found.trials[name] = replace(trial(name, 0.5, 1e-2), stage="confirm")
    request = Request(trials, tmp_path, confirm=more.get("confirm", True))
    assert place_trials(request, found, Machine(0, 100)).slots == slots


def test_the_finalists_the_tuned_baseline_and_the_finalists_own_trunks() -> None:
    look = next_look(experiment(), state(*SEARCHED))
    assert {arm.name: arm.roles for arm in look.arms} == {
        "swa-0002": ("finalist",),
        "swa-0000": ("finalist",),
        "baseline-0000": ("baseline", "trunk"),  # the trunk of swa-0002
        "baseline-0001": ("baseline", "trunk"),
    }
    assert look.arms[2].params == {"lr": 1e-2}
    assert look.seeds == (11, 12, 13, 14, 15)  # the search has 10
    assert look.number == 1


def test_a_trunk_that_no_baseline_has_gets_a_name() -> None:
    found = next_look(experiment(confirm={"top": 1}), state(SEARCHED[1], *SEARCHED[2:]))
    assert [arm.name for arm in found.arms] == ["swa-0002", "baseline-0001", "swa-0002-trunk"]


@pytest.mark.parametrize("trials", [(), SEARCHED[:2], SEARCHED[5:]])
@pytest.mark.parametrize("race", [False, {}])
def test_without_a_finalist_there_is_nothing_to_run(trials: Any, race: Any) -> None:
    assert next_step(experiment(confirm={"race": race}), state(*trials), open_question) is None


def test_without_a_baseline_the_finalists_trunks_are_run() -> None:
    look = next_look(experiment(confirm={"top": 1}), state(*SEARCHED[2:]))
    assert [(arm.name, arm.roles) for arm in look.arms] == [
        ("swa-0002", ("finalist",)),
        ("swa-0002-trunk", ("trunk",)),
    ]


def after(look: Look, known: ExperimentState) -> ExperimentState:
    """As the journal has it once the look has been recorded."""
    event = decode_event(encode_event(look.to_event()))
    known.apply(event)
    return known


def ended(step: Step, known: ExperimentState, accuracy: float = 0.5) -> ExperimentState:
    """As it has it once all runs of a step have ended."""
    for suggestion in step.suggestions():
        run = replace(trial(suggestion.trial, accuracy, 1e-2), stage=step.stage, seed=suggestion.seed)
        known.trials.setdefault(suggestion.trial, run)
    return known


def test_a_look_that_has_begun_is_gone_on_with() -> None:
    known = state(*SEARCHED)
    first = next_look(experiment(), known)
    assert next_look(experiment(), after(first, known)) == first


def test_more_seeds_are_a_second_look_with_the_old_ones_in_it() -> None:
    known = state(*SEARCHED)
    first = next_look(experiment(confirm={"seeds": 5}), known)
    after(first, known)
    # what has begun is ended before
    assert next_look(experiment(confirm={"seeds": 8}), known) == first
    ended(first, known)
    assert next_step(experiment(confirm={"seeds": 5}), known, open_question) is None
    second = next_look(experiment(confirm={"seeds": 8}), known)
    assert (second.number, second.plan, second.seeds) == (2, 2, (*first.seeds, 16, 17, 18))
    assert (second.arms, second.looks) == (first.arms, (8,))
    assert 0 < second.levels[0] < first.levels[0]


def test_a_plan_that_gave_up_is_not_taken_up_again_by_the_same_settings() -> None:
    """Neither at once, nor after a shorter plan that was asked for later."""
    known, spec = state(*SEARCHED), experiment(confirm={"seeds": 5, "max_seeds": 20})
    first = next_look(spec, known)
    ended(first, after(first, known))
    assert next_step(spec, known, lambda look: "futility") is None
    second = next_look(experiment(confirm={"seeds": 10}), known, lambda look: "futility")
    assert (first.looks, second.looks, second.plan) == ((5, 10, 15, 20), (10,), 2)
    ended(second, after(second, known))
    assert next_step(spec, known, lambda look: "seeds") is None


def test_more_finalists_are_a_further_look_on_the_same_seeds() -> None:
    known = state(*SEARCHED)
    first = next_look(experiment(confirm={"top": 1}), known)
    ended(first, after(first, known))
    second = next_look(experiment(confirm={"top": 2}), known)
    assert [arm.name for arm in second.finalists] == ["swa-0002", "swa-0000"]
    assert (second.plan, second.seeds, second.looks) == (2, first.seeds, (5,))


def test_a_look_of_an_older_journal_stands_until_more_seeds_are_asked_for() -> None:
    """Only the best baseline of the search was tested then; a further look tests the others, too."""
    known = state(*SEARCHED[:2], trial("swa-0002", 0.95, 1e-2, 4, 1e-2))
    finalist = {"name": "swa-0002", "kind": "swa", "params": {"lr": 1e-2, "swa_start": 4, "swa_lr": 1e-2}}
    tuned = {"name": "baseline-0000", "kind": "baseline", "params": {"lr": 1e-2}}
    arms = [{**finalist, "roles": ["finalist"]}, {**tuned, "roles": ["baseline", "trunk"]}]
    seeds = [11, 12, 13, 14, 15]
    known.apply(make_event("confirm", time=1.0, look=1, arms=arms, seeds=seeds, searched=3))
    old = next_look(experiment(), known)
    assert (old.number, old.plan, old.looks) == (1, None, ())
    ended(old, known)
    for race in (False, {}):
        spec = experiment(confirm={"race": race, "top": 1})
        assert next_step(spec, known, open_question) is None
    second = next_look(experiment(confirm={"race": {}, "top": 1, "seeds": 8}), known)
    assert [arm.name for arm in second.arms] == ["swa-0002", "baseline-0000", "baseline-0001"]
    assert (second.number, second.plan, second.looks, second.seeds[:5]) == (2, 2, (8,), tuple(seeds))


def test_after_a_longer_search_the_seeds_are_new() -> None:
    known = state(*SEARCHED)
    first = next_look(experiment(), known)
    after(first, known).trials["swa-0004"] = trial("swa-0004", 0.99, 1e-3, 4, 1e-2)
    second = next_look(experiment(), known)
    assert (second.number, second.seeds) == (2, (16, 17, 18, 19, 20))
    assert second.arms[0].name == "swa-0004"


# -------------------------------------------------------------------------------- without training


@pytest.mark.parametrize("share", [True, False])
def test_the_search_is_followed_by_every_arm_on_every_seed(tmp_path: Path, share: bool) -> None:
    search = {"sampler": "grid", "seed": 10, "share": share}
    driver = Driver(experiment(confirm={"top": 2, "seeds": 3}, search=search), tmp_path, 2, confirm=True)
    names = driver.run_all()
    found = driver.coordinator.state
    assert names[:10] == [t.name for t in found.trials.values() if t.stage == "search"]
    # all accuracies are the same here, so the first names win
    arms = ["baseline-0000", "baseline-0001", "swa-0000", "swa-0001"]
    assert names[10:] == [f"{arm}-seed{seed}" for seed in (11, 12, 13) for arm in arms]
    for seed in (11, 12, 13):
        trained = [found.trials[f"{arm}-seed{seed}"] for arm in arms]
        assert [t.seed for t in trained] == [seed] * 4
        shared = [sum(r["shared_from"] is not None for r in t.records) for t in trained]
        assert shared == ([0, 0, 3, 3] if share else [0, 0, 0, 0])
        assert all(t.tested for t in trained)
    assert driver.coordinator.state.confirmations[0]["searched"] == 10
    assert driver.states() == [[]] * len(driver.states())  # nothing is left of what was published


def test_nothing_follows_where_nobody_wants_it(tmp_path: Path) -> None:
    driver = Driver(experiment(), tmp_path, 2)
    assert len(driver.run_all()) == 10
    assert driver.coordinator.state.confirmations == []


def test_what_follows_waits_for_the_last_trials_of_the_search(tmp_path: Path) -> None:
    driver = Driver(experiment(confirm={"seeds": 2}), tmp_path, 2, confirm=True)
    configs = [driver.suggest()]
    while len(driver.coordinator.state.trials) < 10:
        driver.run(configs.pop())
        configs.append(driver.suggest())
    last = configs.pop()
    assert driver.suggest() is None
    assert driver.coordinator.state.confirmations == []
    driver.run(last)
    assert driver.suggest()["trial"] == "baseline-0000-seed11"


def test_runs_on_fresh_seeds_are_never_stopped_early(tmp_path: Path) -> None:
    strict = {"asha": True, "branch_rungs": [6], "trunk_rungs": [2], "reduction_factor": 2}
    driver = Driver(experiment(scheduler=strict, confirm={"seeds": 2}), tmp_path, 1, confirm=True)
    driver.run_all()
    confirmed = [t for t in driver.coordinator.state.trials.values() if t.stage == "confirm"]
    assert confirmed
    assert all(t.status == "completed" and not t.rungs for t in confirmed)


def test_a_replay_goes_on_where_it_was(tmp_path: Path) -> None:
    """After each prefix of the journal that ends between two trials of the confirm stage."""
    spec = experiment(confirm={"top": 1, "seeds": 2})
    driver = Driver(spec, tmp_path / "a", 1, confirm=True)
    names = driver.run_all()
    events = list(read_events(tmp_path / "a" / "journal.jsonl"))
    expected = driver.coordinator.state
    for name in names[10:]:
        end = next(i for i, e in enumerate(events) if e["event"] == "suggested" and e["trial"] == name)
        folder = tmp_path / name
        folder.mkdir()
        lines = (tmp_path / "a" / "journal.jsonl").read_text().splitlines(keepends=True)[:end]
        (folder / "journal.jsonl").write_text("".join(lines))
        known = ExperimentState.read(folder / "journal.jsonl")
        again = Coordinator(spec, folder, known, confirm=True)
        replay_events(again, list(read_events(folder / "journal.jsonl")))
        assert again.step is not None
        suggestion = again.planner.next_suggestion()
        assert suggestion not in (None, Later.HELD_BACK)
        assert suggestion.trial == name  # type: ignore[union-attr]
        assert known.trials.keys() == set(list(expected.trials)[: list(expected.trials).index(name)])


# ------------------------------------------------------------------------------------ real ones

TINY = """
name: tiny
data: {dataset: digits, image_size: 8, train_images: 60, val_fraction: 0.2, test_fraction: 0.5}
train: {epochs: 4, batch_size: 20}
averaging: {anneal_epochs: 1}
space: {lr: {choice: [1e-2, 1e-3]}, swa_start: {choice: [1, 2]}, swa_lr: 1e-2}
search: {sampler: grid, checkpoint_every: 1}
scheduler: {asha: false}
confirm: {top: 1, seeds: 5, max_seeds: 6, race: {configurations: 3, seeds: 2}}
"""


def command(folder: Path, *more: str) -> list[str]:
    (folder / "space.yaml").write_text(TINY)
    return [
        str(RUN_SEARCH), "--space", str(folder / "space.yaml"), "--gpus", "0",
        "--cpus", "1", "--results-dir", str(folder / "results"), *more,
    ]  # fmt: skip


def run(arguments: list[str]) -> str:
    result = run_program(arguments, env=narrow_environment())
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def confirmed(module_path: Path, decoded: None) -> tuple[Path, str]:
    folder = module_path
    return folder / "results" / "tiny", run(command(folder))


def test_a_search_ends_with_a_verdict(confirmed: tuple[Path, str]) -> None:
    folder, out = confirmed
    results = tune_swa.load_results(folder)
    assert results.verdict is not None
    leading = results.verdict.leading
    assert leading is not None
    number = results.verdict.planned_seeds
    assert leading.seeds == tuple(range(3, 3 + number))  # 1 and 2 are those of the race
    assert f"on {number} fresh seeds and {results.verdict.images} test images." in " ".join(out.split())
    confirm, predictions = results.confirm, results.predictions
    assert len(confirm) == number * confirm.arm.nunique()
    assert (confirm.status == "completed").all()
    # everything that is told can be computed again from what each model said of each image
    shipped = predictions[predictions.model == "shipped"]
    right = (shipped.predicted == shipped.label).groupby(shipped.trial).mean()
    assert right.to_dict() == dict(zip(confirm.trial, confirm.test_accuracy, strict=True))
    means = confirm.groupby("arm").test_accuracy.mean()
    best = results.verdict.best_plain
    assert best is not None
    assert means[best.name] == max(means[arm.name] for arm in results.verdict.plain)
    assert leading.interval.mean == pytest.approx(means[leading.arm.name] - means[best.name])
    row = results.comparison.set_index("trial").loc[leading.arm.name]
    assert row["delta"] == leading.interval.mean
    assert row["verdict"] == leading.outcome
    assert (row["seeds"], row["race_seeds"], row["against"]) == (number, 2, best.label)
    assert results.state.stops[len(results.state.confirmations)] is not None
    baselines = confirm[confirm.kind == "baseline"]
    assert baselines.refreshed_accuracy.notna().all()
    assert confirm[confirm.kind == "swa"].refreshed_accuracy.isna().all()


def test_the_model_handed_over_is_the_best_run_by_the_validation_images(confirmed: tuple[Path, str]) -> None:
    import torch

    from tune_swa.config import yaml_file
    from tune_swa.data.dataset import prepare_dataset

    folder, _ = confirmed
    about = json.loads((folder / "best_model.json").read_text())
    found = tune_swa.load_results(folder)
    chosen = best_trial(found.state)
    assert chosen is not None
    assert about["trial"] == chosen.name
    means = found.confirm.groupby("arm").val_accuracy.mean()
    arm = found.confirm.set_index("arm").loc[[means.idxmax()]]
    own = found.trials[found.trials.trial.isin([means.idxmax(), *arm.trial])]
    assert about["validation"]["accuracy"] == own.accuracy.max() or (means == means.max()).sum() > 1
    model = build_narrow_resnet(num_classes=10)
    model.load_state_dict(torch.load(folder / "best_model.pt", weights_only=True))
    data = prepare_dataset(yaml_file.load_experiment(folder / "space.yaml").data)
    model.eval().to(memory_format=torch.channels_last)
    for rows, expected in ((data.val, about["validation"]), (data.test, about["test"])):
        if expected is None:  # a run of the search, which is not tested
            continue
        images = torch.from_numpy(np.ascontiguousarray(data.images[rows])).permute(0, 3, 1, 2) / 255
        with torch.no_grad():
            predicted = model(images).argmax(1).numpy()
        assert (predicted == data.labels[rows]).mean() == expected["accuracy"]


def test_killed_among_the_fresh_seeds_it_ends_the_same(confirmed: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = confirmed
    lines = [e["event"] for e in read_events(folder / "journal.jsonl")]
    # in the first run of the race, before its second round, in the first tested run, and when all are
    race = lines.index("race")
    moments = [f"line-after:{race + 8}", "event-race:1", "event-confirm:1", "line-after:12", "event-judged:1"]
    for moment in moments:
        program = command(tmp_path)
        resume = ["--resume"] if (tmp_path / "results" / "tiny" / "journal.jsonl").exists() else []
        killed = run_program([CRASHING, moment, *program[1:], *resume], env=narrow_environment())
        assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    out = run([*command(tmp_path), "--resume"])
    assert "fresh seeds" in out
    found = tmp_path / "results" / "tiny"
    assert tune_swa.load_results(found).state.stops == tune_swa.load_results(folder).state.stops
    for name in ("confirm", "predictions", "comparison"):
        frames = [pd.read_parquet(f / f"{name}.parquet") for f in (found, folder)]
        pd.testing.assert_frame_equal(*frames, check_exact=True)
    assert (found / "best_model.pt").read_bytes() == (folder / "best_model.pt").read_bytes()
    assert sorted(p.name for p in (found / "predictions").iterdir()) == sorted(
        f"{name}.npz" for name in tune_swa.load_results(found).confirm.trial
    )


def test_more_seeds_later_are_a_further_plan(confirmed: tuple[Path, str], tmp_path: Path) -> None:
    import shutil

    folder, _ = confirmed
    copy = tmp_path / "tiny"
    shutil.copytree(folder, copy)
    out = run([
        str(TUNE_SWA), "confirm", str(copy), "--seeds", "7", "--gpus", "0",
        "--cpus", "1",
    ])  # fmt: skip
    assert "This is plan 2 of looks at these test images" in " ".join(out.split())
    before, found = tune_swa.load_results(folder), tune_swa.load_results(copy)
    assert before.verdict is not None
    assert found.verdict is not None
    assert found.verdict.alpha == pytest.approx(0.025)
    number = before.verdict.planned_seeds
    assert len(found.confirm) == len(before.confirm) // number * 7
    old = found.confirm[found.confirm.look <= len(before.state.confirmations)].reset_index(drop=True)
    pd.testing.assert_frame_equal(old, before.confirm, check_exact=True)
    last = before.verdict.look
    assert f"Look {last}, at a level of {100 * before.verdict.alpha:.3g} %" in " ".join(out.split())


def test_a_folder_without_an_experiment_is_refused(tmp_path: Path) -> None:
    result = run_program([TUNE_SWA, "confirm", tmp_path])
    assert result.returncode == 2
    assert result.stderr == (
        f"error: {tmp_path}: no experiment (looked for journal.jsonl and space.yaml). Give the folder of a "
        "search, such as results/NAME\n"
    )
