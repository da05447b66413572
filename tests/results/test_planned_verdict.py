"""What a planned look concludes: against the best plain training found, and in which words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

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
from tune_swa.inference.rule import judge_look
from tune_swa.results.api import load_results, side_by_side
from tune_swa.results.contrasts import Verdict
from tune_swa.results.predictions import read_predictions
from tune_swa.results.tables import build_tables
from tune_swa.results.verdict import compute_verdict
from tune_swa.results.verdict_sentences import verdict_text

FIRST = {**SWA_ARM, "roles": ["finalist"]}
SECOND = {**SECOND_ARM, "roles": ["finalist"]}
BASE = {**TUNED_ARM, "roles": ["baseline", "trunk"]}
OTHER = {**TRUNK_ARM, "roles": ["baseline", "trunk"]}
ARMS = [FIRST, SECOND, BASE, OTHER]
SEEDS = (8, 9, 10, 11, 12)
IMAGES = 2000


def run_look(
    folder: Path,
    accuracies: dict[str, float],
    *,
    seeds: tuple[int, ...] = SEEDS,
    looks: tuple[int, ...] | None = None,
    validation: float = 0.9,
) -> Writer:
    """Arms that are right on these shares of 2,000 test images, others for each run."""
    writer = usual(folder)
    arms = [arm for arm in ARMS if arm["name"] in accuracies]
    writer.planned_look(arms, seeds, looks=looks)
    add_runs(writer, accuracies, seeds, validation)
    return writer


def add_runs(
    writer: Writer, accuracies: dict[str, float], seeds: tuple[int, ...], validation: float = 0.9
) -> None:
    for arm in ARMS:
        for seed in seeds if arm["name"] in accuracies else ():
            drawn = np.random.default_rng([seed, ARMS.index(arm)])
            right = drawn.random(IMAGES) < accuracies[str(arm["name"])]
            writer.tested(arm, seed, right, validation=validation)


def verdict_of(folder: Path, writer: Writer) -> Verdict:
    found = compute_verdict(writer.state(), folder)
    assert found is not None
    return found


def test_the_headline_is_against_the_best_plain_training(tmp_path: Path) -> None:
    """The baseline of the best single run is not it; against that one the gain would look larger."""
    writer = run_look(tmp_path, {"swa-0": 0.90, "swa-1": 0.90, "base-0": 0.70, "base-1": 0.80})
    found = verdict_of(tmp_path, writer)
    assert [c.against.name for c in found.against_plain] == ["base-1", "base-1"]
    assert [c.outcome for c in found.against_plain] == ["better", "better"]
    assert found.best_plain is not None
    assert found.best_plain.name == "base-1"
    first = verdict_text(found).splitlines()[0]
    assert first.startswith(
        "SWA is better: SWA_1_5e-4 lr=1e-3 beats the best plain training found (baseline lr=3e-3), +"
    )
    assert first.endswith("on 5 fresh seeds and 2000 test images.")
    assert {(c.arm.name, c.against.name) for c in found.against_others} == {
        ("swa-0", "base-0"),
        ("swa-1", "base-0"),
    }


def test_it_is_what_the_rule_says_of_the_predictions(tmp_path: Path) -> None:
    writer = run_look(tmp_path, {"swa-0": 0.82, "swa-1": 0.80, "base-0": 0.79, "base-1": 0.80})
    state = writer.state()
    said = {name: models["shipped"].correct for name, models in read_predictions(state, tmp_path).items()}
    event = state.confirmations[0]
    expected = judge_look(
        {arm["name"]: {seed: said[f"{arm['name']}-seed{seed}"] for seed in SEEDS} for arm in ARMS},
        ["swa-0", "swa-1"],
        ["base-0", "base-1"],
        look=1,
        looks=event["looks"],
        levels=event["levels"],
    )
    found = verdict_of(tmp_path, writer)
    assert [c.outcome for c in found.against_plain] == [j.outcome for j in expected.finalists]
    assert [c.interval for c in found.against_plain] == [j.interval for j in expected.finalists]
    assert found.stop == expected.stop


def test_worse_is_said_of_swa_only_where_all_finalists_agree(tmp_path: Path) -> None:
    one = run_look(tmp_path / "one", {"swa-0": 0.80, "swa-1": 0.60, "base-0": 0.80, "base-1": 0.79})
    lines = verdict_text(verdict_of(tmp_path / "one", one)).splitlines()
    assert lines[0].startswith("Not distinguishable: SWA_1_5e-4 lr=1e-3 and the best plain training")
    assert lines[1].startswith("SWA_0_2e-3 lr=3e-3 is worse than the best plain training found (base")
    assert not any(line.startswith("SWA is") for line in lines)
    both = run_look(tmp_path / "both", {"swa-0": 0.60, "swa-1": 0.60, "base-0": 0.80, "base-1": 0.79})
    found = verdict_of(tmp_path / "both", both)
    assert found.agreed == "worse"
    assert all(c.p_value <= found.alpha for c in found.against_plain)
    assert verdict_text(found).startswith("SWA is worse: SWA_1_5e-4 lr=1e-3 loses to the best plain")


def test_better_is_said_of_one_configuration_where_the_other_is_not(tmp_path: Path) -> None:
    writer = run_look(tmp_path, {"swa-0": 0.90, "swa-1": 0.80, "base-0": 0.80, "base-1": 0.79})
    text = verdict_text(verdict_of(tmp_path, writer))
    assert text.startswith("SWA_1_5e-4 lr=1e-3 is better than the best plain training found (baseline")
    assert "SWA is better" not in text


def test_a_finalist_out_of_turn_is_not_tested(tmp_path: Path) -> None:
    writer = run_look(tmp_path, {"swa-0": 0.80, "swa-1": 0.90, "base-0": 0.80, "base-1": 0.79})
    found = verdict_of(tmp_path, writer)
    assert [c.outcome for c in found.against_plain] == ["not distinguishable", "not tested"]
    expected = "Not tested, because the finalist before it is not better: SWA_0_2e-3 lr=3e-3"
    assert expected in verdict_text(found)


def test_swas_part_alone_stays_as_a_line(tmp_path: Path) -> None:
    writer = run_look(tmp_path, {"swa-0": 0.85, "swa-1": 0.85, "base-0": 0.80, "base-1": 0.70})
    lines = verdict_text(verdict_of(tmp_path, writer)).splitlines()
    (line,) = [line for line in lines if line.startswith("Contribution of SWA alone")]
    assert line.startswith("Contribution of SWA alone: SWA_0_2e-3 lr=3e-3 against baseline lr=3e-3, +")
    assert "A BN refresh alone changes baseline lr=1e-3 by +0.00 points." in lines


def test_why_no_more_seeds_were_trained_is_said(tmp_path: Path) -> None:
    looks = (5, 10)
    clear = run_look(
        tmp_path / "clear", {"swa-0": 0.95, "swa-1": 0.9, "base-0": 0.7, "base-1": 0.7}, looks=looks
    )
    assert "No more seeds were trained, because the result is clear." in verdict_text(
        verdict_of(tmp_path / "clear", clear)
    )
    hopeless = run_look(
        tmp_path / "hopeless", {"swa-0": 0.6, "swa-1": 0.6, "base-0": 0.8, "base-1": 0.7}, looks=looks
    )
    assert "because they could hardly change the result." in verdict_text(
        verdict_of(tmp_path / "hopeless", hopeless)
    )


def test_of_the_looks_of_a_plan_the_last_one_speaks(tmp_path: Path) -> None:
    shares = {"swa-0": 0.82, "swa-1": 0.80, "base-0": 0.80, "base-1": 0.80}
    more = tuple(range(13, 18))
    writer = run_look(tmp_path, shares, looks=(5, 10))
    writer.planned_look(ARMS, (*SEEDS, *more), number=2, looks=(5, 10))
    under_way = verdict_text(verdict_of(tmp_path, writer)).splitlines()
    assert under_way[0].startswith("No verdict yet: 20 of 40 runs on fresh seeds have completed. Until")
    add_runs(writer, shares, more)
    text = verdict_text(verdict_of(tmp_path, writer))
    assert "This is look 2 of a plan, fixed beforehand, of looks at 5 and 10 seeds" in text
    assert "Look 1, at a level" not in text
    assert "on 10 fresh seeds" in text


def test_a_further_plan_says_what_an_older_look_said(tmp_path: Path) -> None:
    """By the rule of its time, beside that of today."""
    writer = usual(tmp_path)
    writer.look([FIRST, SECOND, TUNED_ARM, TRUNK_ARM], SEEDS)
    shares = {"swa-0": 0.90, "swa-1": 0.80, "base-0": 0.80, "base-1": 0.89}
    add_runs(writer, shares, SEEDS)
    old = verdict_text(verdict_of(tmp_path, writer)).splitlines()[0]
    assert old.startswith("SWA is better: SWA_1_5e-4 lr=1e-3 beats the tuned baseline lr=1e-3, +")
    more = tuple(range(13, 18))
    writer.planned_look(ARMS, (*SEEDS, *more), number=2, plan=2)
    add_runs(writer, shares, more)
    lines = verdict_text(verdict_of(tmp_path, writer)).splitlines()
    assert "the best plain training found (baseline lr=3e-3)" in lines[0]
    assert f"Look 1, at a level of 5 %: {old}" in lines
    assert any("plan 2 of looks at these test images" in line for line in lines)


@pytest.mark.parametrize(("validation", "said"), [(0.99, True), (0.8, False), (0.5, True)])
def test_validation_that_the_test_images_do_not_bear_out_is_said_once(
    validation: float, said: bool, tmp_path: Path
) -> None:
    shares = {"swa-0": 0.80, "swa-1": 0.80, "base-0": 0.80, "base-1": 0.80}
    writer = run_look(tmp_path, shares, validation=validation)
    text = verdict_text(verdict_of(tmp_path, writer))
    lines = [line for line in text.splitlines() if line.startswith("Test and validation accuracy differ")]
    assert len(lines) == said
    if said:
        assert f"{100 * validation:.2f} % on the validation images" in lines[0]
        cause = "validation images that are copies" if validation > 0.8 else "easier test images"
        assert f"Usual causes: {cause}" in lines[0]


def test_without_plain_training_there_is_no_verdict(tmp_path: Path) -> None:
    writer = run_look(tmp_path, {"swa-0": 0.8, "swa-1": 0.8})
    assert verdict_text(verdict_of(tmp_path, writer)).startswith("No verdict: there is no plain training to")


def test_the_tables_tell_the_race_and_the_verdict(tmp_path: Path) -> None:
    writer = usual(tmp_path)
    candidates = [{**arm, "roles": ["candidate"]} for arm in (SWA_ARM, SECOND_ARM)]
    writer.race([*candidates, BASE], {"swa-0": [0.9, 0.92], "swa-1": [0.8, 0.8], "base-0": [0.7]})
    arms = [FIRST, BASE]
    writer.planned_look(arms, SEEDS)
    add_runs(writer, {"swa-0": 0.90, "base-0": 0.80}, SEEDS)
    rows = build_tables(writer.state(), tmp_path).comparison.to_pandas().set_index("trial")
    assert rows.loc["swa-0", "race_seeds"] == 2
    assert rows.loc["swa-0", "race_accuracy"] == pytest.approx(0.91)
    assert rows.loc["base-1", "race_seeds"] == 0
    assert rows.loc["swa-0", "against"] == "baseline lr=1e-3"
    assert rows.loc["swa-0", "verdict"] == "better"
    assert pd.isna(rows.loc["base-0", "against"])
    table = load_results(tmp_path).compare()
    assert table["role"].tolist() == ["best"]
    assert side_by_side([tmp_path])["against"].tolist() == ["baseline lr=1e-3"]
    stages = build_tables(writer.state(), tmp_path).trials.to_pandas().stage.value_counts().to_dict()
    assert stages == {"search": 4, "race": 5, "confirm": 10}


def test_a_recorded_stop_stands(tmp_path: Path) -> None:
    writer = run_look(tmp_path, {"swa-0": 0.9, "swa-1": 0.9, "base-0": 0.7, "base-1": 0.7}, looks=(5, 10))
    append_event(writer.journal, "judged", look=1, stop="futility")
    assert verdict_of(tmp_path, writer).stop == "futility"


def test_settings_say_the_race_where_none_was_given() -> None:
    """Of a journal from before there was one."""
    confirm = experiment(confirm={"top": 2, "seeds": 5}).confirm
    assert confirm.race
    assert confirm.most_seeds == 5
