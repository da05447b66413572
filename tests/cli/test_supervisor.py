"""What signals do to a search: the first one asks it to end, a second one ends it at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from tune_swa import signals
from tune_swa.cli import supervisor
from tune_swa.signals import ECHO_SECONDS, SignalOnce, set_on_signal

DEAF = """
import signal, time
from tune_swa.cli import supervisor

ended = supervisor.run_in_child()
if ended is None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: print("asked", flush=True))
    print("ready", flush=True)
    while True:
        time.sleep(0.1)
print(ended)
"""


class Left(BaseException):
    """Instead of the process's end."""


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    codes: list[int] = []

    def leave(code: int) -> None:
        codes.append(code)
        raise Left

    monkeypatch.setattr(os, "_exit", leave)
    return codes


def test_a_second_signal_ends_the_process_at_once(left: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(signals.time, "monotonic", lambda: now)
    once = SignalOnce()
    assert once.is_first(signal.SIGTERM)
    assert not once.is_first(signal.SIGTERM)  # the same one, sent to the whole group
    now = ECHO_SECONDS + 0.1
    with pytest.raises(Left):
        once.is_first(signal.SIGTERM)
    once = SignalOnce()
    assert once.is_first(signal.SIGINT)
    with pytest.raises(Left):  # pressed twice
        once.is_first(signal.SIGINT)
    assert left == [130, 130]


def test_a_search_that_runs_is_asked_once_and_then_ended(left: list[int]) -> None:
    before = signal.getsignal(signal.SIGINT)
    stop = threading.Event()
    with set_on_signal(stop):
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
        assert left == []
        with pytest.raises(Left):
            signal.raise_signal(signal.SIGINT)
    assert left == [130]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_search_that_its_own_process_stops_hears_a_first_signal_still(left: list[int]) -> None:
    stop, before = threading.Event(), signals.count_signals()
    assert not signals.stop_search()
    with set_on_signal(stop):
        assert signals.stop_search()
        assert stop.is_set()
        assert signals.count_signals() == before
        signal.raise_signal(signal.SIGINT)
        assert signals.count_signals() == before + 1
    assert left == []
    assert not signals.stop_search()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_child_that_does_not_listen_is_killed_by_the_second_one(number: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == "asked\n"
        if number != signal.SIGINT:
            process.send_signal(signal.SIGHUP)  # what systemd and a closed terminal send as well
            time.sleep(ECHO_SECONDS + 0.1)
        assert process.poll() is None
        begun = time.monotonic()
        process.send_signal(number)
        out, _ = process.communicate(timeout=30)
        assert time.monotonic() - begun < supervisor.PATIENCE_SECONDS / 2
        assert out == "ChildExit(code=-9, clean=False, interrupted=True)\n"
    finally:
        process.kill()
        process.wait()
