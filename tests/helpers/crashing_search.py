"""Runs a search in this process, and kills it with -9 at a moment that the first argument names.

    python crashing_search.py MOMENT --space FILE ...

A moment is `WHERE:NUMBER`, the number counting from 1. Where is one of `MOMENTS`, or `event-KIND`: before a
line of that kind is written. With `SIGNAL@` before it
the process sends itself that signal instead.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MOMENTS = (
    "import",  # torch and Ray are being imported
    "data",  # the images are being prepared
    "ray",  # Ray is being started
    "space",  # the journal is begun, space.yaml is being written
    "suggest",  # the sampler has proposed, nothing is written yet
    "line-before", "line-half", "line-after",  # a line of the journal
    "training",  # a little after an epoch was recorded, in the middle of the next one
    "checkpoint",  # a worker is writing a checkpoint
    "trunk",  # a worker is publishing the state of a trunk
    "tidy",  # old checkpoints are being removed
    "parquet",  # a result file is half written
    "rename",  # result files are written, and about to take their names
    "model",  # best_model.pt is being written
)  # fmt: skip


SENT = signal.SIGKILL


def kill() -> None:
    os.kill(os.getpid(), SENT)


class Countdown:
    """Kills at the given call."""

    def __init__(self, number: int) -> None:
        self.left = number

    def due(self) -> bool:
        self.left -= 1
        return self.left == 0

    def __call__(self, *_: Any, **__: Any) -> None:
        if self.due():
            kill()


def before(owner: Any, name: str, act: Callable[..., object]) -> None:
    """Have `act` called before the method or function `owner.name`."""
    original = getattr(owner, name)

    def wrapped(*arguments: Any, **named: Any) -> Any:
        act(*arguments, **named)
        return original(*arguments, **named)

    setattr(owner, name, wrapped)


def kill_at_line(how: str, count: Countdown) -> None:
    from tune_swa.experiment.journal import Journal

    append = Journal.append

    def wrapped(journal: Journal, event: str, **fields: Any) -> Any:
        due = count.due()
        if due and how == "before":
            kill()
        if due and how == "half":
            write = os.write

            def half(descriptor: int, data: bytes) -> int:
                write(descriptor, data[: len(data) // 2])
                kill()
                return 0

            os.write = half
        entry = append(journal, event, **fields)
        if due:
            kill()
        return entry

    Journal.append = wrapped  # type: ignore[method-assign]


def kill_at_event(kind: str, count: Countdown) -> None:
    """Before a line of this kind is written."""
    from tune_swa.experiment.journal import Journal

    def act(journal: Journal, event: str, **fields: Any) -> None:
        if event == kind:
            count()

    before(Journal, "append", act)


def kill_when_a_state_is_written(folder: Path, count: Countdown) -> None:
    """Watch from a thread: checkpoints and trunks are written by workers."""

    def watch() -> None:
        seen: set[str] = set()
        while True:
            for path in folder.glob("*/.*.tmp"):
                if str(path) not in seen:
                    seen.add(str(path))
                    count()
            time.sleep(0.001)

    threading.Thread(target=watch, daemon=True).start()


def arrange(where: str, number: int, folder: Path) -> None:
    """Set up the kill."""
    count = Countdown(number)
    if where == "import":
        threading.Timer(0.3 * number, kill).start()
        return
    if where.startswith("line-"):
        kill_at_line(where.removeprefix("line-"), count)
    elif where.startswith("event-"):
        kill_at_event(where.removeprefix("event-"), count)
    elif where in ("checkpoint", "trunk"):
        kill_when_a_state_is_written(folder / f"{where}s", count)
    elif where == "training":
        from tune_swa.search.coordinator import Coordinator

        def later(*_: Any, **__: Any) -> None:
            if count.due():
                threading.Timer(0.1, kill).start()

        before(Coordinator, "record_epoch", later)
    elif where == "suggest":
        from tune_swa.search.coordinator import Coordinator

        before(Coordinator, "add_trial", count)
    elif where == "tidy":
        from tune_swa.storage import FolderStore

        before(FolderStore, "keep_only", count)
    elif where == "parquet":
        import pyarrow.parquet as pq

        def half(table: Any, file: Any, **_: Any) -> None:
            if count.due():
                file.write(b"PAR1 and no more")
                kill()

        before(pq, "write_table", half)
    elif where == "rename":

        def renaming(path: Path, target: Path) -> None:
            if str(target).endswith(".parquet"):
                count()

        before(Path, "replace", renaming)
    elif where == "data":
        from tune_swa.data import cache

        before(cache, "read_entry", count)
    elif where == "ray":
        import ray

        if number == 1:
            before(ray, "init", count)
        else:  # while its processes start
            before(ray, "init", lambda **_: threading.Timer(0.5, kill).start())
    elif where == "space":
        import yaml

        before(yaml, "dump", count)
    elif where == "model":
        from tune_swa.execution import best_model

        before(best_model.torch, "save", count)
    else:
        raise SystemExit(f"unknown moment {where}")


if __name__ == "__main__":
    moment, *given = sys.argv[1:]
    before_at, at, moment = moment.rpartition("@")
    SENT = signal.Signals[before_at] if at else signal.SIGKILL
    place, _, nth = moment.partition(":")
    results = Path(given[given.index("--results-dir") + 1])
    arrange(place, int(nth), results / "crash")
    from tune_swa.cli import run_search

    sys.exit(run_search(given))
