"""The report's table of averages in the search."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from helpers.journals import usual
from tune_swa.experiment.trial_state import TrialState
from tune_swa.results.report.page import build_report
from tune_swa.results.report.search_averages import tabulate_averages


def score(accuracy: float, nll: float) -> dict[str, float]:
    return {"accuracy": accuracy, "nll": nll, "ece": 0.1, "members": 1, "seconds": 1.0}


def scored_trials(folder: Path) -> list[TrialState]:
    """swa-0 (0.93) and swa-1 (0.89) with two averages, base-0 (0.90) with one, nll 0.5 each."""
    trials = usual(folder).state().trials
    trials["swa-0"].scores[3] = {"swa": score(0.93, 0.5), "ema-2": score(0.95, 0.4)}
    trials["swa-1"].scores[3] = {"swa": score(0.89, 0.5), "ema-2": score(0.88, 0.7)}
    trials["swa-1"].scores[1] = {"swa": score(0.1, 9.0), "ema-2": score(0.1, 9.0)}  # at a rung
    trials["base-0"].scores[3] = {"lawa-5": score(0.92, 0.45)}
    return list(trials.values())


def test_means_and_differences_within_trials(tmp_path: Path) -> None:
    found = tabulate_averages(scored_trials(tmp_path))
    assert found is not None
    assert [list(row) for row in found.rows] == [
        ["SWA", 2, "swa", "91.00", "0.00", 0, "0.5000", "+0.0000"],
        ["SWA", 2, "ema-2", "91.50", "+0.50", 1, "0.5500", "+0.0500"],
        ["baseline", 1, "lawa-5", "92.00", "+2.00", 1, "0.4500", "-0.0500"],
    ]


def test_only_completed_trials_of_the_search_count(tmp_path: Path) -> None:
    trials = scored_trials(tmp_path)
    pruned = [replace(trial, status="pruned") for trial in trials]
    fresh = [replace(trial, stage="confirm") for trial in trials]
    assert tabulate_averages(pruned) is None
    assert tabulate_averages(fresh) is None


def test_the_report_has_no_such_table_without_averages(tmp_path: Path) -> None:
    assert "Averages in the search" not in build_report(usual(tmp_path).state(), tmp_path)


def test_a_window_chosen_on_these_images_is_marked(tmp_path: Path) -> None:
    trials = scored_trials(tmp_path)
    plain = tabulate_averages(trials)
    assert plain is not None
    assert "optimistic" not in plain.text
    trials[0].scores[3] = {"swad-3-6-0.3": score(0.93, 0.5)}
    found = tabulate_averages(trials)
    assert found is not None
    assert "swad-3-6-0.3 *" in [row[2] for row in found.rows]
    assert "(*) Chooses its epochs on these images as well: its values are optimistic." in found.text
