"""Shortages of this machine: which errors mean one, and waiting until there is memory again."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

from tune_swa.hardware.limits import count_oom_kills, read_memory
from tune_swa.text import format_bytes

PATIENCE_SECONDS = 600.0
"""How long memory is waited for while nothing runs; the search then stops, and can be resumed."""
POLL_SECONDS = 1.0
PAUSE_SECONDS = 30.0
"""How long memory of other machines is waited for."""
USAGE_THRESHOLD = 0.95
"""Used part of the memory above which Ray kills workers, unless RAY_memory_usage_threshold is set."""
THRESHOLD_VARIABLE = "RAY_memory_usage_threshold"
WORKER_BYTES = 600_000_000
"""What a worker takes at least, with torch and Ray loaded."""

_MEMORY_ERRORS = (
    "DefaultCPUAllocator",  # torch's own words
    "std::bad_alloc",
    "Cannot allocate memory",
    "unable to mmap",
)


_MACHINE_ERRORS = (
    errno.EAGAIN,
    errno.EDQUOT,
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOSPC,
    errno.EROFS,
    errno.ESTALE,
)


def is_host_memory_exhausted(error: BaseException) -> bool:
    """Whether an error says that the memory of the machine, or this process's share of it, has run out."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _MEMORY_ERRORS)


def is_machine_short(error: BaseException) -> bool:
    """Whether an error says that the machine is short of something besides memory, or that a disk fails.

    It says nothing about the trial that met it.
    """
    if isinstance(error, OSError):
        return error.errno in _MACHINE_ERRORS
    return isinstance(error, RuntimeError) and "can't start new thread" in str(error)


class MemoryWatch:
    """Tells deaths for want of memory from others, and when there is room for a worker again.

    Args:
        read: total and available bytes of the machine, and whether a container limits them; None: trials run
            on other machines, whose memory cannot be read, so `PAUSE_SECONDS` are waited.
        count_kills: processes that the kernel has killed for want of memory.
        clock: seconds that only go up.
    """

    def __init__(
        self,
        read: Callable[[], tuple[int, int, bool]] | None = read_memory,
        count_kills: Callable[[], int] = count_oom_kills,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read, self._count_kills, self._clock = read, count_kills, clock
        self._kills = 0 if read is None else count_kills()
        self._waiting_since: float | None = None
        self._looked = -POLL_SECONDS
        self._needed = WORKER_BYTES

    def has_killed(self) -> bool:
        """Whether the kernel has killed a process for want of memory since this was last asked."""
        if self._read is None:
            return False
        before, self._kills = self._kills, self._count_kills()
        return self._kills > before

    def begin_waiting(self) -> None:
        """Have `is_waiting` say so until there is room for a worker as large as the largest that runs."""
        self._waiting_since = self._clock()
        self._needed = max([WORKER_BYTES, *_worker_sizes()])

    def is_waiting(self) -> bool:
        """Whether there is still too little memory to start a worker; looks about once a second."""
        if self._waiting_since is None:
            return False
        now = self._clock()
        if self._read is None:
            if now - self._waiting_since >= PAUSE_SECONDS:
                self._waiting_since = None
        elif now - self._looked >= POLL_SECONDS:
            self._looked = now
            total, available, _ = self._read()
            if available - self._needed > (1 - usage_threshold()) * total:
                self._waiting_since = None
        return self._waiting_since is not None

    def restart_patience(self) -> None:
        """Something runs, whose end may free memory: the time that was waited does not count."""
        if self._waiting_since is not None and self._read is not None:
            self._waiting_since = self._clock()

    def is_out_of_patience(self) -> bool:
        """Whether memory has been waited for so long that the search should stop."""
        return self._waiting_since is not None and self._clock() - self._waiting_since >= PATIENCE_SECONDS

    def describe_shortage(self) -> str:
        """How much memory there is, and how much of it is free."""
        if self._read is None:
            return "see the memory of the nodes"
        total, available, limited = self._read()
        of = "the container's" if limited else "this machine's"
        return f"{format_bytes(available)} of {of} {format_bytes(total)} are free"


def usage_threshold() -> float:
    """Used part of the memory above which Ray kills workers."""
    try:
        return min(1.0, max(0.0, float(os.environ.get(THRESHOLD_VARIABLE, USAGE_THRESHOLD))))
    except ValueError:
        return USAGE_THRESHOLD


def _worker_sizes() -> list[int]:
    """Return the bytes that this process, and each Ray worker in its session, has for itself.

    What is shared counts for none: libraries, and decoded images, which the system may drop at any time.
    """
    page, session = os.sysconf("SC_PAGE_SIZE"), os.getsid(0)
    sizes = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            pid = int(folder.name)
            worker = os.getsid(pid) == session and (folder / "cmdline").read_bytes().startswith(b"ray::")
            if worker or pid == os.getpid():
                _, resident, shared, *_ = map(int, (folder / "statm").read_text().split())
                sizes.append(page * (resident - shared))
        except (OSError, ValueError, IndexError):  # it has just ended
            continue
    return sizes
