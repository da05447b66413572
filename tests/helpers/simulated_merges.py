"""Plays Ray to a search that merges: every epoch leaves a checkpoint, and merges report as a test wants."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from helpers.simulated_ray import Driver, predictions_of
from tune_swa.config import Experiment
from tune_swa.experiment.layout import CHECKPOINTS
from tune_swa.search.merging import MergeJob

SPACE: dict[str, Any] = {"lr": 1e-3, "swa_start": {"choice": [0, 1, 2]}, "swa_lr": 1e-3}
Report = Callable[[dict[str, Any]], dict[str, Any] | None]
"""Makes what the worker of a merge reports; None: it dies."""


def plan_merges(**changes: Any) -> Experiment:
    """Three SWA trials of one trunk, whose greedy soup is followed on two fresh seeds."""
    plain = {
        "name": "made-up", "train": {"epochs": 5}, "space": SPACE, "scheduler": {"asha": False},
        "search": {"sampler": "grid", "seed": 7}, "merge": [{"method": "soup"}],
        "confirm": {"top": 1, "seeds": 2, "race": False, "merges": True},
    }  # fmt: skip
    return Experiment.model_validate({**plain, **changes})


def keep_second(job: dict[str, Any]) -> dict[str, Any]:
    """The soup is of the first two candidates; on a fresh seed it is right on three images of four."""
    score = {"accuracy": 0.75, "nll": 0.5, "ece": 0.1}
    if job["seed"] is None:
        tried = [{"trial": name, **score, "kept": i == 0} for i, name in enumerate(job["candidates"][1:])]
        return {"event": "merged", "tried": tried}
    right = np.arange(200) % 4 > 0
    return {
        "event": "merge_tested", "images": 200, "validation": score, "shipped": {**score, "brier": 0.3},
        "predictions": b64encode(predictions_of(right)).decode(),
    }  # fmt: skip


def play(driver: Driver, report: Report = keep_second, *, trials: int | None = None) -> list[dict[str, Any]]:
    """Run what is handed out, one after the other; returns the merges.

    Args:
        driver: is asked, and reports.
        report: of a merge.
        trials: that are run at most; None: all.
    """
    coordinator, merges = driver.coordinator, []
    record = coordinator.record_epoch

    def with_checkpoint(name: str, values: dict[str, Any], checkpoint: None, **more: Any) -> Any:
        return record(name, values, f"{CHECKPOINTS}/{name}/epoch-{values['epoch']:05d}.pt", **more)

    coordinator.record_epoch = with_checkpoint  # type: ignore[method-assign,assignment]
    while isinstance(answer := driver.searcher.suggest(f"ray-{driver._asked}"), dict):
        name, driver._asked = f"ray-{driver._asked}", driver._asked + 1
        if "merge" in answer:
            merges.append(answer["merge"])
            if message := report(answer["job"]):
                coordinator.merging.take_report(MergeJob(**answer["job"]), message)
            driver.searcher.on_trial_complete(name)
        elif trials == 0:
            break
        else:
            trials = None if trials is None else trials - 1
            driver._ids[answer["trial"]] = name
            coordinator.record_start(answer["trial"], device="", node="", from_epoch=0, damaged=[])
            driver.run(answer)
    coordinator.record_epoch = record  # type: ignore[method-assign]
    return merges


def read_lines(folder: Path, kind: str) -> list[str]:
    """Lines of a journal of one kind."""
    text = (folder / "journal.jsonl").read_text()
    return [line for line in text.splitlines() if f'"event":"{kind}"' in line]
