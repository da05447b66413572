"""Journals of an earlier version give the same state and result files, and a resume goes on as before."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from helpers.simulated_ray import Driver
from tune_swa.config import yaml_file
from tune_swa.experiment.event_lines import encode_event
from tune_swa.experiment.events import Event
from tune_swa.experiment.journal import read_events
from tune_swa.experiment.state import ExperimentState, TrialState
from tune_swa.results.export import write_tables

JOURNALS = Path(__file__).parent / "journals"
NAMES = ["tpe", "grid", "looks"]
FORMER_NAMES = {"first_average": "fork_epoch"}
"""Fields of the state that had other names: of each its name today."""
LATER_FIELDS = {"scores", "merges", "average", "tested_merges", "member", "member_plans"}
"""Fields that came later, which are empty in a state of before."""
FLOAT_TOLERANCE = 1e-9
"""Suggestions are computed with exp and log, whose last digit differs between processors."""


def to_plain(value: Any) -> Any:
    """A state as JSON has it."""
    if isinstance(value, Event):
        return json.loads(encode_event(value))
    if dataclasses.is_dataclass(value):
        return {
            field.name: to_plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if field.name not in LATER_FIELDS or getattr(value, field.name)
        }
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(to_plain(item) for item in value)
    return value.name if isinstance(value, Path) else value


def with_todays_names(value: Any) -> Any:
    if isinstance(value, dict):
        return {FORMER_NAMES.get(key, key): with_todays_names(item) for key, item in value.items()}
    return [with_todays_names(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", NAMES)
def test_a_former_journal_folds_to_an_equal_state(name: str) -> None:
    journal = JOURNALS / name / "journal.jsonl"
    state = ExperimentState.fold(read_events(journal), journal)
    expected = with_todays_names(json.loads((JOURNALS / name / "state.json").read_text()))
    assert to_plain(state) == expected


@pytest.mark.parametrize("name", NAMES)
def test_a_former_journal_gives_equal_result_files(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    shutil.copytree(JOURNALS / name, folder, ignore=shutil.ignore_patterns("*.parquet"))
    journal = folder / "journal.jsonl"
    write_tables(ExperimentState.fold(read_events(journal), journal), folder)
    expected = sorted(file.name for file in (JOURNALS / name).glob("*.parquet"))
    assert sorted(file.name for file in folder.glob("*.parquet")) == expected
    for file in expected:
        found, former = (pd.read_parquet(place / file) for place in (folder, JOURNALS / name))
        later = found.columns.difference(former.columns)  # of later versions, without a value
        assert found[later].isna().all(axis=None)
        pd.testing.assert_frame_equal(found.drop(columns=later), former, check_exact=True)


def made_up_accuracy(trial: TrialState) -> float:
    """In [0, 1), a function of what the trial trains with."""
    text = json.dumps(trial.params, sort_keys=True)
    return int(hashlib.sha256(text.encode()).hexdigest()[:6], 16) / 0xFFFFFF


def made_up_correctness(trial: TrialState) -> Any:
    """Shape (180,), bool: which test images a run classifies correctly, more of them where it is accurate."""
    accuracy = made_up_accuracy(trial)
    rng = np.random.default_rng(int(accuracy * 1e6) + trial.seed)
    return rng.random(180) < 0.6 + 0.2 * accuracy


def without_trunk_names(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Trunks by their order: their names are hashes of numbers that may differ in a digit."""
    order: dict[str, int] = {}
    for event in events:
        if "trunk" in event:
            event["trunk"] = order.setdefault(event["trunk"], len(order))
    return events


def approximate(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: approximate(item) for key, item in value.items()}
    if isinstance(value, list):
        return [approximate(item) for item in value]
    return pytest.approx(value, rel=FLOAT_TOLERANCE) if isinstance(value, float) else value


@pytest.mark.parametrize(
    ("name", "known_lines", "settings"),
    [
        ("tpe", None, {"--trials 16": "search.trials=16"}),
        ("grid", 30, {}),
        ("looks", None, {"--seeds 9": "confirm.seeds=9"}),
    ],
)
def test_a_resume_of_a_former_journal_goes_on_as_before(
    name: str, known_lines: int | None, settings: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / name
    shutil.copytree(JOURNALS / name, folder)
    journal = folder / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)[:known_lines]
    journal.write_text("".join(lines))
    experiment = yaml_file.load_experiment(folder / "space.yaml", (), settings)
    played = Driver.resume(experiment, folder, 1, accuracy=made_up_accuracy, right=made_up_correctness)
    while (suggestion := played.suggest()) is not None:
        played.run(suggestion)
    added = [json.loads(line) for line in journal.read_text().splitlines()[len(lines) :]]
    for event in added:
        event.pop("time")
        event.pop("spec", None)
    former = [json.loads(line) for line in (folder / "resumed.jsonl").read_text().splitlines()]
    assert len(added) == len(former)
    for found, expected in zip(without_trunk_names(added), without_trunk_names(former), strict=True):
        assert found == approximate(expected)
