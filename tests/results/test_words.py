"""The terminal's table and sentences: honest in every state, readable in 80 columns and in plain text."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from helpers.journals import Writer, experiment, usual
from tune_swa.experiment.state import ExperimentState
from tune_swa.results.metric_format import MetricFormat
from tune_swa.results.summary import summary_text
from tune_swa.results.terminal_table import color_gain, comparison_table

SWA = {"lr": 1e-3, "swa_start": 2, "swa_lr": 1e-3}


def shown(state: ExperimentState, width: int = 80, limit: int | None = None, **options: object) -> str:
    file = io.StringIO()
    Console(file=file, width=width, **options).print(comparison_table(state, limit=limit))  # type: ignore[arg-type]
    return file.getvalue()


def line(text: str, begins: str) -> list[str]:
    return next(found for found in text.splitlines() if found.strip().startswith(begins)).split()


def test_the_table_in_80_columns(tmp_path: Path) -> None:
    writer = usual(tmp_path)
    writer.trial("swa-9", SWA, [0.3, 0.4], status="interrupted")
    text = shown(writer.state())
    assert max(map(len, text.splitlines())) <= 80
    assert line(text, "1") == [
        "1",
        "SWA_1_5e-4",
        "lr=1e-3",
        "completed",
        "93.00",
        "+3.00",
        "+3.00",
        "0.500",
        "4/4",
    ]
    assert line(text, "* 2") == [
        "*",
        "2",
        "baseline",
        "lr=1e-3",
        "completed",
        "90.00",
        "0.00",
        "0.00",
        "0.500",
        "4/4",
    ]
    assert line(text, "3")[-4:-2] == ["-1.00", "+1.00"]
    assert line(text, "-")[1:] == ["SWA_2_1e-3", "lr=1e-3", "interrupted", "40.00", "-", "-", "0.500", "2/4"]
    assert "200 validation images" in " ".join(text.split())
    assert "\x1b" not in text


@pytest.mark.parametrize("width", [40, 60])
def test_nothing_is_cut_below_80_columns(tmp_path: Path, width: int) -> None:
    text = shown(usual(tmp_path).state(), width)
    assert max(map(len, text.splitlines())) <= width
    assert "\u2026" not in text


def test_an_output_without_unicode(tmp_path: Path) -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Console(file=file, width=80).print(comparison_table(usual(tmp_path).state()))
    file.flush()


def test_colours_follow_the_sign() -> None:
    points = MetricFormat("accuracy")
    assert (color_gain(0.0064, points).plain, color_gain(0.0064, points).style) == ("+0.64", "green")
    assert (color_gain(-0.0064, points).plain, color_gain(-0.0064, points).style) == ("-0.64", "red")
    assert color_gain(-0.00001, points).plain == "0.00"
    assert color_gain(None, points).plain == "-"


def test_a_limit_keeps_the_baseline_and_says_what_it_hides(tmp_path: Path) -> None:
    writer = usual(tmp_path)
    text = shown(writer.state(), limit=1)
    rows = [row.split()[0] for row in text.splitlines() if "completed" in row and "4/4" in row]
    assert rows == ["1", "*"]
    assert "lr=3e-3" not in text
    assert "2 more not shown" in " ".join(text.split())
    assert "not shown" not in shown(writer.state(), limit=4)


def test_brackets_in_names_are_not_markup(tmp_path: Path) -> None:
    space = {"lr": 1e-3, "swa_start": 1, "swa_lr": 1e-3, "train.optimizer": {"choice": ["adam", "sgd"]}}
    writer = Writer(tmp_path, experiment(space=space))
    writer.trial("base-0", {"train.optimizer": "[red]sgd[/red] [/]"}, [0.5])
    assert "[red]sgd[/red] [/]" in shown(writer.state(), 120)


def test_a_table_without_a_baseline_or_without_anything(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    assert "no baseline has completed" in shown(writer.state())
    writer.suggest("swa-0", SWA)
    assert line(shown(writer.state()), "-")[3:] == ["running", "-", "-", "-", "-", "0/4"]


def test_when_swa_wins(tmp_path: Path) -> None:
    text = summary_text(usual(tmp_path).state())
    assert text.splitlines()[:4] == [
        "4 trials: 4 completed.",
        "Best SWA configuration: SWA_1_5e-4 lr=1e-3 (swa-0), 93.00 %, 186 of 200 images.",
        "Best baseline: baseline lr=1e-3 (base-0), 90.00 %, 180 of 200 images.",
        "SWA is ahead of the tuned baseline: +3.00 points = 6 of 200 validation images.",
    ]
    assert "one seed" in text
    assert "optimistic" in text
    assert "binomial standard error of 1.80 points" in text  # sqrt(0.93 * 0.07 / 200)


def test_when_swa_loses_though_it_helps_at_its_own_settings(tmp_path: Path) -> None:
    writer = Writer(tmp_path, images=314)
    writer.trial("base-0", {"lr": 1e-3}, [300 / 314])
    writer.trial("base-1", {"lr": 3e-3}, [290 / 314])
    writer.trial("swa-0", {**SWA, "lr": 3e-3}, [298 / 314])
    text = summary_text(writer.state())
    assert "SWA does not beat the tuned baseline: -0.64 points = 2 of 314 validation images." in text
    assert "the same settings without SWA: +2.55 points = 8 of 314 validation images." in text


def test_when_they_are_level(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.trial("base-0", {"lr": 1e-3}, [0.9])
    writer.trial("swa-0", SWA, [0.9])
    assert "level: 0.00 points = 0 of 200 validation images." in summary_text(writer.state())


def test_when_one_side_is_missing(tmp_path: Path) -> None:
    swa_only = Writer(tmp_path / "a")
    swa_only.trial("swa-0", SWA, [0.9])
    swa_only.trial("base-0", {"lr": 1e-3}, [0.9], status="failed")
    text = summary_text(swa_only.state())
    assert "2 trials: 1 completed, 1 failed." in text
    assert "No baseline has completed, so the gain from SWA is unknown." in text
    baseline_only = Writer(tmp_path / "b")
    baseline_only.trial("base-0", {"lr": 1e-3}, [0.9])
    baseline_only.trial("swa-0", SWA, [0.95], status="pruned")
    text = summary_text(baseline_only.state())
    assert "No SWA trial has completed, so the gain from SWA is unknown." in text
    assert "ahead" not in text


def test_when_nothing_has_completed(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    assert summary_text(writer.state()).startswith("No trial has started yet.\n")
    writer.trial("swa-0", SWA, [0.9], status=None)
    assert summary_text(writer.state()) == (
        "1 trial: 1 running.\nNo trial has completed, so there is nothing to compare."
    )
