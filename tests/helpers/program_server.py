"""Fork processes that have torch and Ray imported already, and run Python files in them.

    python program_server.py DESCRIPTOR

The descriptor is a socket. Each request is a JSON object with `argv`, `cwd`, `environment` and
`new_session`, sent with three descriptors: stdout, stderr, and a pipe that gets the program's process ID
and, at its end, its return code. `helpers.programs` is the other side.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import importlib.util
import json
import os
import pkgutil
import random
import runpy
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

_PYTHON_PATH = os.environ.get("PYTHONPATH", "")
"""Of this process."""


def import_everything() -> None:
    """Import what a search imports; it takes four seconds of the processor's time."""
    import tune_swa

    gc.disable()  # looking through what is imported again and again takes a quarter of the time
    names = [module.name for module in pkgutil.walk_packages(tune_swa.__path__, "tune_swa.")]
    for name in [*names, "plotly", "pyarrow.parquet", "sklearn.datasets", "torchvision.models"]:
        if not name.endswith("__main__"):
            importlib.import_module(name)
    gc.freeze()  # else every program looks through half a million objects at its end, and copies their pages
    gc.enable()


def serve(connection: socket.socket) -> None:
    """Fork a program for each request, until the other side closes the connection."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait
    while True:
        message, descriptors, *_ = socket.recv_fds(connection, 1 << 20, 3)
        if not message:
            return
        if os.fork() == 0:
            connection.close()
            run_and_report(json.loads(message), *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def run_and_report(request: dict[str, Any], stdout: int, stderr: int, status: int) -> None:
    """Run a program in a child, wait for it, and report how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    program = os.fork()
    if program == 0:
        if request["new_session"]:
            os.setsid()
        os.write(status, f"{os.getpid()}\n".encode())
        os.close(status)
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        os.close(stdout)
        os.close(stderr)
        run_file(request)
    os.close(stdout)
    os.close(stderr)
    _, code = os.waitpid(program, 0)
    os.write(status, f"{os.waitstatus_to_exitcode(code)}\n".encode())
    os._exit(0)


def run_file(request: dict[str, Any]) -> None:
    """Run a Python file as `python FILE ARGUMENTS` does; never returns."""
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    random.seed()
    sys.argv = request["argv"]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    _take_python_path()
    status: list[int] = []
    atexit.register(_end_program, os.getpid(), status)  # the first one is called last
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
        raise SystemExit(0)
    except SystemExit as end:
        status.append(end.code if isinstance(end.code, int) else int(end.code is not None))
        raise
    except Exception:
        status.append(1)
        raise


def _end_program(process: int, status: list[int]) -> None:
    """End a program that has a status, before Python takes its modules apart.

    What `gc.freeze` has set aside would then be reported as leaks, by triton 3.9.
    """
    if os.getpid() != process or not status:
        return
    with suppress(OSError, ValueError, AttributeError):  # as Python ends it, then
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status[0] & 0xFF)


def _take_python_path() -> None:
    """Put the program's PYTHONPATH where Python puts it, and run its `sitecustomize` as Python does."""
    asked = os.environ.get("PYTHONPATH", "")
    if asked == _PYTHON_PATH:
        return
    ours, its = ([*filter(None, paths.split(os.pathsep))] for paths in (_PYTHON_PATH, asked))
    sys.path[1:] = [*its, *(folder for folder in sys.path[1:] if folder not in ours)]
    sys.modules.pop("sitecustomize", None)
    if importlib.util.find_spec("sitecustomize"):
        importlib.import_module("sitecustomize")


if __name__ == "__main__":
    import_everything()
    serve(socket.socket(fileno=int(sys.argv[1])))
    os._exit(0)  # see _end_program
