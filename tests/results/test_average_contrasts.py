"""Averages on fresh seeds: which are compared, with what, and that chance alone is seldom called better."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from helpers.journals import SWA_ARM, TRUNK_ARM, TUNED_ARM, Writer, usual
from tune_swa.results.average_contrasts import AverageContrast, compare_averages
from tune_swa.results.predictions import read_predictions
from tune_swa.results.report.page import build_report
from tune_swa.results.terminal_table import averages_table
from tune_swa.results.verdict import compute_verdict

SEEDS, IMAGES = range(20, 26), 400
CHANCES = {"base-0": 0.8, "base-1": 0.75}


def write_look(
    folder: Path,
    averages: Mapping[str, float],
    baseline: Mapping[str, float] | None = None,
    drawn: int = 3,
    *,
    refreshed: bool = True,
) -> Writer:
    """Six seeds of a finalist with averages that are right with these chances, and of two plain arms."""
    writer = usual(folder)
    rng = np.random.default_rng(drawn)
    writer.planned_look([SWA_ARM, TUNED_ARM, TRUNK_ARM], list(SEEDS))
    hard = rng.normal(size=IMAGES)  # images differ in how hard they are, alike for all runs

    def draw_right(chance: float) -> np.ndarray:
        return hard + rng.normal(scale=0.5, size=IMAGES) < np.quantile(hard, chance)

    for seed in SEEDS:
        for arm in (TRUNK_ARM, TUNED_ARM):
            own = baseline if arm is TUNED_ARM else None
            said = {label: draw_right(chance) for label, chance in (own or {}).items()}
            writer.tested(arm, seed, draw_right(CHANCES[arm["name"]]), averages=said, refreshed=refreshed)
        said = {label: draw_right(chance) for label, chance in averages.items()}
        writer.tested(SWA_ARM, seed, next(iter(said.values())), averages=said)
    return writer


def compare(writer: Writer) -> dict[tuple[str, str], AverageContrast]:
    state = writer.state()
    found = compute_verdict(state, writer.path.parent)
    assert found is not None
    compared = compare_averages(found, read_predictions(state, writer.path.parent))
    return {(c.arm.name, c.average): c for c in compared}


def test_every_average_of_the_finalist_and_the_best_plain_training(tmp_path: Path) -> None:
    writer = write_look(tmp_path, {"swa": 0.81, "ema-2": 0.92, "lawa-5": 0.6}, {"ema-2": 0.8})
    found = compare(writer)
    of_finalist = [("swa-0", "swa"), ("swa-0", "ema-2"), ("swa-0", "lawa-5")]
    assert list(found) == [*of_finalist, ("base-0", "ema-2"), ("base-0", "BN refresh alone")]
    assert found["swa-0", "ema-2"].accuracy.outcome == found["swa-0", "ema-2"].nll.outcome == "better"
    assert found["swa-0", "lawa-5"].accuracy.outcome == found["swa-0", "lawa-5"].nll.outcome == "worse"
    assert found["base-0", "ema-2"].accuracy.outcome == "not distinguishable"
    assert {c.against.name for c in found.values()} == {"base-0"}
    # a lower nll is better
    assert found["swa-0", "ema-2"].nll.interval.high < 0 < found["swa-0", "ema-2"].accuracy.interval.low


def test_a_network_with_nothing_to_refresh_has_no_row_of_a_refresh(tmp_path: Path) -> None:
    writer = write_look(tmp_path, {"swa": 0.81, "ema-2": 0.92}, refreshed=False)
    assert [label for _, label in compare(writer)] == ["swa", "ema-2"]
    page = build_report(writer.state(), tmp_path)
    assert "A BN refresh alone changes" not in page


def test_the_nll_at_a_temperature_is_compared_where_all_runs_have_one(tmp_path: Path) -> None:
    writer = write_look(tmp_path, {"swa": 0.81, "ema-2": 0.92}, {"ema-2": 0.8})
    found = compare(writer)["swa-0", "ema-2"]
    assert found.calibrated is not None
    assert found.calibrated.outcome == "better"
    assert found.calibrated.mean != found.nll.mean
    predictions = read_predictions(writer.state(), tmp_path)
    runs = [predictions[f"swa-0-seed{seed}"]["ema-2"].calibrated for seed in SEEDS]
    assert found.calibrated.mean == pytest.approx(np.mean([said.nll for said in runs if said is not None]))
    assert "nll at its temperature" in build_report(writer.state(), tmp_path)


def test_the_leading_average_has_the_verdicts_difference(tmp_path: Path) -> None:
    writer = write_look(tmp_path, {"swa": 0.9, "ema-2": 0.85})
    found = compute_verdict(writer.state(), tmp_path)
    assert found is not None
    assert found.leading is not None
    assert compare(writer)["swa-0", "swa"].accuracy.interval.mean == found.leading.interval.mean


def test_p_values_count_the_averages(tmp_path: Path) -> None:
    """The same average among seven that are as good as plain training has a p-value of eight times."""
    alone = compare(write_look(tmp_path / "1", {"swa": 0.83}))["swa-0", "swa"]
    writer = write_look(tmp_path / "2", {"swa": 0.83})
    state, folder = writer.state(), tmp_path / "2"
    predictions = read_predictions(state, folder)
    for run in state.trials.values():
        if run.tested is not None and run.kind == "swa":
            assert isinstance(run.tested.averages, dict)
            for number in range(2, 9):
                plain = predictions[f"base-0-seed{run.seed}"]["shipped"]
                predictions[run.name][f"ema-{number}"] = plain
                run.tested.averages[f"ema-{number}"] = run.tested.shipped
    found = compute_verdict(state, folder)
    assert found is not None
    among = {c.average: c for c in compare_averages(found, predictions)}
    assert len(among) == 9
    assert among["swa"].accuracy.p_value == pytest.approx(9 / 2 * alone.accuracy.p_value)


def test_an_average_has_to_beat_all_plain_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ahead of the rival that is shown is not enough: another one may be the best."""
    monkeypatch.setitem(CHANCES, "base-1", 0.8)
    together = compare(write_look(tmp_path / "1", {"swa": 0.84}))["swa-0", "swa"]
    monkeypatch.setitem(CHANCES, "base-1", 0.5)
    apart = compare(write_look(tmp_path / "2", {"swa": 0.84}))["swa-0", "swa"]
    assert together.accuracy.p_value >= apart.accuracy.p_value


