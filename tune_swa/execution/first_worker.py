"""Start worker processes of a Ray on this machine, and find out whether they do.

Ray waits for a worker without an end: where the command that starts one fails, it is run again and again, and
the only trace is a line in one of Ray's logs.
"""

from __future__ import annotations

import importlib
import math
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune_swa.errors import SearchFailed
from tune_swa.hardware.shortages import MemoryWatch, usage_threshold
from tune_swa.text import first_line

if TYPE_CHECKING:  # the doctor needs none of its settings
    from tune_swa.execution.slots import Placement

GIVE_UP_SECONDS = 180.0
"""Ray itself gives up on a worker after 60 seconds and starts the next: three of them have had their time."""
DEAD_WORKERS = 2
"""So many processes that end without a word before they are workers are no accident."""
DEAD_SECONDS = 5.0
"""For so long it has to look as if no worker could start: another one may be about to answer."""
POLL_SECONDS = 0.5
_STARTED = re.compile(r"Started worker process with pid (\d+)")


def list_modules(placement: Placement) -> tuple[str, ...]:
    """Return the modules that a worker imports before its first trial is there."""
    if placement.gpus:  # Ray says which of them a process sees, and that has to come before torch
        return ("ray.tune",)
    return ("ray.tune", "tune_swa.execution.trainable", "torchvision.models")


def request_worker() -> Any:
    """Have Ray run a task in a worker of this session's runtime environment; returns the task."""
    import ray

    return ray.remote(num_cpus=0, max_retries=0)(_do_nothing).remote()


def await_first_worker(task: Any = None) -> None:
    """Wait until a worker process has started.

    Args:
        task: as `request_worker` returned it; None: Ray starts workers by itself, in which trials will run.
            Ray gives no trial a worker that has run a task.

    Raises:
        SearchFailed: workers end as they start, or none answers.
    """
    logs = find_logs()
    end = time.monotonic() + GIVE_UP_SECONDS
    dead_since = math.inf
    while not (_has_ended(task) if task is not None else _has_connected(logs)):
        now = time.monotonic()
        dead_since = min(dead_since, now) if logs is not None and _none_starts(logs) else math.inf
        if now - dead_since > DEAD_SECONDS:
            raise SearchFailed(f"Ray's worker processes end as they start ({_explain_start(logs)})")
        if now > end:
            raise SearchFailed(
                f"no worker process of Ray's answers in {GIVE_UP_SECONDS:g} seconds ({_explain_start(logs)})"
            )
    if task is not None:
        _check_task(task, logs)


def _has_ended(task: Any) -> bool:
    """Whether a task has ended, after a while."""
    import ray

    return bool(ray.wait([task], timeout=POLL_SECONDS)[0])


def _has_connected(logs: Path | None) -> bool:
    """Whether a worker has spoken with Ray: each that has opens a log. If none has, a while later."""
    if logs is None or any(logs.glob("*worker-*")):
        return True
    time.sleep(POLL_SECONDS / 5)
    return False


def _check_task(task: Any, logs: Path | None) -> None:
    """Raise SearchFailed with the reason of a task that failed."""
    import ray

    try:
        ray.get(task)
    except ray.exceptions.OutOfMemoryError:
        raise SearchFailed(
            f"memory is short: Ray kills its workers where more than {usage_threshold():.0%} are used, and "
            f"{MemoryWatch().describe_shortage()}. Free memory, then start again"
        ) from None
    except ray.exceptions.RayError as error:
        raise SearchFailed(
            f"Ray's worker processes cannot be used: {first_line(error)} ({_explain_start(logs)})"
        ) from None


def _do_nothing() -> None:
    """What the first worker is asked to do."""


def _none_starts(logs: Path) -> bool:
    """Whether workers have ended as they started, which said why or were several, and none is starting."""
    unready = _list_unready(logs)
    if any(_is_alive(pid) for pid in unready):
        return False
    return len(unready) >= DEAD_WORKERS or bool(unready and read_last_error(logs))


def _explain_start(logs: Path | None) -> str:
    reason = None if logs is None else read_last_error(logs)
    return f"{reason or 'without a word'}; they run {sys.executable}; their logs are in {logs}"


def find_logs() -> Path | None:
    """Return the folder of the logs of this machine's Ray; None if this process has not started it."""
    worker: Any = importlib.import_module("ray._private.worker")
    node = worker._global_node
    return None if node is None else Path(node.get_logs_dir_path())


def list_dead_workers(logs: Path) -> list[int]:
    """Return the processes that were started as workers and ended before they were any."""
    return [pid for pid in _list_unready(logs) if not _is_alive(pid)]


def _list_unready(logs: Path) -> list[int]:
    """Return the processes that were started and have not spoken with Ray: each that has opens a log."""
    try:
        started = _STARTED.findall((logs / "raylet.out").read_text(errors="replace"))
    except OSError:
        return []
    ready = {path.stem.rpartition("-")[2].rpartition("_")[2] for path in logs.glob("*worker-*")}
    return [int(pid) for pid in started if pid not in ready]


def _is_alive(pid: int) -> bool:
    return Path("/proc", str(pid)).exists()


def read_last_error(logs: Path) -> str | None:
    """Return the last line that a process wrote to stderr before it was a worker."""
    try:
        lines = (logs / "raylet.err").read_text(errors="replace").split("\n")
    except OSError:
        return None
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), None)


def describe_dead_workers() -> str | None:
    """Return a clause on workers that ended as they started, for the message of a search that waits."""
    logs = find_logs()
    dead = [] if logs is None else list_dead_workers(logs)
    if logs is None or not dead:
        return None
    return f"{len(dead)} worker processes ended as they started ({_explain_start(logs)})"
