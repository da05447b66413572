"""Merges on fresh seeds against plain training and SWA: one family of tests, beside the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from helpers.journals import SWA_ARM, TUNED_ARM, Writer, append_event, usual
from tune_swa.inference.looks import spend_alpha
from tune_swa.results.average_contrasts import AverageContrast
from tune_swa.results.merges import compare_merges
from tune_swa.results.predictions import read_predictions
from tune_swa.results.report.page import build_report
from tune_swa.results.terminal_table import merges_table
from tune_swa.results.verdict import compute_verdict

SEEDS = (8, 9, 10, 11, 12)
MEMBER = {**SWA_ARM, "name": "swa-2", "params": {**SWA_ARM["params"], "swa_start": 0}, "roles": ["member"]}  # type: ignore[dict-item]
RECIPES = ["greedy soup", "uniform soup"]
IMAGES = 400


def write_search(folder: Path, gains: dict[str, float], *, seeds: Sequence[int] = SEEDS) -> Writer:
    """Plain training is right on 80 % of the images, SWA on 5 % more, a merge on `gains` more than plain."""
    writer, drawn = usual(folder), np.random.default_rng(5)
    writer.trial("swa-2", MEMBER["params"], [0.5, 0.6, 0.8, 0.9])
    merges = [{"merge": name, "members": [SWA_ARM, MEMBER]} for name in gains]
    append_event(
        writer.journal, "confirm", look=1, arms=[SWA_ARM, TUNED_ARM], seeds=list(SEEDS), searched=5, plan=1,
        looks=[len(SEEDS)], levels=list(spend_alpha((len(SEEDS),), 1)), merges=merges,
    )  # fmt: skip
    for seed in SEEDS:
        hard = drawn.random(IMAGES)
        writer.tested(TUNED_ARM, seed, hard < 0.80)
        writer.tested(SWA_ARM, seed, hard < 0.85)
        writer.tested(MEMBER, seed, hard < 0.84)
        for name, gain in gains.items():
            if seed in seeds:
                write_merge(writer, name, seed, hard < 0.80 + gain)
    return writer


def write_merge(writer: Writer, name: str, seed: int, right: Any) -> None:
    """What a merge gives, in the file of another run whose predictions are the same."""
    twin = {**SWA_ARM, "name": "twin"}
    writer.tested(twin, seed, right)
    folder, run = writer.path.parent / "predictions", f"{name.replace(' ', '-')}-seed{seed}"
    (folder / f"twin-seed{seed}.npz").rename(folder / f"{run}.npz")
    lines = writer.path.read_text().splitlines(keepends=True)
    writer.path.write_text("".join(line for line in lines if "twin-seed" not in line))
    metrics = {"accuracy": float(np.mean(right)), "nll": 0.5, "ece": 0.1}
    append_event(
        writer.journal, "merge_tested", merge=name, seed=seed,
        members=[f"swa-0-seed{seed}", f"swa-2-seed{seed}"],
        images=IMAGES, validation=metrics, shipped=metrics,
    )  # fmt: skip


def compare(writer: Writer) -> tuple[AverageContrast, ...]:
    state, folder = writer.state(), writer.path.parent
    found = compute_verdict(state, folder)
    assert found is not None
    return compare_merges(found, read_predictions(state, folder), state)


def test_merges_are_compared_with_plain_training_and_with_swa(tmp_path: Path) -> None:
    writer = write_search(tmp_path, {"greedy soup": 0.12, "uniform soup": 0.05})
    compared = compare(writer)
    assert [(c.average, c.against.name, c.accuracy.outcome) for c in compared] == [
        ("greedy soup of 2", "base-0", "better"),
        ("uniform soup of 2", "base-0", "better"),
        ("greedy soup of 2", "swa-0", "better"),
        ("uniform soup of 2", "swa-0", "not distinguishable"),
    ]
    assert compared[2].accuracy.interval.mean == pytest.approx(0.07, abs=0.02)
    page = build_report(writer.state(), tmp_path)
    assert page.index("Merges on fresh seeds") > 0
    assert "What the best of each kind gives on fresh seeds" not in page  # the search made no soups
    said = StringIO()
    Console(file=said, width=100).print(merges_table(compared))
    assert "greedy soup of 2" in said.getvalue()
    assert "5 fresh seeds" in said.getvalue()


def test_all_comparisons_are_one_family(tmp_path: Path) -> None:
    alone = compare(write_search(tmp_path / "one", {"greedy soup": 0.12}))
    both = compare(write_search(tmp_path / "two", {"greedy soup": 0.12, "uniform soup": 0.12}))
    assert alone[0].accuracy.interval == both[0].accuracy.interval
    assert both[0].accuracy.p_value > alone[0].accuracy.p_value


def test_the_verdict_is_that_without_merges(tmp_path: Path) -> None:
    found = []
    for name, gains in {"with": {"greedy soup": 0.12}, "without": {}}.items():
        writer = write_search(tmp_path / name, gains)
        found.append(compute_verdict(writer.state(), writer.path.parent))
    (first, second) = found
    assert first is not None
    assert second is not None
    assert first.against_plain[0].interval == second.against_plain[0].interval
    assert [arm.name for arm in first.arms] == ["swa-0", "base-0"]
    assert compare(writer) == ()


def test_nothing_is_concluded_while_a_merge_is_missing(tmp_path: Path) -> None:
    writer = write_search(tmp_path, {"greedy soup": 0.12}, seeds=SEEDS[:-1])
    journal = writer.path.read_text()
    # a run whose weights wait for it
    name = f"swa-2-seed{SEEDS[-1]}"
    assert {c.accuracy.outcome for c in compare(writer)} == {"too few seeds"}  # its weights have gone
    lines = journal.splitlines(keepends=True)
    for arm in ("swa-0", "swa-2"):
        name = f"{arm}-seed{SEEDS[-1]}"
        for number, line in enumerate(lines):
            if f'"trial":"{name}"' in line and '"epoch":3' in line:
                lines[number] = line.replace(
                    '"checkpoint":null', f'"checkpoint":"checkpoints/{name}/epoch-00003.pt"'
                )
    writer.path.write_text("".join(lines))
    assert {c.accuracy.outcome for c in compare(writer)} == {"unfinished"}
