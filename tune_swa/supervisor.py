"""A parent process that outlives the search, so that a search never ends without a word.

When Ray's node process dies, or the system takes the memory back, the process that drives Ray ends
in the middle of whatever it does: no exception, no message, exit code 1. So the search runs in a
child, and this parent passes signals on to it, sees to it that they are obeyed, and says how to go
on when the child could not say so itself. Everything that was done is in the journal by then.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

PATIENCE_SECONDS = 8.0
"""A child that was asked to stop gets this long to write what it has; then it is killed."""
ECHO_SECONDS = 0.5
"""A second SIGTERM within this time is the first one again: service managers tell every process."""

_PR_SET_PDEATHSIG = 1
_SHOW_CURSOR = "\x1b[?25h"

_word: int | None = None
"""In the child: where it tells the parent that it has said all there is to say."""


@dataclass(frozen=True)
class Ended:
    """How the child ended, as the parent sees it."""

    code: int
    """Its exit code; negative: the signal that killed it."""
    spoke: bool
    """Whether it ended in order, and has told the user what there is to tell."""
    asked: bool
    """Whether a signal asked for it."""


def split() -> Ended | None:
    """Continue in a child process. Returns None there, and in the parent how the child ended.

    The child has a process group of its own, which Ray's processes share: a Ctrl-C reaches the parent
    alone, and Ray lives on for as long as it takes to stop in order. If the parent is killed, so is
    the child. To be called before there are threads.
    """
    global _word
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _word = writing
        os.setpgid(0, 0)
        _die_with(parent)
        return None
    os.close(writing)
    with suppress(OSError):  # whoever of the two is first
        os.setpgid(child, child)
    asked = _pass_signals_on(child)
    _, status = os.waitpid(child, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    spoke = os.read(reading, 1) != b""
    os.close(reading)
    if not spoke and sys.stderr.isatty():
        sys.stderr.write(_SHOW_CURSOR)  # the display hides it
    return Ended(os.waitstatus_to_exitcode(status), spoke, bool(asked))


def last_word() -> None:
    """Tell the parent, if there is one, that this process ends in order."""
    if _word is not None:
        os.write(_word, b".")


def leave(code: int) -> None:
    """End the child, if this is one, without taking torch and Ray apart: that takes seconds."""
    if _word is None:
        return
    with suppress(OSError, ValueError):  # whoever read our output may have gone
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def interrupt_once() -> None:
    """Have SIGINT and SIGTERM raise KeyboardInterrupt, and a second one end the process at once."""
    handler = Again()

    def handle(number: int, frame: Any) -> None:
        if handler.first(number):
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)


class Again:
    """Tells the first signal from a second one, which ends the process at once."""

    def __init__(self) -> None:
        self._since: float | None = None

    def first(self, number: int) -> bool:
        now = time.monotonic()
        if self._since is None:
            self._since = now
            return True
        if number == signal.SIGTERM and now - self._since < ECHO_SECONDS:
            return False
        os._exit(128 + signal.SIGINT)


def _pass_signals_on(child: int) -> list[int]:
    """Set the parent's handlers; returns the list in which they note what they were sent."""
    asked: list[int] = []

    def stop(number: int, frame: Any) -> None:
        asked.append(number)
        if len(asked) > 1:
            kill(number, frame)
            return
        # a terminal that is closed is no reason to lose what a stop in order would save
        _send(child, signal.SIGTERM if number == signal.SIGHUP else number)
        signal.setitimer(signal.ITIMER_REAL, PATIENCE_SECONDS)

    def kill(number: int, frame: Any) -> None:
        _send(child, signal.SIGKILL)

    def suspend(number: int, frame: Any) -> None:
        os.killpg(child, signal.SIGSTOP)
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)  # sleeps here until it is continued
        signal.signal(signal.SIGTSTP, suspend)
        os.killpg(child, signal.SIGCONT)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup has it ignored
        signal.signal(signal.SIGHUP, stop)
    signal.signal(signal.SIGALRM, kill)
    signal.signal(signal.SIGTSTP, suspend)
    return asked


def _send(process: int, number: int) -> None:
    with suppress(ProcessLookupError):  # it may just have ended
        os.kill(process, number)


def _die_with(parent: int) -> None:
    """Have the system kill this process when `parent` dies (Linux)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before that was set
        os._exit(1)
