"""Results of a search by nll: ranks, differences, tables, words and files, where accuracy says otherwise."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from rich.console import Console, RenderableType

from helpers.journals import (
    SECOND_ARM,
    SWA_ARM,
    TRUNK_ARM,
    TUNED_ARM,
    Writer,
    append_event,
    experiment,
    usual,
)
from tune_swa.monitoring.live_table import draw_search
from tune_swa.monitoring.progress_lines import OutputFormat, ended_line, status_line
from tune_swa.monitoring.trial_counts import TrialCounts
from tune_swa.results.api import load_results, side_by_side
from tune_swa.results.columns import comparison_columns, trials_columns
from tune_swa.results.comparison import best_trial, compare_configurations
from tune_swa.results.export import write_tables
from tune_swa.results.metric_format import MetricFormat
from tune_swa.results.outlook import describe_outlook
from tune_swa.results.report.page import build_report
from tune_swa.results.summary import summary_text
from tune_swa.results.tables import build_tables
from tune_swa.results.terminal_table import comparison_table, side_by_side_table
from tune_swa.results.verdict import compute_verdict
from tune_swa.results.verdict_sentences import verdict_text
from tune_swa.tracking.optuna_log import StudyFile

NLL = {"objective": {"metric": "nll"}}
SEEDS = (8, 9, 10, 11, 12)
PAST_SEED = (0.1, 0.2, 0.3, 0.2, 0.2)
"""By how much nll is lower on each seed: mean 0.2, standard deviation 0.0707."""


def by_nll(folder: Path) -> Writer:
    """By accuracy swa-0 and base-0 are the best, by nll swa-1 and base-1."""
    writer = Writer(folder, experiment(**NLL))
    for name, params, accuracy, nll in (
        ("base-0", {"lr": 1e-3}, 0.90, 0.40),
        ("base-1", {"lr": 3e-3}, 0.88, 0.30),
        ("swa-0", SWA_ARM["params"], 0.93, 0.35),
        ("swa-1", SECOND_ARM["params"], 0.89, 0.25),
    ):
        writer.trial(name, params, [0.5, 0.6, 0.8, accuracy], nll=nll)  # type: ignore[arg-type]
    return writer


def confirmed(folder: Path, spec: dict[str, Any] = NLL, *, sign: float = 1.0, images: int = 50) -> Writer:
    """A look at two finalists, whose nll is lower by `PAST_SEED`, and two baselines.

    The finalists are right on 60 % of the images, plain training on 80 %.
    """
    writer = by_nll(folder) if spec else usual(folder)
    first, second = {**SECOND_ARM, "roles": ["finalist"]}, {**SWA_ARM, "roles": ["finalist"]}
    arms = [first, second, TUNED_ARM, {**TRUNK_ARM, "roles": ["baseline", "trunk"]}]
    writer.planned_look(arms, SEEDS)
    for seed, gain in zip(SEEDS, PAST_SEED, strict=True):
        for arm in arms:
            plain = arm["kind"] == "baseline"
            # the worse baseline is as much behind on each seed
            nll = 1.0 + 0.05 * (arm is TUNED_ARM) - (0.0 if plain else sign * gain)
            right = np.arange(images) < (0.8 if plain else 0.6) * images
            writer.tested(arm, seed, right, nll=np.full(images, nll))
    return writer


def shown(what: RenderableType, width: int = 100) -> str:
    file = io.StringIO()
    Console(file=file, width=width).print(what)
    return file.getvalue()


# --------------------------------------------------------------------------------------- the search


def test_configurations_are_ranked_by_nll_and_measured_in_nats(tmp_path: Path) -> None:
    state = by_nll(tmp_path).state()
    compared = compare_configurations(state)
    assert [e.trial.name for e in compared.ranked] == ["swa-1", "base-1", "swa-0", "base-0"]
    assert compared.baseline is not None
    assert compared.baseline.trial.name == "base-1"
    assert compared.best is not None
    assert compared.best.delta_vs_baseline == pytest.approx(0.05)
    gains = {e.trial.name: e.delta_vs_same_lr for e in compared.trials}
    assert gains == {"base-0": 0, "base-1": 0, "swa-0": pytest.approx(0.05), "swa-1": pytest.approx(0.05)}
    best = best_trial(state)
    assert best is not None
    assert best.name == "swa-1"


def test_the_same_trials_by_accuracy_have_another_best(tmp_path: Path) -> None:
    writer = by_nll(tmp_path)
    lines = writer.path.read_text().replace('"objective":{"metric":"nll"},', "")
    writer.path.write_text(lines)
    state = writer.state()
    assert [e.trial.name for e in compare_configurations(state).ranked] == [
        "swa-0",
        "base-0",
        "swa-1",
        "base-1",
    ]
    best = best_trial(state)
    assert best is not None
    assert best.name == "swa-0"


def test_the_tables_say_what_their_columns_are(tmp_path: Path) -> None:
    tables = build_tables(by_nll(tmp_path).state())
    trials, compared = tables.trials.to_pandas(), tables.comparison.to_pandas()
    assert dict(zip(trials.trial, trials.delta_vs_baseline.round(9), strict=True)) == {
        "base-0": -0.1, "base-1": 0.0, "swa-0": -0.05, "swa-1": 0.05,
    }  # fmt: skip
    assert list(compared["rank"]) == [1, 2, 3, 4]
    assert list(compared.trial) == ["swa-1", "base-1", "swa-0", "base-0"]
    assert set(compared.baseline_nll) == {0.30}
    assert set(compared.baseline_accuracy) == {0.88}
    for table, described in (
        (tables.trials, trials_columns(experiment().parameters, "nll")),
        (tables.comparison, comparison_columns(experiment().parameters, "nll")),
    ):
        meanings = {f.name: f.metadata[b"description"].decode() for f in table.schema}
        assert meanings == {c.name: c.meaning for c in described}
        assert "Nats by which `nll` is lower" in meanings["delta_vs_baseline"]


def test_tables_by_accuracy_have_the_columns_of_before(tmp_path: Path) -> None:
    tables = build_tables(usual(tmp_path).state())
    assert "baseline_nll" not in tables.comparison.column_names
    assert "race_nll" not in tables.comparison.column_names
    assert b"objective" not in (tables.trials.schema.metadata or {})[b"tune_swa.space"]


def test_the_summary_and_the_table_speak_of_nll(tmp_path: Path) -> None:
    state = by_nll(tmp_path).state()
    lines = summary_text(state).splitlines()
    assert lines[1:4] == [
        "Best SWA configuration: SWA_0_2e-3 lr=3e-3 (swa-1), nll 0.2500, accuracy 89.00 %, 178 of 200 "
        "images.",
        "Best baseline: baseline lr=3e-3 (base-1), nll 0.3000, accuracy 88.00 %, 176 of 200 images.",
        "SWA is ahead of the tuned baseline: nll 0.0500 lower on 200 validation images.",
    ]
    assert lines[-1].endswith("chose the best of 4 completed configurations, so its nll is optimistic.")
    assert "points" not in summary_text(state)
    table = shown(comparison_table(state))
    assert re.search(r"1 +SWA_0_2e-3 lr=3e-3 +completed +89.00 +\+0.0500 +\+0.0500 +0.2500 +4/4", table)
    assert re.search(r"4 +baseline lr=1e-3 +completed +90.00 +-0.1000 +0.0000 +0.4000 +4/4", table)
    assert "ranked by nll on 200 validation images, differences: nats by which it is lower" in " ".join(
        table.split()
    )


def test_the_progress_says_nll(tmp_path: Path) -> None:
    writer = by_nll(tmp_path)
    state = writer.state()
    counts = TrialCounts(writer.spec, state, 1, 0.0)
    leader = counts.find_leader("swa"), counts.find_leader("baseline")
    assert [trial.name for trial in leader if trial] == ["swa-1", "base-1"]
    output = OutputFormat("utf-8", unicode=True)
    better = ended_line(state.trials["swa-1"], state.trials["base-1"], counts, output).plain
    worse = ended_line(state.trials["swa-0"], state.trials["base-1"], counts, output).plain
    assert "nll 0.2500  nll 0.0500 lower vs baseline" in better
    assert "nll 0.3500  nll 0.0500 higher vs baseline" in worse
    status = status_line(counts, 1.0, final=True)
    assert (
        "best SWA nll 0.2500 (swa-1); best baseline nll 0.3000 (base-1); nll 0.0500 lower for SWA" in status
    )
    assert "nll 0.2500  nll 0.0500 lower  swa-1" in shown(draw_search(counts, output, 100, 30, 1.0, ""))


def test_the_exported_studies_minimise_nll(tmp_path: Path) -> None:
    writer = by_nll(tmp_path)
    log = StudyFile()
    log(writer.state(), tmp_path)
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "optuna.log")))
    for name, best in (("made-up", "swa-1"), ("made-up-baseline", "base-1")):
        study = optuna.load_study(storage=storage, study_name=name)
        assert study.direction == optuna.study.StudyDirection.MINIMIZE
        assert study.metric_names == ["nll"]
        assert study.best_trial.user_attrs["trial"] == best
        assert study.best_value == {"swa-1": 0.25, "base-1": 0.30}[best]
        assert study.user_attrs["best_baseline"]["nll"] == 0.30
    # a later session knows what the file has, and appends
    writer.session(2)
    writer.trial("swa-2", {**SWA_ARM["params"], "swa_lr": 1e-3}, [0.5, 0.5, 0.5, 0.5], nll=0.2)  # type: ignore[dict-item]
    before = (tmp_path / "optuna.log").read_bytes()
    StudyFile()(writer.state(), tmp_path)
    assert (tmp_path / "optuna.log").read_bytes().startswith(before)
    study = optuna.load_study(storage=storage, study_name="made-up")
    assert (study.best_value, study.trials[-1].intermediate_values) == (0.2, dict.fromkeys(range(4), 0.2))


def test_the_importance_and_the_best_of_n_are_of_nll(tmp_path: Path) -> None:
    writer = by_nll(tmp_path)
    for k, rate in enumerate((1e-4, 3e-4, 1e-3, 3e-3), start=2):  # nll depends on swa_lr, accuracy on nothing
        params = {"lr": 1e-3, "swa_start": k % 3, "swa_lr": rate}
        writer.trial(f"swa-{k}", params, [0.5, 0.5, 0.5, 0.93], nll=1.0 + 1000 * rate)
    results = load_results(writer.path.parent)
    assert next(iter(results.importance())) == "swa_lr"
    page = build_report(writer.state(), tmp_path)
    assert "Expected lowest validation nll of n trials" in page
    assert "fANOVA over the validation nll" in page


# ------------------------------------------------------------------------------------ fresh seeds


def test_the_verdict_is_about_nll_and_its_numbers_are_known(tmp_path: Path) -> None:
    """Every image of a seed differs by the same, so the interval is the paired one: 0.2 +- 2.776 x 0.0316."""
    found = compute_verdict(confirmed(tmp_path).state(), tmp_path)
    assert found is not None
    leading = found.leading
    assert leading is not None
    assert (leading.arm.name, leading.against.name, leading.metric) == ("swa-1", "base-1", "nll")
    assert leading.by_seed == pytest.approx(PAST_SEED)
    assert leading.interval.mean == pytest.approx(0.2)
    assert leading.interval.low == pytest.approx(0.2 - 2.776445 * 0.0316228, abs=1e-6)
    assert leading.paired.high == pytest.approx(0.2 + 2.776445 * 0.0316228, abs=1e-6)
    assert [c.outcome for c in found.against_plain] == ["better", "better"]
    # the accuracies, which say the opposite, stand beside it
    assert leading.beside is not None
    assert leading.beside.mean == pytest.approx(-0.2)


def test_a_higher_nll_is_worse_whatever_the_accuracy(tmp_path: Path) -> None:
    found = compute_verdict(confirmed(tmp_path, sign=-1.0).state(), tmp_path)
    assert found is not None
    assert found.agreed == "worse"
    first = verdict_text(found).splitlines()[0]
    assert first.startswith(
        "SWA is worse: SWA_0_2e-3 lr=3e-3 loses to the best plain training found (baseline"
    )
    assert "nll 0.2000 higher (95 % interval " in first


def test_the_sentences_of_a_verdict_by_nll(tmp_path: Path) -> None:
    text = verdict_text(compute_verdict(confirmed(tmp_path).state(), tmp_path))  # type: ignore[arg-type]
    lines = text.splitlines()
    assert re.fullmatch(
        r"SWA is better: SWA_0_2e-3 lr=3e-3 beats the best plain training found \(baseline lr=3e-3\), nll "
        r"0\.2000 lower \(95 % interval 0\.1122 to 0\.\d{4} lower, p = 0\.00\d+\), on 5 fresh seeds and 50 "
        r"test images\.",
        lines[0],
    )
    assert (
        "Description only: in the same runs SWA_0_2e-3 lr=3e-3 against baseline lr=3e-3, accuracy -20.00 "
        "points (95 % interval " in lines[2]
    )
    assert any(line.startswith("A BN refresh alone changes baseline lr=3e-3: nll equal.") for line in lines)


def test_the_test_images_decide_by_nll_whether_more_seeds_follow(tmp_path: Path) -> None:
    """`judged` is recorded by what `evaluate_look` says of nll."""
    from tune_swa.results.look_evaluation import read_and_evaluate_look

    state = confirmed(tmp_path / "nll").state()
    judged = read_and_evaluate_look(state, state.confirmations[-1], tmp_path / "nll")
    assert (judged.stop, judged.finalists[0].outcome) == ("success", "better")
    state = confirmed(tmp_path / "accuracy", {}).state()
    judged = read_and_evaluate_look(state, state.confirmations[-1], tmp_path / "accuracy")
    assert (judged.stop, judged.finalists[0].outcome) == ("seeds", "worse")


def test_by_accuracy_nll_stands_beside_the_verdict_and_changes_nothing(tmp_path: Path) -> None:
    found = compute_verdict(confirmed(tmp_path, {}).state(), tmp_path)
    assert found is not None
    assert found.agreed == "worse"
    line = verdict_text(found).splitlines()[2]
    arms = "SWA_0_2e-3 lr=3e-3 against baseline lr=1e-3"  # the first of two equal accuracies
    assert line == (
        f"Description only: in the same runs {arms}, nll 0.2500 lower (95 % interval 0.1622 to 0.3378 "
        "lower); the verdict does not depend on it."
    )


def test_old_looks_and_unfinished_ones_say_nothing_beside_the_verdict(tmp_path: Path) -> None:
    from helpers.journals import confirmed as former

    text = verdict_text(compute_verdict(former(tmp_path / "old").state(), tmp_path / "old"))  # type: ignore[arg-type]
    assert "Description only" not in text
    writer = confirmed(tmp_path / "new")
    append_event(
        writer.journal, "confirm", look=2, arms=[SECOND_ARM, TUNED_ARM], seeds=[*SEEDS, 13], searched=4,
        plan=1, looks=[5, 6], levels=[0.02, 0.02],
    )  # fmt: skip
    found = compute_verdict(writer.state(), tmp_path / "new")
    assert found is not None
    assert not found.complete
    assert "Description only" not in verdict_text(found)


def test_the_comparison_of_fresh_seeds_is_in_nats(tmp_path: Path) -> None:
    writer = confirmed(tmp_path)
    rows = build_tables(writer.state(), tmp_path).comparison.to_pandas().set_index("trial")
    assert rows.loc["swa-1", ["mean", "delta", "verdict"]].tolist() == [
        pytest.approx(0.8), pytest.approx(0.2), "better",
    ]  # fmt: skip
    assert rows.loc["swa-1", "sd"] == pytest.approx(0.0707107)
    compared = load_results(tmp_path).compare()
    assert compared.delta[0] == pytest.approx(0.2)
    page = build_report(writer.state(), tmp_path)
    for words in (
        "validation nll",
        "Differences are in nats by which nll is lower",
        "test nll",
        "nll lower by",
    ):
        assert words in page
    assert "percentage points" not in page


def test_experiments_side_by_side_keep_their_units(tmp_path: Path) -> None:
    confirmed(tmp_path / "nll")
    confirmed(tmp_path / "accuracy", {})
    frame = side_by_side([tmp_path / "nll", tmp_path / "accuracy"])
    assert list(frame.objective) == ["nll", "accuracy"]
    assert list(frame.swa_nll) == [0.25, 0.5]
    text = " ".join(shown(side_by_side_table(frame.to_dict("records")), 200).split())  # type: ignore[arg-type]
    assert "+0.2000 (+0.1122 to" in text
    assert "-20.00 (" in text
    assert "or, where the objective is nll, in nats by which it is lower" in text


def test_a_race_by_nll_is_tabulated_and_drawn(tmp_path: Path) -> None:
    writer = by_nll(tmp_path)
    arms = [{**SWA_ARM, "roles": ["candidate"]}, {**SECOND_ARM, "roles": ["candidate"]}, TUNED_ARM]
    writer.race(arms, {"swa-0": [0.9, 0.9], "swa-1": [0.8, 0.8], "base-0": [0.7, 0.7]})
    rows = build_tables(writer.state()).comparison.to_pandas().set_index("trial")
    assert rows.race_nll.dropna().to_dict() == {"swa-0": 0.5, "swa-1": 0.5, "base-0": 0.5}
    assert rows.race_accuracy["swa-0"] == pytest.approx(0.9)
    page = build_report(writer.state(), tmp_path)
    assert "Nll of the search&#39;s best SWA configurations" in page


def test_a_plan_does_not_promise_to_detect_a_difference_in_nll() -> None:
    text = describe_outlook(experiment(**NLL), 450)
    assert "points" not in text
    assert "not known beforehand" in text


def test_files_of_a_search_by_nll_are_read_back(tmp_path: Path) -> None:
    writer = confirmed(tmp_path)
    write_tables(writer.state(), tmp_path)
    read = pd.read_parquet(tmp_path / "comparison.parquet")
    pd.testing.assert_frame_equal(
        read, build_tables(writer.state(), tmp_path).comparison.to_pandas(), check_like=False
    )


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.0034, 0.0212, "0.0034 to 0.0212 lower"),
        (-0.0034, 0.0212, "0.0034 higher to 0.0212 lower"),
        (-0.0212, -0.0034, "0.0034 to 0.0212 higher"),
        (0.0, 0.01, "0.0000 to 0.0100 lower"),
        (-0.01, 0.00001, "0.0000 to 0.0100 higher"),
    ],
)
def test_intervals_of_nll_in_words(low: float, high: float, words: str) -> None:
    assert MetricFormat("nll").describe_interval(low, high) == words
