"""Run a search in a child process, so that it never ends without a message.

When Ray's node process dies or memory runs out, the process that drives Ray may end at any point: no
exception, no message, exit code 1. The parent passes signals on to the child, kills it if it does not stop,
and prints how to continue when the child could not. Everything that was done is in the journal by then.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tune_swa.signals import SignalOnce, heeded_signals

PATIENCE_SECONDS = 8.0
"""Time a child gets to write its results after it was asked to stop; then it is killed."""

_PR_SET_PDEATHSIG = 1
_SHOW_CURSOR = "\x1b[?25h"

_clean_exit_pipe: int | None = None
"""Pipe on which the child reports a clean exit to the parent; None in the parent."""


@dataclass(frozen=True)
class ChildExit:
    """End of the child, as seen by the parent."""

    code: int
    """Its exit code; negative: the signal that killed it."""
    clean: bool
    """Whether it ended in order, with its own message to the user."""
    interrupted: bool
    """Whether a signal asked it to stop."""


def run_in_child() -> ChildExit | None:
    """Fork, and continue in the child. Returns None there, and in the parent how the child ended.

    The child and Ray's processes share a process group of their own: a Ctrl-C reaches only the parent, and
    Ray lives long enough to stop in order. If the parent is killed, so is the child. Call this before any
    thread is started.
    """
    global _clean_exit_pipe
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _clean_exit_pipe = writing
        os.setpgid(0, 0)
        die_with_parent(parent)
        return None
    os.close(writing)
    with suppress(OSError):  # parent and child both try; whoever is second fails
        os.setpgid(child, child)
    received = _forward_signals(child)
    _, status = os.waitpid(child, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    clean = os.read(reading, 1) != b""
    os.close(reading)
    if not clean and sys.stderr.isatty():
        sys.stderr.write(_SHOW_CURSOR)  # the progress display hides it
    return ChildExit(os.waitstatus_to_exitcode(status), clean, bool(received))


def report_clean_exit() -> None:
    """Report to the parent, if there is one, that this process ends in order."""
    if _clean_exit_pipe is not None:
        os.write(_clean_exit_pipe, b".")


def exit_fast(code: int) -> None:
    """End the process if it is a child, without unloading torch and Ray, which takes seconds."""
    if _clean_exit_pipe is None:
        return
    with suppress(OSError, ValueError):  # the reader of our output may have gone
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _forward_signals(child: int) -> list[int]:
    """Install the parent's handlers; returns the list to which they append every signal received."""
    received: list[int] = []

    def stop_child(number: int, frame: Any) -> None:
        received.append(number)
        if once.is_first(number):
            _send_signal(child, number if number == signal.SIGINT else signal.SIGTERM)
            signal.setitimer(signal.ITIMER_REAL, PATIENCE_SECONDS)

    def kill_child(*_: object) -> None:
        _send_signal(child, signal.SIGKILL)

    def suspend_child(number: int, frame: Any) -> None:
        os.killpg(child, signal.SIGSTOP)
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)  # sleeps here until it is continued
        signal.signal(signal.SIGTSTP, suspend_child)
        os.killpg(child, signal.SIGCONT)

    once = SignalOnce(kill_child)
    for number in heeded_signals():
        signal.signal(number, stop_child)
    signal.signal(signal.SIGALRM, kill_child)
    signal.signal(signal.SIGTSTP, suspend_child)
    return received


def _send_signal(process: int, number: int) -> None:
    with suppress(ProcessLookupError):  # it may just have ended
        os.kill(process, number)


def die_with_parent(parent: int) -> None:
    """Have the system kill this process when `parent` dies (Linux)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before that was set
        os._exit(1)
