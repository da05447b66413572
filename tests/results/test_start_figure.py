"""The report of a search whose averages have no learning rate of their own."""

from __future__ import annotations

from pathlib import Path

from helpers.journals import Writer, experiment
from tune_swa.results.comparison import compare_configurations
from tune_swa.results.report.page import build_report
from tune_swa.results.report.start_figure import draw_starts

SPACE = {"lr": {"choice": [1e-3, 3e-3]}, "swa_start": {"int": [0, 2]}}


def test_accuracy_is_drawn_over_the_start_alone(tmp_path: Path) -> None:
    writer = Writer(tmp_path, experiment(space=SPACE, averaging={"tail": "base"}))
    page = build_report(writer.state(), tmp_path)
    assert "Start of averaging" in page  # before any trial, too
    writer.trial("base-0000", {"lr": 1e-3}, [0.5, 0.6, 0.7, 0.8])
    writer.trial("swa-0000", {"lr": 1e-3, "swa_start": 1}, [0.5, 0.6, 0.7, 0.9])
    writer.trial("swa-0001", {"lr": 3e-3, "swa_start": 2}, [0.5, 0.6, 0.7, 0.85])
    figure = draw_starts(compare_configurations(writer.state()))
    assert figure.rows == [
        ["SWA_1 lr=1e-3", "completed", 1, "1e-3", "90.00", "+10.00"],
        ["SWA_2 lr=3e-3", "completed", 2, "3e-3", "85.00", "+5.00"],
    ]
    assert figure.figure is not None
    (trace,) = figure.figure.data
    assert (list(trace.x), list(trace.y)) == ([1, 2], [90.0, 85.0])
    assert "SWA_1 lr=1e-3" in build_report(writer.state(), tmp_path)
