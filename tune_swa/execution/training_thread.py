"""The one thread of a worker process in which its trials are trained.

cuDNN keeps the plans that it found for a convolution, and torch its cuBLAS handles, for each thread. Ray runs
every trial of a reused worker in a new thread, which would look for them again.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any


class _Call:
    """A function for the training thread, and how it ended."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function: Callable[[], Any] | None = function
        self.result: Any = None
        self.error: BaseException | None = None
        self.ended = threading.Event()

    def run(self) -> None:
        assert self.function is not None
        try:
            self.result = self.function()
        except BaseException as error:  # whatever it is, it belongs to the thread that waits
            self.error = error
        finally:
            self.function = None  # it holds the trial's arguments
            self.ended.set()


class TrainingThread:
    """A thread that runs one function after another, each for a caller that waits for it.

    It is a daemon: a process may end while a trial waits for Ray's answer.
    """

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[_Call] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run_calls, name="training", daemon=True)
        self._thread.start()

    def run(self, function: Callable[[], Any]) -> Any:
        """Run `function` in the thread and return what it returns.

        Raises:
            BaseException: what the function raised, `SystemExit` and `KeyboardInterrupt` too.
        """
        if threading.current_thread() is self._thread:
            return function()
        call = _Call(function)
        self._calls.put(call)
        call.ended.wait()
        try:
            if call.error is not None:
                raise call.error
            return call.result
        finally:
            # the error's traceback refers to this frame, and with it to the whole trial
            call.error = call.result = None
            del call, function

    def _run_calls(self) -> None:
        while True:
            call = self._calls.get()
            call.run()
            del call  # not kept while the next one is waited for


_thread: TrainingThread | None = None
_starting = threading.Lock()


def run_in_training_thread(function: Callable[[], Any]) -> Any:
    """Run `function` in this process's training thread, which the first call starts.

    Raises:
        BaseException: what the function raised.
    """
    global _thread
    with _starting:
        if _thread is None:
            _thread = TrainingThread()
    return _thread.run(function)
