"""Rewrite the result files, the logs of experiment trackers and the report, and copy them to `--storage`."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tune_swa.errors import RequestError
from tune_swa.experiment.events import Event
from tune_swa.experiment.layout import PREDICTIONS
from tune_swa.experiment.state import ExperimentState
from tune_swa.experiment.updates import Log
from tune_swa.results.export import write_tables
from tune_swa.storage import Store

logger = logging.getLogger(__name__)

MIRRORED = ("*.jsonl", "*.yaml", "*.parquet", "*.html", "best_*.pt", "best_*.json", "*.log")
"""Files copied to the store: all that people read, and what a resume elsewhere needs."""
FILES_SHARE, FILES_SECONDS = 0.05, 5.0
"""Share of the time that all files may take while the search runs, and least seconds between two times."""
REPORT_SHARE, REPORT_SECONDS = 0.01, 60.0
"""The same for the report alone."""

ReportWriter = Callable[[ExperimentState, Path], object]


class ResultWriter:
    """Writes all that is derived from the journal: while the search runs, and once more at its end.

    Args:
        folder: the experiment's folder.
        store: where copies go; None: nowhere else.
        write_report: writes the report.
        logs: updated each time; they write only what is new.
        clock: seconds that only go up.
    """

    def __init__(
        self,
        folder: Path,
        store: Store | None = None,
        *,
        write_report: ReportWriter | None = None,
        logs: Sequence[Log] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._store = folder, store
        self._write_report, self._logs = write_report, logs
        self._clock = clock
        self._changed = False
        self._next_files = 0.0
        self._next_report = clock() + REPORT_SECONDS
        self._failing: set[str] = set()

    def __call__(self, event: Event, state: ExperimentState) -> None:
        self._changed = True

    def tick(self, state: ExperimentState) -> None:
        """Write what is due if something is new. Errors are only logged: the next time, or the end of
        the search, may succeed, and the journal has everything.
        """
        begun = self._clock()
        if not self._changed or begun < self._next_files:
            return
        try:
            self.write_all(state)
        except (OSError, RequestError) as error:  # the journal may still have room
            logger.warning("the result files could not be refreshed: %s", error)
        except Exception:  # Ray's loop would end with it
            logger.exception("the result files could not be refreshed")
        self._changed = False
        spent = self._clock() - begun
        self._next_files = begun + max(FILES_SECONDS, spent / FILES_SHARE)

    def write_all(self, state: ExperimentState) -> None:
        """Write the result files, and copy them.

        Raises:
            RequestError: the journal is empty.
            OSError: the disk or the store refused.
        """
        write_tables(state, self._folder)
        for log in self._logs:
            self._attempt(log.what, partial(log, state, self._folder))
        self._refresh_report(state)
        self.mirror_files()

    def mirror_files(self) -> None:
        """Copy what people read to the store.

        Raises:
            OSError: the store refused.
        """
        if self._store is None:
            return
        # before the journal that refers to them; files that exist there do not change any more
        copied = set(self._store.names(PREDICTIONS))
        for path in sorted((self._folder / PREDICTIONS).glob("[!.]*")):
            if path.name not in copied:
                self._store.write(f"{PREDICTIONS}/{path.name}", partial(shutil.copyfile, path))
        for pattern in MIRRORED:
            for path in sorted(self._folder.glob(pattern)):
                if not path.name.startswith("."):
                    self._store.write(path.name, partial(shutil.copyfile, path))

    def _refresh_report(self, state: ExperimentState) -> None:
        """Write the report if it is due, or if nothing more will come."""
        now = self._clock()
        # an interrupted run of an earlier session belongs to an old look, which nobody continues
        stopped = any(
            t.status == "interrupted" and t.session == state.sessions for t in state.trials.values()
        )
        if self._write_report is None or (now < self._next_report and state.finished is None and not stopped):
            return
        self._attempt("the report", partial(self._write_report, state, self._folder), fatal=OSError)
        spent = self._clock() - now
        self._next_report = now + max(REPORT_SECONDS, spent / REPORT_SHARE)

    def _attempt(
        self, what: str, write: Callable[[], object], *, fatal: type[Exception] | tuple[()] = ()
    ) -> None:
        """Write one of the extras. An error, unless `fatal`, is logged the first time and tried again."""
        try:
            write()
            self._failing.discard(what)
        except fatal:
            raise
        except Exception as error:
            if what not in self._failing:
                logger.warning("%s cannot be written: %s", what, str(error) or type(error).__name__)
            self._failing.add(what)
