"""Make the process of a command independent of the state in which a shell or a service left it."""

from __future__ import annotations

import errno
import io
import os
import resource
import sys
import warnings
from contextlib import suppress

OUTPUT_ERRORS = (errno.ENOSPC, errno.EIO, errno.EBADF, errno.EFBIG, errno.EDQUOT)
"""How writing to a standard stream fails, besides that its reader has gone."""


def discard_output() -> None:
    """Have nothing more written to stdout, which would fail once more as the process ends."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.close(nothing)


def prepare_process() -> None:
    """Set up what a search relies on: standard streams, limits, permissions of its own files."""
    _open_standard_streams()
    _accept_any_character()
    _disarm_warnings()
    _raise_soft_limits()
    _keep_own_access()
    _drop_nonsense()


def _open_standard_streams() -> None:
    """Open standard streams that are closed, so that no file takes their number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # which takes the lowest number that is free
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8")  # noqa: SIM115


def _accept_any_character() -> None:
    """Write characters that a stream's encoding lacks as escapes, rather than fail after hours."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _disarm_warnings() -> None:
    """Take back that warnings are errors, which Ray and torch do not survive, here and in Ray's processes."""
    if any(action == "error" for action, *_ in warnings.filters):
        warnings.simplefilter("ignore")
    if "error" in os.environ.get("PYTHONWARNINGS", ""):
        del os.environ["PYTHONWARNINGS"]


def _keep_own_access() -> None:
    """Take the owner's permissions out of the umask: what a search writes, it has to read."""
    mask = os.umask(0o077)
    os.umask(mask & ~0o700)


def _drop_nonsense() -> None:
    """Drop a number of threads that is none: the program that reads it would print a line of its own."""
    numbers = os.environ.get("OMP_NUM_THREADS", "1").split(",")
    if not all(number.strip().isdecimal() and int(number) > 0 for number in numbers):
        del os.environ["OMP_NUM_THREADS"]


def _raise_soft_limits() -> None:
    """Raise the limits of open files and of address space as far as this process may.

    Ray's processes open some hundred files each, and map more than they use.
    """
    for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_AS, resource.RLIMIT_NPROC):
        soft, hard = resource.getrlimit(kind)
        if soft != hard:
            with suppress(OSError, ValueError):
                resource.setrlimit(kind, (hard, hard))
