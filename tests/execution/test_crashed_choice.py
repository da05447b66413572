"""A search by the best average, killed and with trunks shared or not: the same choices, scores and model.

Its space makes short and long averages win, and its finalists run on fresh seeds with what they chose.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.serial_search import (
    COSTS,
    assert_same,
    assert_same_tables,
    crash,
    go_on,
    never_interrupted,
    new_search,
    read_predictions,
    results_of,
)
from tune_swa.experiment.events import LookPlanned
from tune_swa.experiment.journal import read_events
from tune_swa.experiment.state import ExperimentState

SPACE = """
name: crash
data: {dataset: digits, image_size: 8, train_images: 60, val_fraction: 0.4, test_fraction: 0.9}
train: {epochs: 6, batch_size: 20}
averaging: {anneal_epochs: 1}
objective: {metric: nll, of: best}
averages:
  - {method: swa}
  - {method: ema, horizon: 1}
  - {method: ema, horizon: 0.2, statistics: average}
  - {method: lawa, last: 2}
  - {method: swad, converge: 2, tolerance: 1}
space:
  lr: {choice: [1e-2, 3e-3]}
  swa_start: {int: [0, 3]}
  swa_lr: {log_uniform: [1e-4, 1e-1]}
baseline: {averages: [{method: ema, horizon: 0.5}]}
search: {sampler: tpe, trials: 4, seed: 3, checkpoint_every: 1}
scheduler: {reduction_factor: 2, trunk_rungs: [], branch_rungs: [4]}
confirm: {top: 2, seeds: 2, baselines: 1, race: false}
"""
TRIALS = 4
MOMENTS = ["checkpoint:6", "snapshot:9", "line-half:30", "line-after:45", "training:8", "event-confirm:1",
           "event-tested:3", "model:1"]  # fmt: skip


@pytest.fixture(scope="module")
def straight(module_path: Path, decoded: None) -> Path:
    """Results of the search as it ends by itself."""
    results: Path = never_interrupted(module_path, TRIALS, SPACE)
    return results


def test_every_record_is_of_the_best_where_all_were_scored(straight: Path) -> None:
    state = ExperimentState.read(straight / "crash" / "journal.jsonl")
    chosen = set()
    for trial in state.of_kind("swa"):
        if trial.stage != "search":
            continue
        for record in trial.records[trial.fork_epoch :]:
            scores = trial.scores.get(record["epoch"], {})
            if not scores:
                assert record["average"] == "swa"
                continue
            best = min((k for k in scores if not k.startswith("swad")), key=lambda k: scores[k]["nll"])
            assert record["average"] == best
            assert (record["nll"], record["accuracy"]) == (scores[best]["nll"], scores[best]["accuracy"])
            chosen.add(best)
    assert len(chosen) > 1


def test_fresh_seeds_train_and_test_what_was_chosen(straight: Path) -> None:
    folder = straight / "crash"
    state = ExperimentState.read(folder / "journal.jsonl")
    (look,) = [e for e in read_events(folder / "journal.jsonl") if isinstance(e, LookPlanned)]
    finalists = [arm for arm in look.arms if arm.kind == "swa"]
    assert len(finalists) == 2
    for arm in finalists:
        assert arm.average == state.trials[arm.name].chosen_average
        for seed in look.seeds:
            run = state.trials[f"{arm.name}-seed{seed}"]
            assert run.tested is not None
            assert run.tested.shipped == run.tested.averages[arm.average]  # type: ignore[index]
            last = run.records[-1]
            assert (last["nll"], "average" in last) == (run.scores[last["epoch"]][arm.average]["nll"], False)
    about = json.loads((folder / "best_model.json").read_text())
    assert about["average"] == state.trials[about["trial"]].chosen_average
    assert about["configuration"].endswith(f" average={about['average']}")


def test_killed_twice(straight: Path, tmp_path: Path) -> None:
    """Before an epoch is recorded that chooses, and after a run of a chosen average was tested."""
    results = new_search(tmp_path, SPACE)
    for moment in ("event-epoch:17", "event-tested:3"):
        crash(moment, results, TRIALS)
    go_on(results, TRIALS)
    assert_same(results, straight, costs=False)


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_once(moment: str, straight: Path, tmp_path: Path) -> None:
    results = new_search(tmp_path, SPACE)
    crash(moment, results, TRIALS)
    go_on(results, TRIALS)
    assert_same(results, straight, costs=False)


@pytest.mark.slow
def test_shared_trunks_change_no_choice(straight: Path, tmp_path: Path) -> None:
    alone = never_interrupted(tmp_path, TRIALS, SPACE.replace("sampler: tpe", "sampler: tpe, share: false"))
    found, expected = results_of(straight), results_of(alone)
    assert found["epochs.parquet"].shared_from.notna().any()
    assert expected["epochs.parquet"].shared_from.isna().all()
    assert_same_tables(found, expected, COSTS)
    assert read_predictions(straight) == read_predictions(alone)
    weights = [(folder / "crash" / "best_model.pt").read_bytes() for folder in (straight, alone)]
    assert weights[0] == weights[1]
