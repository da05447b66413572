"""Handle the signals that ask a search to stop: the first stops it in order, a second ends it at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ECHO_SECONDS = 0.5
"""A second SIGTERM within this time is an echo of the first: service managers signal every process."""
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class SignalOnce:
    """Distinguishes the first signal from a second one, which ends the process at once."""

    def __init__(self) -> None:
        self._received: float | None = None

    def is_first(self, number: int) -> bool:
        """Whether this is the first signal; False for its echo. Does not return for a second one."""
        now = time.monotonic()
        if self._received is None:
            self._received = now
            return True
        if number == signal.SIGTERM and now - self._received < ECHO_SECONDS:
            return False
        os._exit(128 + signal.SIGINT)


def interrupt_once() -> None:
    """Have SIGINT and SIGTERM raise KeyboardInterrupt, and a second one end the process at once."""
    once = SignalOnce()

    def handle_signal(number: int, frame: Any) -> None:
        if once.is_first(number):
            raise KeyboardInterrupt

    for number in STOP_SIGNALS:
        signal.signal(number, handle_signal)


@contextmanager
def set_on_signal(stop: threading.Event) -> Iterator[None]:
    """Have the first SIGINT or SIGTERM set `stop`, and a second one end the process at once."""
    once = SignalOnce()

    def handle_signal(number: int, frame: Any) -> None:
        if once.is_first(number):
            stop.set()

    before = {number: signal.signal(number, handle_signal) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
