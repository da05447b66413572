"""Run the project's programs as a user does, in processes that need not import torch and Ray first."""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
RUN_SEARCH = ROOT / "run_search.py"
TUNE_SWA = Path(sys.executable).parent / "tune-swa"
_PYTHON_PATH = os.environ.get("PYTHONPATH", "")
"""Before a test has changed it."""


class Program:
    """A running program, with the methods of `subprocess.Popen` that the tests need."""

    def __init__(
        self,
        argv: Sequence[object],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        start_new_session: bool = False,
    ) -> None:
        environment = dict(os.environ if env is None else env)
        # a Ray that ran in this process has set it, and the server has read it at its import of Ray
        environment.pop("RAY_AUTH_MODE", None)
        request = {
            "argv": [str(word) for word in argv],
            "cwd": str(cwd or Path.cwd()),
            "environment": environment,
            "new_session": start_new_session,
        }
        self.args = request["argv"]
        self.returncode: int | None = None
        self._files = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        self._status, writing = os.pipe()
        descriptors = [*(file.fileno() for file in self._files), writing]
        server = _start_server()
        socket.send_fds(server, [json.dumps(request).encode()], descriptors)
        os.close(writing)
        self._lines = b""
        self._read_lines(1, None)
        self.pid = int(self._lines.split(b"\n")[0])

    def poll(self) -> int | None:
        """Return the exit code, None while the program runs."""
        if self.returncode is None and self._read_lines(2, 0):
            self.returncode = int(self._lines.split(b"\n")[1])
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None and not self._read_lines(2, timeout):
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        code = self.poll()
        assert code is not None
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end; return what was written to stdout and to stderr."""
        self.wait(timeout)
        return self._read_output(0), self._read_output(1)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _read_output(self, which: int) -> str:
        file = self._files[which]
        file.seek(0)
        return file.read().decode().replace("\r\n", "\n")

    def _read_lines(self, count: int, timeout: float | None) -> bool:
        """Read the pipe until it has given `count` lines; False if the time is over before."""
        end = None if timeout is None else time.monotonic() + timeout
        while self._lines.count(b"\n") < count:
            left = None if end is None else max(0.0, end - time.monotonic())
            if not select.select([self._status], [], [], left)[0]:
                return False
            data = os.read(self._status, 100)
            if not data:
                raise RuntimeError(f"the server of programs died: {self._read_output(1)}")
            self._lines += data
        return True

    def __del__(self) -> None:
        os.close(self._status)


def run_program(
    argv: Sequence[object],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 500,
) -> subprocess.CompletedProcess[str]:
    """Run a Python file with arguments to its end, as `subprocess.run` does.

    Raises:
        subprocess.TimeoutExpired: after `timeout` seconds; the program is killed.
    """
    program = Program(argv, cwd=cwd, env=env)
    try:
        output, errors = program.communicate(timeout)
    finally:
        program.kill()
    return subprocess.CompletedProcess(program.args, program.wait(), output, errors)


@cache
def _start_server() -> socket.socket:
    """Start the process that forks programs; it ends with this one."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "program_server.py"), str(its.fileno())],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": _PYTHON_PATH, "OMP_NUM_THREADS": "1"},
        pass_fds=[its.fileno()], stdin=subprocess.DEVNULL,
    )  # fmt: skip
    its.close()
    atexit.register(server.wait)
    atexit.register(ours.close)  # first
    return ours
