"""The append-only file of an experiment's events.

`journal.jsonl` is the single source of truth: the study, the rungs of the scheduler, the result files and
the display are all functions of it.
"""

from __future__ import annotations

import codecs
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tune_swa.errors import RequestError
from tune_swa.experiment.events import FORMAT, DamagedError, Event

SYNC_SECONDS = 1.0
"""A power cut loses events of this long at most; a kill loses none."""


class Journal:
    """Appends events to a file, one flushed line each.

    The file is opened at the first write and never travels: a pickled journal (Ray pickles whatever
    its searcher and scheduler hold) reopens where it arrives.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None
        self._synced = -math.inf
        self._dirty = False
        """Whether something was written since."""

    def append(self, event: str, **fields: Any) -> Event:
        """Write one event and return it.

        Raises:
            OSError: the disk refused. What was written before is intact.
            ValueError: a field is NaN or infinite, which JSON cannot hold.
        """
        entry: Event = {"event": event, "time": time.time(), **fields}
        line = json.dumps(entry, allow_nan=False, separators=(",", ":")) + "\n"
        if self._descriptor is None:
            self._descriptor = _open_repaired(self.path)
        data = line.encode()
        written = os.write(self._descriptor, data)
        if written != len(data):  # a full disk can take half a line
            self.close()  # whoever opens it again cuts that off
            raise OSError(f"{self.path}: only {written} of {len(data)} bytes were written")
        self._dirty = True
        self.sync(older=SYNC_SECONDS)
        return entry

    def sync(self, *, older: float = 0.0) -> None:
        """See to it that what was written is on the disk, unless that was done in the last `older` seconds.

        Raises:
            OSError: the disk refused.
        """
        if self._dirty and self._descriptor is not None and time.monotonic() - self._synced >= older:
            os.fsync(self._descriptor)
            self._synced, self._dirty = time.monotonic(), False

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_descriptor": None, "_synced": -math.inf, "_dirty": False}


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
    number, load = 0, _loader()
    try:
        with path.open("rb") as file:
            for line in file:
                number += 1
                if not line.endswith(b"\n"):
                    return  # torn by a kill; the event did not happen
                yield _event(line, path, load)
    except OSError as error:
        raise RequestError(
            f"{path}: cannot be read ({error.strerror}). Restore access to it, or give --name to start a "
            "new experiment"
        ) from None
    except DamagedError as error:
        raise describe_damage(path, number, error) from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


_decode = json.JSONDecoder(parse_constant=_refuse).decode
"""Python's own reads NaN and Infinity too, which no journal has."""


def _loader() -> Callable[[bytes], Any]:
    """Reads a line. pydantic's parser takes half the time of Python's, but refuses names of files that are
    no UTF-8, which we write as lone surrogates; whatever it refuses, Python's has the last word."""
    from pydantic_core import from_json  # not above: `doctor` runs where packages are missing

    def load(line: bytes) -> Any:
        try:
            return from_json(line, allow_inf_nan=False, cache_strings="keys")
        except ValueError:
            return _decode(line.removeprefix(codecs.BOM_UTF8).decode())

    return load


def _event(line: bytes, path: Path, load: Callable[[bytes], Any]) -> Event:
    try:
        event = load(line)
        kind = event["event"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DamagedError("it is not an event") from None
    if not isinstance(kind, str):
        raise DamagedError("it is not an event")
    if kind == "created" and event.get("format") != FORMAT:
        raise RequestError(
            f"{path}: written by another version of tune_swa (journal format {event.get('format')}, this one "
            f"reads {FORMAT}). Use the version that wrote it, or give --name to start a new experiment"
        )
    result: Event = event
    return result


def describe_damage(path: Path, number: int, why: DamagedError) -> RequestError:
    keep = f", or keep only the first {number - 1} lines and resume from there" if number > 1 else ""
    return RequestError(
        f"{path}:{number}: this line of the journal is damaged ({why}). Restore the file from a copy{keep}"
    )
