"""Ranking and differences, against numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.journals import Writer, experiment, usual
from tune_swa.experiment.events import ExperimentCreated
from tune_swa.experiment.state import ExperimentState
from tune_swa.experiment.trial_state import Status, TrialState
from tune_swa.results.comparison import Entry, best_trial, compare_configurations
from tune_swa.results.tables import build_tables

SWA = {"lr": 1e-3, "swa_start": 1, "swa_lr": 5e-4}


STATUSES: tuple[Status, ...] = ("completed", "pruned", "failed", "interrupted", "running")


def names(entries: Iterable[Entry]) -> list[str]:
    return [e.trial.name for e in entries]


def test_differences(tmp_path: Path) -> None:
    compared = compare_configurations(usual(tmp_path).state())
    found = {e.trial.name: (e.delta_vs_baseline, e.delta_vs_same_lr) for e in compared.trials}
    assert found["swa-0"] == pytest.approx((0.03, 0.03))
    assert found["swa-1"] == pytest.approx((-0.01, 0.01))
    assert found["base-0"] == (0.0, 0.0)
    assert found["base-1"] == pytest.approx((-0.02, 0.0))


def test_the_last_epoch_counts_and_not_the_best(tmp_path: Path) -> None:
    compared = compare_configurations(usual(tmp_path).state())
    assert names(compared.ranked) == ["swa-0", "base-0", "swa-1", "base-1"]
    assert compared.baseline is not None
    assert compared.baseline.accuracy == 0.90  # its best epoch had 0.92


def test_ties_go_to_the_lower_nll_and_then_to_the_name(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.trial("swa-b", {**SWA, "swa_lr": 1e-3}, [0.9], nll=0.3)
    writer.trial("swa-c", {**SWA, "swa_lr": 2e-3}, [0.9], nll=0.2)
    writer.trial("swa-a", {**SWA, "swa_lr": 3e-3}, [0.9], nll=0.3)
    assert names(compare_configurations(writer.state()).ranked) == ["swa-c", "swa-a", "swa-b"]


def test_an_nll_that_is_missing_loses_a_tie(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.suggest("swa-a", SWA)
    writer.epoch("swa-a", 0, 0.9, nll=None)
    writer.end("swa-a")
    writer.trial("swa-b", {**SWA, "swa_lr": 1e-3}, [0.9])
    assert names(compare_configurations(writer.state()).ranked) == ["swa-b", "swa-a"]


def test_the_unfinished_come_last_and_have_no_differences(tmp_path: Path) -> None:
    writer = usual(tmp_path)
    for number, status in enumerate(("failed", "pruned", "interrupted", None)):
        writer.trial(f"swa-u{number}", {**SWA, "swa_lr": 1e-3 + number * 1e-4}, [0.99, 0.99], status=status)
    compared = compare_configurations(writer.state())
    assert names(compared.unfinished) == ["swa-u3", "swa-u2", "swa-u1", "swa-u0"]
    assert {(e.delta_vs_baseline, e.delta_vs_same_lr) for e in compared.unfinished} == {(None, None)}
    assert best_trial(writer.state()) is not None
    assert compared.best is not None
    assert compared.best.trial.name == "swa-0"


def test_a_baseline_that_is_better_is_the_best_trial(tmp_path: Path) -> None:
    writer = usual(tmp_path)
    writer.trial("base-2", {"lr": 2e-3}, [0.95])
    best = best_trial(writer.state())
    assert best is not None
    assert best.name == "base-2"


def test_without_a_completed_baseline_there_are_no_differences(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.trial("base-0", {"lr": 1e-3}, [0.9, 0.9], status="failed")
    writer.trial("swa-0", SWA, [0.9])
    compared = compare_configurations(writer.state())
    assert compared.baseline is None
    assert {(e.delta_vs_baseline, e.delta_vs_same_lr) for e in compared.trials} == {(None, None)}


def test_same_settings_may_be_missing_where_the_best_baseline_is_not(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.trial("base-0", {"lr": 3e-3}, [0.9])
    writer.trial("swa-0", SWA, [0.91])
    entry = compare_configurations(writer.state()).ranked[0]
    assert entry.delta_vs_baseline == pytest.approx(0.01)
    assert entry.delta_vs_same_lr is None


def test_same_settings_are_all_that_are_not_of_averaging(tmp_path: Path) -> None:
    space = {
        "lr": 1e-3,
        "swa_start": {"int": [0, 2]},
        "swa_lr": 1e-3,
        "train.augment": {"choice": [[], ["hflip", "crop"]]},
        "averaging.anneal_epochs": {"choice": [1, 10]},
    }
    writer = Writer(tmp_path, experiment(space=space))
    writer.trial("base-0", {"train.augment": []}, [0.8])
    writer.trial("base-1", {"train.augment": ["hflip", "crop"]}, [0.9])
    params = {"swa_start": 1, "train.augment": [], "averaging.anneal_epochs": 10}
    writer.trial("swa-0", params, [0.85])
    entry = compare_configurations(writer.state()).trials[-1]
    assert entry.delta_vs_baseline == pytest.approx(-0.05)
    assert entry.delta_vs_same_lr == pytest.approx(0.05)
    assert entry.label == "SWA_1_1e-3 lr=1e-3 augment=none anneal_epochs=10"


def test_a_configuration_has_one_row_however_often_it_ran(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.trial("swa-0", SWA, [0.9, 0.9], status="failed")
    writer.trial("swa-1", SWA, [0.90])
    writer.trial("swa-2", SWA, [0.91])
    compared = compare_configurations(writer.state())
    assert names(compared.ranked) == ["swa-2"]
    assert compared.unfinished == ()
    assert len(compared.trials) == 3


def test_fresh_seeds_are_measured_against_the_same_seed_and_choose_nothing(tmp_path: Path) -> None:
    writer = usual(tmp_path)
    writer.trial("base-c", {"lr": 1e-3}, [0.80], stage="confirm", seed=11)
    writer.trial("base-d", {"lr": 3e-3}, [0.82], stage="confirm", seed=11)
    writer.trial("swa-c", {"lr": 3e-3, "swa_start": 0, "swa_lr": 2e-3}, [0.99], stage="confirm", seed=11)
    writer.trial("swa-d", SWA, [0.99], stage="confirm", seed=12)
    state = writer.state()
    compared = compare_configurations(state)
    best = best_trial(state)
    assert best is not None
    assert best.name == "swa-0"
    assert len(compared.ranked) == 4
    found = {e.trial.name: (e.delta_vs_baseline, e.delta_vs_same_lr) for e in compared.trials}
    assert found["swa-c"] == pytest.approx((0.19, 0.17))
    assert found["swa-d"] == (None, None)  # no baseline ran on seed 12


@st.composite
def states(draw: st.DrawFn) -> ExperimentState:
    """Folds of up to eight trials with any status and any number of epochs."""
    state = ExperimentState(
        header=ExperimentCreated(
            time=0.0,
            format=1,
            version="0",
            spec=experiment().model_dump(mode="json", by_alias=True),
            identity={},
            data={"val": 100},
            numerics={},
            hardware={},
            versions={},
        )
    )
    for index in range(draw(st.integers(0, 8))):
        swa = draw(st.booleans())
        name = f"{'swa' if swa else 'base'}-{index}"
        params = {"lr": draw(st.sampled_from([1e-3, 3e-3]))}
        if swa:
            params |= {"swa_start": draw(st.integers(0, 2)), "swa_lr": draw(st.sampled_from([1e-3, 2e-3]))}
        status = draw(st.sampled_from(STATUSES))
        epochs = draw(st.integers(0, 4))
        accuracies = draw(st.lists(st.integers(0, 100), min_size=epochs, max_size=epochs))
        records = [{"epoch": e, "accuracy": a / 100, "nll": 0.5} for e, a in enumerate(accuracies)]
        state.trials[name] = TrialState(
            name, "swa" if swa else "baseline", "search", params, 7, "x", index, "t", None, status, records
        )
    return state


@settings(max_examples=150, deadline=None)
@given(states())
def test_differences_and_ranking_agree(state: ExperimentState) -> None:
    compared = compare_configurations(state)
    baselines = [e for e in compared.trials if e.completed and e.trial.kind == "baseline"]
    assert len(compared.trials) == len(state.trials)
    assert best_trial(state) is (compared.best.trial if compared.best else None)
    accuracies = [e.accuracy for e in compared.ranked]
    assert accuracies == sorted(accuracies, key=lambda a: -(a or 0.0))
    assert (compared.baseline is None) == (not baselines)
    for entry in compared.trials:
        if not (entry.completed and baselines):
            assert entry.delta_vs_baseline is None
            continue
        assert entry.accuracy is not None
        assert compared.baseline is not None
        assert compared.baseline.accuracy is not None
        assert entry.delta_vs_baseline == entry.accuracy - compared.baseline.accuracy
        if entry.delta_vs_same_lr is not None:  # the best baseline is at least as good as any other
            assert entry.delta_vs_same_lr >= entry.delta_vs_baseline


@settings(max_examples=100, deadline=None)
@given(states())
def test_no_row_is_lost_or_invented(state: ExperimentState) -> None:
    tables = build_tables(state)
    assert tables.trials["trial"].to_pylist() == list(state.trials)
    assert tables.epochs.num_rows == sum(len(t.records) for t in state.trials.values())
    assert sum(tables.trials["epochs"].to_pylist()) == tables.epochs.num_rows
    configurations = {(t.kind, *sorted(t.params.items())) for t in state.trials.values()}
    assert tables.comparison.num_rows == len(configurations)
    assert sum(tables.comparison["best_baseline"].to_pylist()) == (
        compare_configurations(state).baseline is not None
    )
    ranks = [r for r in tables.comparison["rank"].to_pylist() if r is not None]
    assert ranks == list(range(1, len(ranks) + 1))
