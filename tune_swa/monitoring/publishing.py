"""How the results get out while a search runs: the parquet files, and copies where `--storage` says."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tune_swa.errors import RequestError
from tune_swa.experiment.journal import Event, ExperimentState
from tune_swa.experiment.layout import PREDICTIONS
from tune_swa.storage import Store

logger = logging.getLogger(__name__)

Exporter = Callable[[ExperimentState, Path], object]

MIRRORED = ("*.jsonl", "*.yaml", "*.parquet", "*.html", "best_model.*", "*.log")
"""What is copied to the store: all that people read, and what a resume elsewhere needs."""


class Publisher:
    """Rewrites the result files while the search runs, spending a twentieth of the time at most.

    Args:
        export: writes the result files from the fold of the journal.
        folder: the experiment's folder.
        store: where copies go; None: nowhere else.
        share: most of the time that may be spent.
        least: seconds between two times.
    """

    def __init__(
        self,
        export: Exporter,
        folder: Path,
        store: Store | None = None,
        *,
        share: float = 0.05,
        least: float = 5.0,
    ) -> None:
        self._export, self._folder, self._store = export, folder, store
        self._share, self._least = share, least
        self._changed = False
        self._next = 0.0

    def __call__(self, event: Event, state: ExperimentState) -> None:
        self._changed = True

    def tick(self, state: ExperimentState) -> None:
        """Publish if something is new and it is time to. What goes wrong is only logged: the next time, or
        the end, may do better, and the journal has everything.
        """
        now = time.monotonic()
        if not self._changed or now < self._next:
            return
        try:
            self.publish(state)
        except (OSError, RequestError) as error:  # the journal may still have room
            logger.warning("the result files could not be refreshed: %s", error)
        except Exception:  # Ray's loop would end with it
            logger.exception("the result files could not be refreshed")
        self._changed = False
        spent = time.monotonic() - now
        self._next = now + max(self._least, spent / self._share)

    def publish(self, state: ExperimentState) -> None:
        """Write the result files, and copy them.

        Raises:
            OSError: the disk or the store refused.
        """
        self._export(state, self._folder)
        self.mirror()

    def mirror(self) -> None:
        """Copy what people read to the store.

        Raises:
            OSError: the store refused.
        """
        if self._store is None:
            return
        # before the journal that speaks of them; those that are there do not change any more
        there = set(self._store.names(PREDICTIONS))
        for path in sorted((self._folder / PREDICTIONS).glob("[!.]*")):
            if path.name not in there:
                self._store.write(f"{PREDICTIONS}/{path.name}", partial(shutil.copyfile, path))
        for pattern in MIRRORED:
            for path in sorted(self._folder.glob(pattern)):
                if not path.name.startswith("."):
                    self._store.write(path.name, partial(shutil.copyfile, path))