def test_chance_is_seldom_called_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal chances everywhere: of 40 families of four averages, few have a claim (0.05 is the level)."""
    monkeypatch.setitem(CHANCES, "base-1", 0.8)
    claims = 0
    for drawn in range(40):
        equal = dict.fromkeys(("swa", "ema-2", "lawa-5", "lawa-9"), 0.8)
        found = compare(write_look(tmp_path / str(drawn), equal, drawn=drawn))
        claims += any(c.accuracy.outcome in ("better", "worse") for c in found.values())
    assert claims <= 6  # 99 % of a binomial of 40 with 0.05


def test_there_is_no_table_without_averages(tmp_path: Path) -> None:
    writer = usual(tmp_path)
    rng = np.random.default_rng(0)
    writer.planned_look([SWA_ARM, TUNED_ARM], list(SEEDS))
    for seed in SEEDS:
        for arm in (TUNED_ARM, SWA_ARM):
            writer.tested(arm, seed, rng.random(IMAGES) < 0.8)
    assert compare(writer) == {}
    assert "Averages on fresh seeds" not in build_report(writer.state(), tmp_path)


def test_an_unfinished_look_claims_nothing(tmp_path: Path) -> None:
    writer = usual(tmp_path)
    rng = np.random.default_rng(0)
    writer.planned_look([SWA_ARM, TUNED_ARM], list(SEEDS))
    for seed in list(SEEDS)[:5]:
        writer.tested(TUNED_ARM, seed, rng.random(IMAGES) < 0.5)
        right = rng.random(IMAGES) < 0.95
        writer.tested(SWA_ARM, seed, right, averages={"swa": right})
    assert compare(writer)["swa-0", "swa"].accuracy.outcome == "unfinished"


def test_the_report_and_the_terminal_show_them(tmp_path: Path) -> None:
    writer = write_look(tmp_path, {"swa": 0.81, "ema-2": 0.92}, {"ema-2": 0.8})
    page = build_report(writer.state(), tmp_path)
    assert "Averages on fresh seeds" in page
    section = page.split('<section id="averages">')[1].split("</section>")[0]
    assert section.count("<td>ema-2</td>") == 2
    console = Console(width=100, record=True, file=None)
    console.print(averages_table(list(compare(writer).values()), "average"))
    text = console.export_text()
    assert text.count("ema-2") == 2
    # ema-2 of the finalist is better in both, and nothing else is distinguishable
    assert text.count("*") == 2 + text.count("*:")
