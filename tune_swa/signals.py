"""Handle the signals that ask a search to stop: the first stops it in order, a second ends it at once."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

ECHO_SECONDS = 0.5
"""A second signal within this time is an echo of the first, but for Ctrl-C: service managers signal every
process."""
STOP_SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,  # the terminal has gone
    signal.SIGUSR1,  # by which batch systems warn of the end of a job's time
    signal.SIGUSR2,
    signal.SIGXCPU,
)
"""Those that ask a search to stop in order."""
ACTION_BYTES = 512
"""At least the size of the system's `struct sigaction`."""
ASKED_OF_ALL = STOP_SIGNALS[2:]
"""Of these, those that may reach every process of a job, and would end Ray's: these ignore them."""


_stops: list[threading.Event] = []
"""What the first signal sets, of each search that runs trials in this process."""
_received: list[int] = []
"""Signals that have asked this process to stop, in their order."""


class SignalOnce:
    """Distinguishes the first signal from a second one, which ends the process at once.

    Args:
        end: called for a second signal; by default it ends this process.
    """

    def __init__(self, end: Callable[[], object] = lambda: os._exit(128 + signal.SIGINT)) -> None:
        self._end = end
        self._received: float | None = None

    def is_first(self, number: int) -> bool:
        """Return whether this is the first signal; False for its echo and, if `end` returns, for others."""
        _received.append(number)
        now = time.monotonic()
        if self._received is None:
            self._received = now
            return True
        if number == signal.SIGINT or now - self._received >= ECHO_SECONDS:
            self._end()
        return False


def interrupt_once() -> None:
    """Have a signal raise KeyboardInterrupt, and a second one end the process at once.

    In a thread nothing changes: only the main thread of a process can have handlers.
    """
    once = SignalOnce()

    def handle_signal(number: int, frame: Any) -> None:
        if once.is_first(number):
            raise KeyboardInterrupt

    for number in heeded_signals():
        signal.signal(number, handle_signal)


@contextmanager
def set_on_signal(stop: threading.Event) -> Iterator[None]:
    """Have the first signal set `stop`, and a second one end the process at once; not in a thread."""
    once = SignalOnce()

    def handle_signal(number: int, frame: Any) -> None:
        if once.is_first(number):
            stop.set()

    _stops.append(stop)
    try:
        with keep_handlers():
            for number in heeded_signals():
                signal.signal(number, handle_signal)
            yield
    finally:
        _stops.remove(stop)


def stop_search() -> bool:
    """Stop the search that runs trials in this process as a first signal would; a signal of the user's after
    it is the first one still.

    Returns:
        Whether there was one.
    """
    running = [*_stops]
    for stop in running:
        stop.set()
    return bool(running)


def count_signals() -> int:
    """Count the signals that have asked this process to stop."""
    return len(_received)


@contextmanager
def keep_handlers() -> Iterator[None]:
    """Give back the handlers of signals as they were, whoever changes them meanwhile.

    An event loop, or the program that runs a search as a part of it, goes on with its own.
    """
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS if _in_main_thread()}
    with _keep_actions():
        try:
            yield
        finally:
            for number, handler in before.items():
                if handler is not None:  # None: it is not Python's, and cannot have been changed from here
                    signal.signal(number, handler)


@contextmanager
def _keep_actions() -> Iterator[None]:
    """Give back what the system does with signals: Ray's core sets that, and leaves the default behind.

    Python sees nothing of it, and changes nothing itself from a thread.
    """
    sigaction = ctypes.CDLL(None).sigaction
    before = {number: ctypes.create_string_buffer(ACTION_BYTES) for number in STOP_SIGNALS}
    for number, action in before.items():
        sigaction(number, None, action)
    try:
        yield
    finally:
        for number, action in before.items():
            sigaction(number, action, None)


@contextmanager
def ignore_in_children() -> Iterator[None]:
    """Have the processes that are started meanwhile, and theirs, ignore signals meant for this one."""
    if not _in_main_thread():
        yield
        return
    with keep_handlers():
        for number in ASKED_OF_ALL:
            signal.signal(number, signal.SIG_IGN)
        yield


@contextmanager
def hold_signals() -> Iterator[None]:
    """Have signals wait that arrive meanwhile, where an exception in the middle would lose what was made."""
    held: list[int] = []
    try:
        with keep_handlers():
            for number in heeded_signals():
                signal.signal(number, lambda number, _: held.append(number))
            yield
    finally:
        for number in held:
            signal.raise_signal(number)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def heeded_signals() -> list[int]:
    """Signals that get a handler, none in a thread.

    Others than the usual stay ignored where they are, as `nohup` has it for SIGHUP. Shells have background
    jobs ignore SIGINT, which `kill -INT` is not to be in vain for.
    """
    if not _in_main_thread():
        return []
    ignored = [number for number in ASKED_OF_ALL if signal.getsignal(number) is signal.SIG_IGN]
    return [number for number in STOP_SIGNALS if number not in ignored]
