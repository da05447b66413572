"""A search whose runs observe averages of every kind is killed at any moment: every score comes out the same.

Its baselines have averages, too. Trials are compared by nll and made into soups; both kinds are trained on
fresh seeds, tested and grouped into ensembles.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.serial_search import (
    COSTS,
    assert_same,
    assert_same_models,
    assert_same_tables,
    crash,
    describe_verdict,
    go_on,
    never_interrupted,
    new_search,
    read_predictions,
    results_of,
)
from tune_swa.config.yaml_file import load_experiment
from tune_swa.experiment.state import ExperimentState

SPACE = """
name: crash
data: {dataset: digits, image_size: 8, train_images: 40, val_fraction: 0.2, test_fraction: 0.9}
train: {epochs: 5, batch_size: 20}
averaging: {anneal_epochs: 1}
averages:
  - {method: swa}
  - {method: ema, horizon: 1}
  - {method: ema, horizon: 2, statistics: average}
  - {method: power_ema, length: 0.08}
  - {method: lawa, last: 2}
  - {method: swad, converge: 2, tolerance: 1}
  - {method: swag, rank: 2, samples: 2, search_samples: 2}
  - {method: swag, diagonal: true, samples: 2, search_samples: 2}
  - {method: subspace, rank: 1, last: 2, samples: 2, search_samples: 2, fit_batches: 1}
space:
  lr: {choice: [1e-2, 3e-3]}
  swa_start: {int: [0, 2]}
  swa_lr: {log_uniform: [1e-4, 1e-1]}
baseline:
  averages: [{method: ema, horizon: 0.5}, {method: lawa, last: 3, statistics: average}]
search: {sampler: tpe, trials: 3, seed: 3, checkpoint_every: 1}
scheduler: {reduction_factor: 2, trunk_rungs: [], branch_rungs: [3]}
objective: {metric: nll}
merge: [{method: soup}, {method: soup, rule: uniform}]
confirm: {top: 1, seeds: 2, baselines: 1, race: false, ensemble: 2}
"""
TRIALS = 3
# the journal has some eighty lines
MOMENTS = [
    "snapshot:2", "snapshot:9", "checkpoint:1", "checkpoint:4", "checkpoint:20", "trunk:1", "trunk:2",
    "line-half:12", "line-after:33", "training:2", "training:6", "merge:1", "event-merged:2",
    "event-confirm:1", "event-tested:2", "event-judged:1", "parquet:4", "soups:1", "ensembles:1",
    "rename:5", "model:1", "description:1",
]  # fmt: skip


@pytest.fixture(scope="module")
def straight(module_path: Path, decoded: None) -> Path:
    """Results of the search as it ends by itself."""
    results: Path = never_interrupted(module_path, TRIALS, SPACE)
    return results


def test_every_average_is_scored_and_tested(straight: Path) -> None:
    scores = results_of(straight)["averages.parquet"]
    state = ExperimentState.read(straight / "crash" / "journal.jsonl")
    experiment = load_experiment(straight.parent / "space.yaml")
    averages = {"swa": experiment.averages, "baseline": experiment.baseline.averages}
    for trial in state.trials.values():
        listed = {average.label for average in averages[trial.kind]}
        for part in ("val", "test") if trial.stage == "confirm" else ("val",):
            found = scores[(scores.trial == trial.name) & (scores.part == part)]
            assert set(found.average) == listed


def test_killed_again_and_again(straight: Path, tmp_path: Path) -> None:
    """While a trunk's state, weights that an average looks back at, and a soup are written; after a test."""
    results = new_search(tmp_path, SPACE)
    for moment in ("trunk:1", "snapshot:7", "merge:1", "event-tested:2"):
        crash(moment, results, TRIALS)
    go_on(results, TRIALS)
    assert_same(results, straight)


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_once(moment: str, straight: Path, tmp_path: Path) -> None:
    results = new_search(tmp_path, SPACE)
    crash(moment, results, TRIALS)
    go_on(results, TRIALS)
    assert_same(results, straight)


@pytest.mark.slow
def test_shared_trunks_change_no_score(straight: Path, tmp_path: Path) -> None:
    alone = never_interrupted(tmp_path, TRIALS, SPACE.replace("sampler: tpe", "sampler: tpe, share: false"))
    found, expected = results_of(straight), results_of(alone)
    assert found["epochs.parquet"].shared_from.notna().any()
    assert expected["epochs.parquet"].shared_from.isna().all()
    assert_same_tables(found, expected, COSTS)
    assert read_predictions(straight) == read_predictions(alone)
    assert_same_models(straight, alone)
    assert describe_verdict(straight) == describe_verdict(alone) != ""
