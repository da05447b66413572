"""When is the report written again while a search runs?"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tune_swa.journal import ExperimentState
from tune_swa.results.export import export

SHARE = 0.01
"""Share of the time that the report may take while the search runs; the files have their own."""
LEAST_SECONDS = 60.0


class Writer:
    """Writes the result files, and the report where it is time for it or nothing more will come.

    Args:
        report: writes the report.
        clock: seconds that only go up.
    """

    def __init__(
        self,
        report: Callable[[ExperimentState, Path], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._report = report
        self._clock = clock
        self._next = clock() + LEAST_SECONDS

    def __call__(self, state: ExperimentState, folder: Path) -> None:
        """Raises:
        RequestError: the journal is empty.
        OSError: the disk refused.
        """
        export(state, folder)
        now = self._clock()
        stopped = any(trial.status == "interrupted" for trial in state.trials.values())
        if now < self._next and state.finished is None and not stopped:
            return
        self._report(state, folder)
        took = self._clock() - now
        self._next = now + max(LEAST_SECONDS, took / SHARE)
