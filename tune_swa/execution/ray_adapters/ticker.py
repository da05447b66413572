"""Callbacks inside Ray's loop, where a signal or a full disk ends the search within a tick."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ray import tune
from ray.tune.progress_reporter import TrialProgressCallback


class StopSearch(BaseException):
    """Leaves Ray's loop. A BaseException, since Ray catches exceptions of its callbacks."""


class Ticker(tune.Callback):
    """Runs `tick` a few times a second from Ray's loop; `tick` may raise `StopSearch`.

    Ray pickles its callbacks into a snapshot that is never read; what is not picklable stays here.
    """

    def __init__(self, tick: Callable[[], None], interval: float = 0.15) -> None:
        self._tick: Callable[[], None] | None = tick
        self._interval = interval
        self._last = 0.0

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        now = time.monotonic()
        if self._tick is not None and now - self._last >= self._interval:
            self._last = now
            self._tick()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tick": None}


class Silence(TrialProgressCallback):
    """Replaces the reporter that Ray adds by itself, which prints a line whenever something ends that has
    reported nothing, at any verbosity: so does the warming up of a worker."""

    def on_trial_result(self, *given: Any, **named: Any) -> None:
        """Nothing is printed."""

    on_trial_complete = on_trial_error = on_trial_result
