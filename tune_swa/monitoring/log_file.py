"""Write `search.log`, the messages of a search; for people, no program reads it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from logging.handlers import MemoryHandler
from pathlib import Path

from tune_swa.text import escape_controls

LOG = "search.log"
BUFFERED = 10_000
"""Lines kept until it is clear that there will be a search."""


class Log:
    """Keeps lines in memory until `begin`: a request that is refused leaves no file behind."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.handler = MemoryHandler(BUFFERED, flushLevel=logging.CRITICAL + 1)

    def begin(self) -> None:
        """Write the lines so far, and from now on each as it comes."""
        file = _Quiet(self._path, encoding="utf-8", delay=True)
        file.setFormatter(_Formatter("%(asctime)s %(levelname)s %(message)s"))
        self.handler.setTarget(file)
        self.handler.flush()
        self.handler.flushLevel = logging.NOTSET


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Names in it may hold what a terminal would obey."""
        return escape_controls(super().format(record))


class _Quiet(logging.FileHandler):
    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):  # the file is opened at its first line, outside of what is handled below
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - as in logging
        """A disk that is full ends the search by its journal, not by its log."""


@contextmanager
def log_file(folder: Path) -> Iterator[Log]:
    """Send what tune_swa logs to the experiment's `search.log`."""
    log = Log(folder / LOG)
    logger = logging.getLogger("tune_swa")
    level = logger.level
    logger.addHandler(log.handler)
    logger.setLevel(logging.INFO)
    try:
        yield log
    finally:
        logger.setLevel(level)
        logger.removeHandler(log.handler)
        if log.handler.target is not None:
            log.handler.target.close()
