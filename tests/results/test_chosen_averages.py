"""Results of a search by the best average: tables, words and files name what was chosen, and mean that."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console, RenderableType

from helpers.journals import SPACE, SWA_ARM, TRUNK_ARM, TUNED_ARM, Writer, experiment, usual
from tune_swa.monitoring.progress_lines import OutputFormat, ended_line
from tune_swa.monitoring.trial_counts import TrialCounts
from tune_swa.results.api import load_results, side_by_side
from tune_swa.results.average_contrasts import compare_averages
from tune_swa.results.columns import comparison_columns, confirm_columns, epochs_columns, trials_columns
from tune_swa.results.comparison import compare_configurations
from tune_swa.results.ensembles import build_ensembles, ensemble_records
from tune_swa.results.predictions import read_predictions
from tune_swa.results.report.page import build_report
from tune_swa.results.summary import summary_text
from tune_swa.results.tables import build_tables
from tune_swa.results.terminal_table import averages_table, comparison_table
from tune_swa.results.verdict import compute_verdict
from tune_swa.results.verdict_sentences import verdict_text
from tune_swa.tracking.optuna_log import FILE, StudyFile

LISTED = [{"method": "swa"}, {"method": "ema", "horizon": 1}, {"method": "swag", "rank": 2}]
LATE = {**SPACE, "swa_start": {"int": [0, 1]}}
CHOSEN = "SWA_1_5e-4 lr=1e-3 average=ema-1"
ARM = {**SWA_ARM, "average": "ema-1"}
SEEDS = (8, 9, 10, 11, 12)


def score(accuracy: float, nll: float) -> dict[str, Any]:
    return {"accuracy": accuracy, "nll": nll, "ece": 0.1, "members": 1, "seconds": 1.0}


def searched(folder: Path, **objective: str) -> Writer:
    """A baseline of each rate, and an SWA trial on the first whose EMA is its best average."""
    changes = {"objective": {"of": "best", **objective}, "confirm": {"ensemble": 2}}
    writer = Writer(folder, experiment(space=LATE, averages=LISTED, **changes))
    writer.trial("base-0", {"lr": 1e-3}, [0.5, 0.92, 0.8, 0.90])
    writer.trial("base-1", {"lr": 3e-3}, [0.5, 0.6, 0.8, 0.88])
    writer.suggest("swa-0", ARM["params"])
    writer.start("swa-0")
    for epoch, accuracy in enumerate((0.5, 0.6)):
        writer.epoch("swa-0", epoch, accuracy)
    writer.epoch("swa-0", 2, 0.90, averaged=1, average="swa")
    scores = {"swa": score(0.91, 0.5), "ema-1": score(0.93, 0.4), "swag-2": score(0.99, 0.1)}
    writer.epoch("swa-0", 3, 0.93, nll=0.4, averaged=2, average="ema-1", scores=scores)
    writer.end("swa-0", value=0.4 if objective else 0.93)
    return writer


def confirmed(folder: Path, **objective: str) -> Writer:
    """Five seeds of the chosen average and of both baselines."""
    writer, right = searched(folder, **objective), np.arange(50) < 40
    writer.planned_look([ARM, TUNED_ARM, TRUNK_ARM], SEEDS)
    for seed in SEEDS:
        for arm in (TUNED_ARM, TRUNK_ARM):
            writer.tested(arm, seed, right, probabilities=True)
        better = np.arange(50) < 44 + seed % 2
        averages = {"ema-1": better, "swa": right, "swag-2": right}
        writer.tested(ARM, seed, better, averages=averages, probabilities=True)
    return writer


def shown(what: RenderableType, width: int = 140) -> str:
    file = io.StringIO()
    Console(file=file, width=width).print(what)
    return file.getvalue()


@pytest.mark.parametrize("objective", [{}, {"metric": "nll"}])
def test_tables_have_what_was_chosen_in_their_last_column(objective: dict[str, str], tmp_path: Path) -> None:
    tables = build_tables(confirmed(tmp_path, **objective).state(), tmp_path)
    parameters, metric = experiment().parameters, objective.get("metric", "accuracy")
    for table, columns in (
        (tables.trials, trials_columns(parameters, metric, chooses=True)),  # type: ignore[arg-type]
        (tables.epochs, epochs_columns(chooses=True)),
        (tables.comparison, comparison_columns(parameters, metric, chooses=True)),  # type: ignore[arg-type]
        (tables.confirm, confirm_columns(parameters, chooses=True)),
    ):
        assert table is not None
        assert [(field.name, str(field.type).replace("double", "float64")) for field in table.schema] == [
            (column.name, column.type) for column in columns
        ]
        assert table.schema[-1].name == "average"
    trials = tables.trials.to_pandas().set_index("trial")
    assert trials.average.dropna().to_dict() == {
        "swa-0": "ema-1", **{f"swa-0-seed{seed}": "ema-1" for seed in SEEDS}
    }  # fmt: skip
    epochs = tables.epochs.to_pandas()
    for name, reported in (("swa-0", ["", "", "swa", "ema-1"]), ("swa-0-seed8", ["", "", "", "ema-1"])):
        assert list(epochs[epochs.trial == name].average.fillna("")) == reported
    assert epochs[epochs.trial.str.startswith("base")].average.isna().all()
    comparison = tables.comparison.to_pandas().set_index("trial")
    assert comparison.average.dropna().to_dict() == {"swa-0": "ema-1"}
    assert comparison.loc["swa-0", "configuration"] == CHOSEN
    assert comparison.loc["swa-0", "accuracy"] == 0.93
    confirm = tables.confirm.to_pandas()  # type: ignore[union-attr]
    assert set(confirm[confirm.arm == "swa-0"].average) == {"ema-1"}
    assert set(confirm[confirm.arm == "swa-0"].configuration) == {CHOSEN}


def test_the_verdict_the_tables_and_the_report_name_it(tmp_path: Path) -> None:
    writer = confirmed(tmp_path)
    state = writer.state()
    found = compute_verdict(state, tmp_path)
    assert found is not None
    assert CHOSEN in verdict_text(found)
    assert CHOSEN in shown(comparison_table(state))
    report = build_report(state, tmp_path)
    assert f'<td class="name">{CHOSEN}</td>' in report
    assert "The verdict of the search is that of the average that it chose for each configuration." in report
    assert "what the trial ships (the average that was chosen, or" in report
    assert "The model to ship is swa, and where all averages were scored the best of them." in report
    row = side_by_side([tmp_path]).iloc[0]
    assert (row.best_swa, row.finalist, row.swa_accuracy) == (CHOSEN, CHOSEN, 0.93)
    assert list(load_results(tmp_path).confirm.average.dropna().unique()) == ["ema-1"]


def test_beside_all_averages_the_configuration_stands_alone(tmp_path: Path) -> None:
    """Else each would be one average of another."""
    state = confirmed(tmp_path).state()
    found = compute_verdict(state, tmp_path)
    assert found is not None
    predictions = read_predictions(state, tmp_path)
    text = shown(averages_table(compare_averages(found, predictions), "average"))
    assert "ema-1 (chosen)" in text
    assert "average=" not in text
    assert "ema-1 (chosen)" in build_report(state, tmp_path)
    ensembles = ensemble_records(build_ensembles(found, predictions, state, tmp_path))
    labels = {(e["configuration"], e["method"]) for e in ensembles if e["arm"] == "swa-0"}
    alone = CHOSEN.replace(" average=ema-1", "")
    assert labels == {(alone, m) for m in ("MultiSWA", "ensemble of ema-1", "MultiSWAG (swag-2)")}


def test_nothing_of_it_is_there_where_the_first_leads(tmp_path: Path) -> None:
    writer = usual(tmp_path, spec=experiment(space=LATE, averages=LISTED))
    tables = build_tables(writer.state())
    assert all("average" not in table.schema.names for table in (tables.trials, tables.epochs))
    assert " average=" not in build_report(writer.state(), tmp_path).split("<script")[0]
    assert "averages in each" not in summary_text(writer.state())


def test_the_summary_counts_the_choice_as_one(tmp_path: Path) -> None:
    """Of two: the draws of swag are no candidate."""
    text = summary_text(searched(tmp_path).state())
    assert "chose the best of 3 completed configurations, and of 2 averages in each SWA trial, so" in text


def test_a_trial_that_ends_is_shown_with_its_average_and_a_running_one_without(tmp_path: Path) -> None:
    writer = searched(tmp_path)
    state = writer.state()
    counts = TrialCounts(writer.spec, state, 1, 0.0)
    line = ended_line(state.trials["swa-0"], None, counts, OutputFormat("utf-8", unicode=True))
    assert CHOSEN in line.plain
    state.trials["swa-0"].status = "running"
    assert "average=" not in counts.label_trial(state.trials["swa-0"])


def test_differences_are_those_of_the_chosen_average(tmp_path: Path) -> None:
    compared = compare_configurations(searched(tmp_path).state())
    assert compared.best is not None
    assert compared.best.label == CHOSEN
    assert compared.best.delta_vs_baseline == pytest.approx(0.03)


def test_the_study_names_it_when_a_trial_has_ended(tmp_path: Path) -> None:
    StudyFile()(searched(tmp_path).state(), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()]
    attributes = [line["user_attrs"] for line in lines if "user_attrs" in line]
    assert {a["trial"]: a.get("average") for a in attributes} == {
        "base-0": None, "base-1": None, "swa-0": "ema-1"
    }  # fmt: skip
