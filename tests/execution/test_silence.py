"""Ray prints nothing of its own between the lines of a search."""

from __future__ import annotations

from typing import Any

import pytest
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.utils.callback import _create_default_callbacks

from tune_swa.execution.ray_adapters.ticker import Silence


class Trial:
    """What Ray looks at."""

    def __init__(self) -> None:
        self.last_result: dict[str, Any] = {}


def end_warm_up(callbacks: list[Any]) -> None:
    """As Ray tells of the end of a worker's warming up, which has reported nothing."""
    for callback in _create_default_callbacks(callbacks, air_verbosity=None):
        if isinstance(callback, TrialProgressCallback):
            callback.on_trial_complete(0, [], Trial())


def test_a_worker_that_was_warmed_up_prints_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    end_warm_up([])
    assert "completed" in capsys.readouterr().out  # Ray's own way
    end_warm_up([Silence()])
    assert capsys.readouterr().out == ""
