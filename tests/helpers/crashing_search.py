"""Runs a search in this process, and kills it with -9 at a moment that the first argument names.

    python crashing_search.py MOMENT --space FILE ...

A moment is `WHERE:NUMBER`, the number counting from 1. Where is one of `MOMENTS`, or `event-KIND`: before a
line of that kind is written. With `SIGNAL@` before it the process sends itself that signal instead.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

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

    def wrapped(journal: Journal, event: Any) -> None:
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
        append(journal, event)
        if due:
            kill()

    Journal.append = wrapped  # type: ignore[method-assign]


def kill_at_event(kind: str, count: Countdown) -> None:
    """Before a line of this kind is written."""
    from tune_swa.experiment.journal import Journal

    def act(journal: Journal, event: Any) -> None:
        if event.event == kind:
            count()

    before(Journal, "append", act)


def kill_while_a_state_is_written(kind: str, count: Countdown, *, name: str = "") -> None:
    """Watch from a thread: checkpoints and trunks are written by workers.

    Args:
        kind: the folder.
        count: of the files that are begun.
        name: what their names begin with.
    """
    folder = Path(sys.argv[sys.argv.index("--results-dir") + 1]) / "crash" / kind

    def watch() -> None:
        seen: set[str] = set()
        while True:
            for path in folder.glob(f"*/.{name}*.tmp"):
                if str(path) not in seen:
                    seen.add(str(path))
                    count()
            time.sleep(0.001)

    threading.Thread(target=watch, daemon=True).start()


def kill_while_importing(count: Countdown) -> None:
    threading.Timer(0.3 * count.left, kill).start()


def kill_while_training(count: Countdown) -> None:
    from tune_swa.search.coordinator import Coordinator

    def kill_later(*_: Any, **__: Any) -> None:
        if count.due():
            threading.Timer(0.1, kill).start()

    before(Coordinator, "record_epoch", kill_later)


def kill_before_a_suggestion(count: Countdown) -> None:
    from tune_swa.search.coordinator import Coordinator

    before(Coordinator, "add_trial", count)


def kill_before_tidying(count: Countdown) -> None:
    from tune_swa.storage import FolderStore

    before(FolderStore, "keep_only", count)


def kill_within_a_table(count: Countdown, *, name: str = "") -> None:
    import pyarrow.parquet as pq

    def write_half(table: Any, path: Path, **_: Any) -> None:
        if name in path.name and count.due():
            path.write_bytes(b"PAR1 and no more")
            kill()

    before(pq, "write_table", write_half)


def kill_before_a_rename(count: Countdown, *, suffix: str = ".parquet") -> None:
    def rename(path: Path, target: Path) -> None:
        if str(target).endswith(suffix):
            count()

    before(Path, "replace", rename)


def kill_before_decoding(count: Countdown) -> None:
    from tune_swa.data import cache

    before(cache, "read_entry", count)


def kill_at_the_start_of_ray(count: Countdown) -> None:
    import ray

    if count.left == 1:
        before(ray, "init", count)
    else:  # while its processes start
        before(ray, "init", lambda **_: threading.Timer(0.5, kill).start())


def kill_before_the_space_file(count: Countdown) -> None:
    import yaml

    before(yaml, "dump", count)


def kill_before_the_model(count: Countdown) -> None:
    from tune_swa.execution import best_model

    before(best_model.torch, "save", count)


MOMENTS: dict[str, Callable[[Countdown], None]] = {
    "import": kill_while_importing,  # torch and Ray
    "data": kill_before_decoding,  # the images are being prepared
    "ray": kill_at_the_start_of_ray,
    "space": kill_before_the_space_file,  # the journal is begun, space.yaml is being written
    "suggest": kill_before_a_suggestion,  # the sampler has proposed, nothing is written yet
    "line-before": partial(kill_at_line, "before"),  # a line of the journal
    "line-half": partial(kill_at_line, "half"),
    "line-after": partial(kill_at_line, "after"),
    "training": kill_while_training,  # a little after an epoch was recorded, in the middle of the next one
    "checkpoint": partial(kill_while_a_state_is_written, "checkpoints"),  # by a worker
    "snapshot": partial(kill_while_a_state_is_written, "checkpoints", name="snapshot-"),
    "trunk": partial(kill_while_a_state_is_written, "trunks"),
    "merge": partial(kill_while_a_state_is_written, ".", name="greedy-"),
    "tidy": kill_before_tidying,  # old checkpoints are being removed
    "parquet": kill_within_a_table,  # a result file is half written
    "soups": partial(kill_within_a_table, name="soups"),
    "ensembles": partial(kill_within_a_table, name="ensembles"),
    "rename": kill_before_a_rename,  # result files are written, and about to take their names
    "model": kill_before_the_model,  # best_model.pt is being written
    "description": partial(kill_before_a_rename, suffix="best_model.json"),  # best_model.pt has its name
}


if __name__ == "__main__":
    moment, *given = sys.argv[1:]
    before_at, at, moment = moment.rpartition("@")
    SENT = signal.Signals[before_at] if at else signal.SIGKILL
    where, _, number = moment.partition(":")
    arrange = partial(kill_at_event, where[6:]) if where.startswith("event-") else MOMENTS[where]
    arrange(Countdown(int(number)))
    from tune_swa.cli import run_search

    sys.exit(run_search(given))
