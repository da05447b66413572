"""Ensembles of runs on fresh seeds: which runs are together, equal sizes, and what comes out of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers.journals import SWA_ARM, TUNED_ARM, Writer, experiment, usual
from tune_swa.config import Experiment
from tune_swa.errors import RequestError
from tune_swa.execution.ensemble_size import check_ensemble_size
from tune_swa.results.ensembles import Ensemble, build_ensembles, compare_ensembles, predict_classes
from tune_swa.results.export import write_tables
from tune_swa.results.predictions import read_predictions
from tune_swa.results.report.page import build_report
from tune_swa.results.verdict import compute_verdict

IMAGES = 300
REFRESHED = "deep ensemble (BN refresh alone)"
AVERAGES = [{"method": "swa"}, {"method": "ema", "horizon": 2}]


def write_look(
    folder: Path, size: int | None, seeds: int, *, probabilities: bool = True, **more: object
) -> Writer:
    """A finalist with two averages and a baseline, each run right on images of its own."""
    spec = experiment(confirm={"seeds": seeds, "ensemble": size}, averages=AVERAGES, **more)
    writer = usual(folder, spec=spec)
    rng = np.random.default_rng(5)
    numbers = list(range(20, 20 + seeds))
    writer.planned_look([SWA_ARM, TUNED_ARM], numbers)
    for seed in numbers:
        writer.tested(TUNED_ARM, seed, rng.random(IMAGES) < 0.7, probabilities=probabilities)
        right = rng.random(IMAGES) < 0.8
        averages = {"swa": right, "ema-2": rng.random(IMAGES) < 0.7}
        writer.tested(SWA_ARM, seed, right, averages=averages, probabilities=probabilities)
    return writer


def build(writer: Writer) -> list[Ensemble]:
    state, folder = writer.state(), writer.path.parent
    found = compute_verdict(state, folder)
    assert found is not None
    return build_ensembles(found, read_predictions(state, folder), state, folder)


def test_groups_are_disjoint_and_of_one_size(tmp_path: Path) -> None:
    ensembles = build(write_look(tmp_path, 3, 8))
    methods = {e.method for e in ensembles}
    assert methods == {"deep ensemble", REFRESHED, "MultiSWA", "ensemble of ema-2"}
    for method in methods:
        groups = [e.seeds for e in ensembles if e.method == method]
        assert groups == [(20, 21, 22), (23, 24, 25)]  # two seeds are left over


def test_an_ensemble_is_the_mean_of_its_runs_probabilities(tmp_path: Path) -> None:
    writer = write_look(tmp_path, 2, 4)
    predictions = read_predictions(writer.state(), tmp_path)
    for e in build(writer):
        variant = {"deep ensemble": "shipped", REFRESHED: "refreshed", "MultiSWA": "swa"}.get(
            e.method, "ema-2"
        )
        runs = [predictions[f"{e.arm.name}-seed{seed}"][variant] for seed in e.seeds]
        of_label = np.mean([run.probability for run in runs], axis=0)
        np.testing.assert_allclose(e.predictions.probability, of_label, atol=1e-6)
        np.testing.assert_allclose(e.predictions.nll, -np.log(of_label), rtol=1e-5)
        np.testing.assert_allclose(e.predictions.brier, 2 * (1 - of_label) ** 2, atol=1e-5)
        expected = np.where(of_label > 0.5, e.predictions.label, 1 - e.predictions.label)
        np.testing.assert_array_equal(e.predictions.predicted, expected)
        assert e.compute_metrics()["accuracy"] == pytest.approx(float((of_label > 0.5).mean()))


def test_five_groups_give_a_verdict_and_fewer_a_description(tmp_path: Path) -> None:
    for seeds, outcomes in ((8, {"too few seeds"}), (10, {"better", "not distinguishable"})):
        writer = write_look(tmp_path / str(seeds), 2, seeds)
        found = compute_verdict(writer.state(), tmp_path / str(seeds))
        assert found is not None
        compared = compare_ensembles(found, build(writer))
        assert [c.average for c in compared] == ["MultiSWA", "ensemble of ema-2", REFRESHED]
        assert {c.accuracy.outcome for c in compared} == outcomes
        # each side has as many runs
        assert all(len(c.repetitions) == seeds // 2 for c in compared)


def test_the_files_and_the_report_have_them(tmp_path: Path) -> None:
    writer = write_look(tmp_path, 2, 4)
    write_tables(writer.state(), tmp_path)
    table = pd.read_parquet(tmp_path / "ensembles.parquet")
    assert len(table) == 8
    assert set(table["runs"]) == {2}
    assert "Ensembles of the runs on fresh seeds" in build_report(writer.state(), tmp_path)


def test_without_the_setting_there_are_none(tmp_path: Path) -> None:
    writer = write_look(tmp_path, None, 4)
    write_tables(writer.state(), tmp_path)
    assert build(writer) == []
    assert not (tmp_path / "ensembles.parquet").exists()


def test_runs_that_kept_no_probabilities_are_in_no_group(tmp_path: Path) -> None:
    """They were tested before the setting was there, which may change on a resume."""
    writer = write_look(tmp_path, 2, 4, probabilities=False)
    assert build(writer) == []
    write_tables(writer.state(), tmp_path)
    assert len(pd.read_parquet(tmp_path / "ensembles.parquet")) == 0


@pytest.mark.parametrize(
    "values",
    [
        np.full((IMAGES, 3), 1 / 3, np.float32),
        np.full((IMAGES, 2), 0.7, np.float32),
        np.full((IMAGES, 2), np.nan, np.float32),
        np.tile(np.array([[1.5, -0.5]], np.float32), (IMAGES, 1)),
    ],
    ids=["classes", "sum", "nan", "negative"],
)
def test_damaged_probabilities_are_named(values: np.ndarray, tmp_path: Path) -> None:
    writer = write_look(tmp_path, 2, 4)
    file = tmp_path / "predictions" / "base-0-seed21.npz"
    with np.load(file) as former:
        arrays = dict(former)
    np.savez(file, **{**arrays, "shipped.probabilities": values})
    with pytest.raises(RequestError, match=r"base-0-seed21.npz: the probabilities .* cannot be read"):
        build(writer)


def test_no_probability_of_zero_gives_an_infinite_nll() -> None:
    said = predict_classes(np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([1, 0]))
    assert np.isfinite(said.nll).all()


def make_spec(**changes: object) -> Experiment:
    return experiment(**changes)


def test_an_ensemble_of_more_runs_than_seeds_is_refused() -> None:
    with pytest.raises(ValueError, match=r"takes 6 runs of each arm, but there are 5 fresh .*: 30 seeds"):
        make_spec(confirm={"seeds": 5, "ensemble": 6})
    assert make_spec(confirm={"seeds": 5, "max_seeds": 6, "ensemble": 6}).confirm.ensemble == 6


def test_probabilities_that_are_too_many_are_refused() -> None:
    spec = make_spec(confirm={"ensemble": 2}, averages=AVERAGES)
    check_ensemble_size(spec, 5000, 1000)
    with pytest.raises(
        RequestError, match="50,000 test images, 1,000 classes and 3 models take 600 MB a run"
    ):
        check_ensemble_size(spec, 50_000, 1000)
    check_ensemble_size(make_spec(), 50_000, 1000)
