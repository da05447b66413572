"""Workers that Ray's own memory monitor kills, in a search of real processes."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from test_two_gpus import search  # type: ignore[import-not-found]

from tune_swa.errors import SearchFailed
from tune_swa.execution import first_worker, ray_setup
from tune_swa.experiment.journal import read_events
from tune_swa.hardware import shortages

SPACE = {"lr": 1e-2, "swa_start": 1, "swa_lr": {"choice": [1e-3, 1e-2]}}


def test_workers_that_rays_memory_monitor_kills_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At this threshold, any worker is one too many; --resume goes on when it is put right."""
    given: dict[str, Any] = {"epochs": 3, "gpus": 1, "search": {"sampler": "grid"}}
    with monkeypatch.context() as patch:
        patch.setenv(shortages.THRESHOLD_VARIABLE, "0.01")
        patch.setenv("RAY_memory_monitor_refresh_ms", "100")
        # the monitor looks ten times a second, and the worker's first task may be done before
        patch.setattr(first_worker, "_do_nothing", lambda: time.sleep(30))
        patch.setattr(ray_setup, "quote_worker_command", lambda: {"py_executable": sys.executable})
        with pytest.raises(SearchFailed, match=r"memory is short: Ray kills its workers where more than 1% "):
            search(tmp_path, patch, SPACE, **given)
        # as if it had been in order when the search began
        patch.setattr(first_worker, "await_first_worker", lambda _: None)
        patch.setattr(shortages, "PATIENCE_SECONDS", 2.0)
        patch.setattr("tune_swa.execution.worker_deaths.PATIENCE_SECONDS", 2.0)
        space = {**SPACE, "train.weight_decay": 3.0}  # which has epochs take that long
        with pytest.raises(SearchFailed, match="too little memory to start a worker"):
            search(tmp_path, patch, space, **given)
    journal = tmp_path / "two" / "journal.jsonl"
    ended = [e for e in read_events(journal) if e["event"] == "ended"]
    assert {e["status"] for e in ended} <= {"interrupted"}
    log = (tmp_path / "two" / "search.log").read_text()
    assert re.search(r"memory was exhausted: the worker of \S+ ended \(killed by Ray's memory monitor\)", log)
