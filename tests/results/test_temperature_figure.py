"""The report's table of models with and without the fitted temperature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from helpers.journals import SWA_ARM, TRUNK_ARM, TUNED_ARM, usual
from tune_swa.results.contrasts import Verdict
from tune_swa.results.report.page import build_report
from tune_swa.results.report.temperature_figure import draw_temperatures, list_scored_models
from tune_swa.results.verdict import compute_verdict

SEEDS = (8, 9, 10)


def right(share: float) -> np.ndarray:
    return np.arange(40) < 40 * share


def analyse(folder: Path, temperature: Callable[[int], float | None], averages: bool = False) -> Verdict:
    """An SWA arm, which is right on 80 to 90 % of the images, and two plain ones."""
    writer = usual(folder)
    writer.look([SWA_ARM, TUNED_ARM, TRUNK_ARM], SEEDS)
    for k, seed in enumerate(SEEDS):
        observed = {"swa": right(0.8 + 0.05 * k), "ema(2)": right(0.7)} if averages else None
        writer.tested(SWA_ARM, seed, right(0.8 + 0.05 * k), averages=observed, temperature=temperature(seed))
        for arm in (TUNED_ARM, TRUNK_ARM):
            writer.tested(arm, seed, right(0.75), temperature=temperature(seed))
    found = compute_verdict(writer.state(), folder)
    assert found is not None
    return found


def read_rows(found: Verdict) -> dict[tuple[object, object], Sequence[object]]:
    return {(row[0], row[1]): row for row in draw_temperatures(list_scored_models(found)).rows}


def nll(share: float, temperature: float) -> float:
    gaps = np.log([9, 0.25]) / temperature  # of the probabilities 0.9 and 0.2
    return float(np.log1p(np.exp(-gaps)) @ [share, 1 - share])


def test_every_model_of_every_arm_has_a_row(tmp_path: Path) -> None:
    rows = read_rows(analyse(tmp_path, lambda seed: seed / 4))
    assert [model for _, model in rows] == [
        "shipped", "shipped", "refreshed", "shipped", "refreshed"
    ]  # fmt: skip
    row = rows["SWA_1_5e-4 lr=1e-3", "shipped"]
    assert row[2] == 3
    scaled = [nll(0.8, 2), nll(0.85, 2.25), nll(0.9, 2.5)]
    plain = [nll(0.8, 1), nll(0.85, 1), nll(0.9, 1)]
    assert row[3] == f"{np.mean(plain):.4f} ± {np.std(plain, ddof=1):.4f}"
    assert row[4] == f"{np.mean(scaled):.4f} ± {np.std(scaled, ddof=1):.4f}"
    assert row[5:7] == ["10.00 ± 0.00", "5.00 ± 0.00"]
    assert row[9] == "2.25 ± 0.25"


def test_averages_have_rows_and_the_leading_one_no_second(tmp_path: Path) -> None:
    rows = read_rows(analyse(tmp_path, lambda _: 2.0, averages=True))
    assert [model for arm, model in rows if str(arm).startswith("SWA")] == ["shipped", "ema(2)"]


def test_whatever_is_drawn_is_in_the_table(tmp_path: Path) -> None:
    drawn = draw_temperatures(list_scored_models(analyse(tmp_path, lambda _: 2.0)))
    assert drawn.figure is not None
    assert len(drawn.figure.data) == 2
    for column, trace in zip((3, 4), drawn.figure.data, strict=True):
        assert [f"{x:.4f}" for x in trace.x] == [str(row[column]).split()[0] for row in drawn.rows]


def test_runs_of_older_versions_are_left_out(tmp_path: Path) -> None:
    """A search of before that was given more seeds."""
    rows = read_rows(analyse(tmp_path, lambda seed: None if seed == 8 else 2.0))
    assert {row[2] for row in rows.values()} == {2}
    row = rows["SWA_1_5e-4 lr=1e-3", "shipped"]
    assert str(row[3]).startswith(f"{np.mean([nll(0.85, 1), nll(0.9, 1)]):.4f} ±")


def test_one_seed_has_no_deviation(tmp_path: Path) -> None:
    rows = read_rows(analyse(tmp_path, lambda seed: 2.0 if seed == 8 else None))
    assert rows["SWA_1_5e-4 lr=1e-3", "shipped"][9] == "2.00"


def test_temperatures_that_could_not_be_fitted_are_counted(tmp_path: Path) -> None:
    drawn = draw_temperatures(list_scored_models(analyse(tmp_path, lambda seed: 1.0 if seed == 8 else 2.0)))
    assert "In 5 cases all validation images are right" in drawn.text  # three arms, two with a refresh


@pytest.mark.parametrize("temperature", [None, 2.0])
def test_the_report_has_the_section_where_there_are_temperatures(
    temperature: float | None, tmp_path: Path
) -> None:
    writer = usual(tmp_path)
    writer.look([SWA_ARM, TUNED_ARM], SEEDS)
    for seed in SEEDS:
        for arm in (SWA_ARM, TUNED_ARM):
            writer.tested(arm, seed, right(0.8), temperature=temperature)
    page = build_report(writer.state(), tmp_path)
    assert ("Probabilities at a fitted temperature" in page) == (temperature is not None)
    assert ('id="figure-temperature"' in page) == (temperature is not None)
