"""What is written again while a search runs, and when?"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tune_swa.experiment.journal import ExperimentState
from tune_swa.experiment.updates import Log
from tune_swa.results.export import write_tables

logger = logging.getLogger(__name__)

SHARE = 0.01
"""Share of the time that the report may take while the search runs; the files have their own."""
LEAST_SECONDS = 60.0


class Writer:
    """Writes the result files, and the report where it is time for it or nothing more will come.

    Args:
        report: writes the report.
        clock: seconds that only go up.
        logs: what other programs read; only told of what is new, so each time.
    """

    def __init__(
        self,
        report: Callable[[ExperimentState, Path], object],
        clock: Callable[[], float] = time.monotonic,
        logs: Sequence[Log] = (),
    ) -> None:
        self._report = report
        self._logs = list(logs)
        self._failing: set[str] = set()
        self._clock = clock
        self._next = clock() + LEAST_SECONDS

    def __call__(self, state: ExperimentState, folder: Path) -> None:
        """Raises:
        RequestError: the journal is empty.
        OSError: the disk refused.
        """
        write_tables(state, folder)
        self._tell(state, folder)
        now = self._clock()
        # others are an old look's, which nobody goes on with
        stopped = any(
            t.status == "interrupted" and t.session == state.sessions for t in state.trials.values()
        )
        if now < self._next and state.finished is None and not stopped:
            return
        try:
            self._report(state, folder)
        except OSError:  # as of the files above
            raise
        except Exception as error:
            self._failed("the report", error)
        else:
            self._failing.discard("the report")
        took = self._clock() - now
        self._next = now + max(LEAST_SECONDS, took / SHARE)

    def _tell(self, state: ExperimentState, folder: Path) -> None:
        for log in self._logs:
            try:
                log(state, folder)
                self._failing.discard(log.what)
            except Exception as error:
                self._failed(log.what, error)

    def _failed(self, what: str, error: Exception) -> None:
        """What is shown of a search is not worth its end, so what fails is tried again, and only the first
        failure is told."""
        if what not in self._failing:
            reason = str(error) or type(error).__name__
            logger.warning("%s cannot be written: %s", what, reason)
        self._failing.add(what)
