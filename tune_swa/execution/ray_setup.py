"""Set up what Ray does differently for a search, before `ray.init`.

Ray 2.60 offers no option for most of it, so its own modules are changed. Each function says what for.
"""

from __future__ import annotations

import importlib
import os
import shlex
import subprocess
import sys
from types import SimpleNamespace
from typing import Any


def quote_worker_command() -> dict[str, str] | None:
    """Have Ray start workers whatever characters the path of Python has; return the `runtime_env` for that.

    The command is taken apart twice. The node process reads it by the rules of a POSIX shell, and Ray writes
    it by those of Windows, which leave an apostrophe as it is. Then bash gets the path of Python unquoted.
    """
    services: Any = importlib.import_module("ray._private.services")
    services.subprocess = SimpleNamespace(**{**vars(subprocess), "list2cmdline": shlex.join})
    quoted = shlex.quote(sys.executable)
    # where it needs no quotes there is no environment to set up, which would delay the first worker
    return None if quoted == sys.executable else {"py_executable": quoted}


def ignore_uv_run() -> None:
    """Have workers run this Python as it is, also under `uv run`, unless the user has set it otherwise.

    Ray would pack the current folder, with results and images, and run `uv run` in an unpacked copy for each
    worker, which waits for ever where it cannot make the environment again.
    """
    constants: Any = importlib.import_module("ray._private.ray_constants")
    name = "RAY_ENABLE_UV_RUN_RUNTIME_ENV"
    os.environ.setdefault(name, "0")
    setattr(constants, name, constants.env_bool(name, False))  # Ray may have been imported before
