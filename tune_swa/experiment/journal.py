"""The append-only file of an experiment's events.

`journal.jsonl` is the single source of truth: the study, the rungs of the scheduler, the result files and
the display are all functions of it.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tune_swa.errors import RequestError
from tune_swa.experiment.event_lines import decode_event, encode_event
from tune_swa.experiment.events import FORMAT, DamagedError, Event
from tune_swa.experiment.moved_journal import PlaceCheck

SYNC_SECONDS = 1.0
"""A power cut loses events of this long at most; a kill loses none."""
CHECK_SECONDS = 0.1
"""Between two looks at whether the file is still at its path. A moved one keeps what is written meanwhile."""


class Journal:
    """Appends events to a file, one flushed line each.

    The file is opened at the first write and never travels: a pickled journal (Ray pickles whatever
    its searcher and scheduler hold) reopens where it arrives.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None
        self._place: PlaceCheck | None = None
        self._synced = -math.inf
        self._dirty = False
        """Whether something was written since."""
        self._checked = -math.inf

    def append(self, event: Event) -> None:
        """Write one event.

        Raises:
            JournalMovedError: the file is not at its path any more. What was written before is kept.
            OSError: the disk refused. What was written before is intact.
            ValueError: a field is NaN or infinite, which JSON cannot hold.
        """
        data = encode_event(event)
        if self._descriptor is None or self._place is None:
            self._descriptor = _open_repaired(self.path)
            self._place = PlaceCheck(self.path, self._descriptor)
        elif time.monotonic() - self._checked >= CHECK_SECONDS:
            self._check_place(self._place)
        written = os.write(self._descriptor, data)
        if written != len(data):  # a full disk can take half a line
            self.close()  # whoever opens it again cuts that off
            raise OSError(f"{self.path}: only {written} of {len(data)} bytes were written")
        self._dirty = True
        self._flush(older=SYNC_SECONDS)

    def sync(self, *, older: float = 0.0) -> None:
        """See to it that what was written is on the disk, unless that was done in the last `older` seconds.

        Raises:
            JournalMovedError: the file is not at its path any more.
            OSError: the disk refused.
        """
        if self._place is not None:
            self._check_place(self._place)
            self._flush(older)

    def _check_place(self, place: PlaceCheck) -> None:
        self._checked = -math.inf  # where it fails, the next event is not written either
        place.check_in_place()
        self._checked = time.monotonic()

    def _flush(self, older: float) -> None:
        assert self._descriptor is not None
        if self._dirty and time.monotonic() - self._synced >= older:
            os.fsync(self._descriptor)
            self._synced, self._dirty = time.monotonic(), False

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = self._place = None

    def __getstate__(self) -> dict[str, Any]:
        return Journal(self.path).__dict__


def _open_repaired(path: Path) -> int:
    """Open for appending; a torn last line (a kill in the middle of a write) is cut off first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    size = os.fstat(descriptor).st_size
    end, block = size, 1 << 16
    while end > 0:
        start = max(0, end - block)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        os.ftruncate(descriptor, end)
    return descriptor


def read_events(path: Path) -> Iterator[Event]:
    """Yield the events of a journal, one for each line, without a torn last line.

    Raises:
        RequestError: the file or a line in its middle cannot be read, or it is of another format.
    """
    number = 0
    try:
        with path.open("rb") as file:
            for line in file:
                number += 1
                if not line.endswith(b"\n"):
                    return  # torn by a kill; the event did not happen
                event = decode_event(line)
                if event.event == "created" and event.get("format") != FORMAT:
                    raise _refuse_format(path, event.get("format"))
                yield event
    except OSError as error:
        raise RequestError(
            f"{path}: cannot be read ({error.strerror}). Restore access to it, or give --name to start a "
            "new experiment"
        ) from None
    except DamagedError as error:
        raise describe_damage(path, number, error) from None


def _refuse_format(path: Path, written: object) -> RequestError:
    return RequestError(
        f"{path}: written by another version of tune_swa (journal format {written}, this one reads "
        f"{FORMAT}). Use the version that wrote it, or give --name to start a new experiment"
    )


def describe_damage(path: Path, number: int, why: DamagedError) -> RequestError:
    keep = f", or keep only the first {number - 1} lines and resume from there" if number > 1 else ""
    return RequestError(
        f"{path}:{number}: this line of the journal is damaged ({why}). Restore the file from a copy{keep}"
    )
