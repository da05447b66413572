"""Functions called in a process of their own, which may crash or hang without harm to the caller.

torch and Ray are large programs of native code. Where one of them does not fit the machine, it may
not raise an error but crash, or wait for ever. In a child that is one more answer. A child also takes
with it what it has of a GPU: a CUDA context is never given back by the process that has made it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any

from tune_swa.errors import TuneSwaError
from tune_swa.text import first_line

CODE = """
import json, sys
call = json.load(sys.stdin)
sys.path[:] = call["path"]
from tune_swa import child_process
def find_function():
    from {module} import {name}
    return {name}
child_process.run_child(find_function, call["arguments"])
"""
"""Code that the child runs, with the same packages as here, however this process came to know them."""


class ChildError(Exception):
    """There is no answer; says why."""


class Child:
    """A process of its own that calls a function. A context manager: leaving it ends the process.

    Args:
        function: `package.module:name`, from the program's own text; what it returns has to be something
            that JSON can hold.
        arguments: for it, as JSON can hold them.
        environment: variables that are set in the child alone.
    """

    def __init__(self, function: str, *arguments: Any, environment: Mapping[str, str] | None = None) -> None:
        module, _, name = function.partition(":")
        assert all(part.isidentifier() for part in (*module.split("."), name)), function
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", CODE.format(module=module, name=name)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **(environment or {})},
            start_new_session=True,  # so that what it starts can be ended with it
        )
        assert self._process.stdin is not None
        call = {"path": sys.path, "arguments": arguments}
        with suppress(BrokenPipeError):  # it has died; `result` says of what
            self._process.stdin.write(json.dumps(call).encode())
            self._process.stdin.close()
        self._process.stdin = None  # `communicate` would close it a second time

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def result(self, seconds: float) -> Any:
        """Wait for the answer.

        Raises:
            ChildError: the function raised an error, crashed, or took longer than `seconds`.
        """
        try:
            answer, printed = self._process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self._kill()
            raise ChildError(f"no answer within {seconds:g} seconds") from None
        code = self._process.returncode
        if code < 0:
            raise ChildError(f"its process crashed: {signal.strsignal(-code)}")
        try:
            content = json.loads(answer)
        except ValueError:
            lines = printed.decode(errors="replace").strip().splitlines()
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


def run_child(find_function: Callable[[], Callable[..., Any]], arguments: Sequence[Any]) -> None:
    """Call the function that was asked for, and print its answer: all that goes to stdout, whatever
    libraries print there. Does not return.

    Args:
        find_function: imports and returns it.
        arguments: for it.
    """
    answer = os.dup(1)
    os.dup2(2, 1)
    content: dict[str, Any]
    try:
        content = {"result": find_function()(*arguments)}
    except Exception as error:
        kind = "" if isinstance(error, TuneSwaError) else f"{type(error).__name__}: "
        content = {"error": f"{kind}{first_line(error)}"}
    with os.fdopen(answer, "w") as file:
        json.dump(content, file)
    os._exit(0)  # taking torch and Ray apart takes seconds
