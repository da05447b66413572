"""Questions that are asked in a process of their own.

torch and Ray are large programs of native code. Where one of them does not fit the machine, it may
not raise an error but crash, or wait for ever. In a child that is one more answer.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

CODE = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from tune_swa.doctor import child; child.main()"
)
"""What the child runs: the same packages as here, whatever way this process was told of them."""


class ChildError(Exception):
    """There is no answer; says why."""


class Child:
    """A process of its own that works on a question. A context manager: leaving it ends the process.

    Args:
        question: one of `QUESTIONS`.
        arguments: for its function.
    """

    def __init__(self, question: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", CODE, json.dumps(sys.path), question, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # so that what it starts can be ended with it
        )

    def result(self, seconds: float) -> Any:
        """Wait for the answer.

        Raises:
            ChildError: the function raised an error, crashed, or took longer than `seconds`.
        """
        try:
            answer, said = self._process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self._kill()
            raise ChildError(f"no answer within {seconds:g} seconds") from None
        code = self._process.returncode
        if code < 0:
            raise ChildError(f"its process crashed: {signal.strsignal(-code)}")
        try:
            content = json.loads(answer)
        except ValueError:
            lines = said.decode(errors="replace").strip().splitlines()
            last = f": {lines[-1].strip()[:300]}" if lines else ""
            raise ChildError(f"its process ended with exit code {code}{last}") from None
        if "error" in content:
            raise ChildError(content["error"])
        return content["result"]

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kill()

    def _kill(self) -> None:
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()


def _torch() -> Any:
    from tune_swa.training.probe import probe

    return probe()


def _storage(uri: str) -> None:
    from tune_swa.storage import check_usable, open_store

    check_usable(open_store(uri), "--storage")


def _start_ray() -> Any:
    from tune_swa.search.probe import start

    return start()


def _join_cluster(address: str) -> Any:
    from tune_swa.search.probe import join

    return join(address)


QUESTIONS: dict[str, Callable[..., Any]] = {
    "torch": _torch,
    "storage": _storage,
    "ray": _start_ray,
    "cluster": _join_cluster,
}
"""What can be asked, with the function that answers it by something that JSON can hold."""


def main() -> None:
    """What the child runs. Its answer is all that goes to stdout, whatever libraries print there."""
    answer = os.dup(1)
    os.dup2(2, 1)
    question, *arguments = sys.argv[2:]
    content: dict[str, Any]
    try:
        content = {"result": QUESTIONS[question](*arguments)}
    except Exception as error:
        from tune_swa.doctor.finding import first_line
        from tune_swa.errors import TuneSwaError

        kind = "" if isinstance(error, TuneSwaError) else f"{type(error).__name__}: "
        content = {"error": f"{kind}{first_line(error)}"}
    with os.fdopen(answer, "w") as file:
        json.dump(content, file)
    os._exit(0)  # taking torch and Ray apart takes seconds
