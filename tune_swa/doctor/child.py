"""Questions that are asked in a process of their own.

torch and Ray are large programs of native code. Where one of them does not fit the machine, it may
not raise an error but crash, or wait for ever. In a child that is one more answer.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from types import TracebackType
from typing import Any

_CODE = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from tune_swa.doctor.child import main; main()"
)


class ChildError(Exception):
    """There is no answer; says why."""


class Child:
    """A function call in a process of its own, which has begun. A context manager: leaving it ends it.

    Args:
        function: its dotted name. It returns what JSON can hold.
        arguments: for it; of the same kind.
    """

    def __init__(self, function: str, *arguments: object) -> None:
        # the same packages as here, whatever way this process was told of them (-P: nothing else)
        command = [sys.executable, "-P", "-c", _CODE]
        self._process = subprocess.Popen(
            [*command, json.dumps(sys.path), function, json.dumps(arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # so that what it starts can be ended with it
        )

    def result(self, seconds: float) -> Any:
        """Wait for what the function returned.

        Raises:
            ChildError: it raised an error, crashed, or took longer than `seconds`.
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


def main() -> None:
    """What the child runs. Its answer is all that goes to stdout, whatever libraries print there."""
    answer = os.dup(1)
    os.dup2(2, 1)
    name, arguments = sys.argv[2], json.loads(sys.argv[3])
    module, _, function = name.rpartition(".")
    content: dict[str, Any]
    try:
        content = {"result": getattr(importlib.import_module(module), function)(*arguments)}
    except Exception as error:
        from tune_swa.doctor.finding import first_line
        from tune_swa.errors import TuneSwaError

        kind = "" if isinstance(error, TuneSwaError) else f"{type(error).__name__}: "
        content = {"error": f"{kind}{first_line(error)}"}
    with os.fdopen(answer, "w") as file:
        json.dump(content, file)
    os._exit(0)  # taking torch and Ray apart takes seconds
