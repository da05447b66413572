"""What is shown of a search whose length is a number of epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.simulated_ray import Driver
from tune_swa.config import Experiment
from tune_swa.experiment.journal import read_events
from tune_swa.experiment.state import ExperimentState
from tune_swa.monitoring.progress_lines import opening_line
from tune_swa.monitoring.trial_counts import TrialCounts

SPACE = {
    "lr": {"log_uniform": [1e-4, 1e-2]},
    "swa_start": {"int": [4, 8]},
    "swa_lr": {"log_uniform": [1e-4, 1e-2]},
}


def experiment(**search: Any) -> Experiment:
    return Experiment.model_validate(
        {"name": "x", "train": {"epochs": 10}, "space": SPACE, "baseline": {"trials": 2},
         "search": {"sampler": "random", **search}, "scheduler": {"asha": False}}
    )  # fmt: skip


@pytest.mark.parametrize(
    ("search", "line"),
    [
        ({"epochs": 100}, "x: 2 baseline and SWA trials of 10 epochs, one at a time, in 100 epochs"),
        (
            {"epochs": 100, "trials": 7},
            "x: 2 baseline and 7 SWA trials of 10 epochs, one at a time, in 100 epochs",
        ),
        ({"trials": 7}, "x: 2 baseline and 7 SWA trials of 10 epochs, one at a time"),
    ],
)
def test_the_first_line_names_the_limit(search: dict[str, Any], line: str) -> None:
    assert opening_line(TrialCounts(experiment(**search), ExperimentState(), 1, 0.0)) == line


def test_what_is_left_is_what_the_epochs_leave(tmp_path: Path) -> None:
    spec = experiment(epochs=100)
    driver = Driver(spec, tmp_path, 1)
    left = []
    while (config := driver.suggest()) is not None:
        driver.run(config)
        state = ExperimentState.fold(read_events(tmp_path / "journal.jsonl"), tmp_path / "journal.jsonl")
        counts = TrialCounts(spec, state, 1, 0.0)
        assert counts.epochs_done + counts.epochs_left == max(100, counts.epochs_done)
        left.append(counts.epochs_left)
    assert left[:2] == [90, 80]
    assert left[-1] == 0
    assert counts.trials == len(state.trials) > 10  # more than without sharing
