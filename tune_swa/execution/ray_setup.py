"""Set up what Ray does differently for a search, before `ray.init`.

Ray 2.60 offers no option for most of it, so its own modules are changed. Each function says what for.
"""

from __future__ import annotations

import importlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tune_swa.errors import SearchFailed
from tune_swa.scratch import mark_in_use, remove_leftovers


@contextmanager
def adapt_ray() -> Iterator[None]:
    """Have Ray's modules do what a search on this machine needs; afterwards they are as they were.

    - Workers start whatever characters the path of Python has, together with `quote_worker_command`. The
      command is taken apart twice. The node process reads it by the rules of a POSIX shell, and Ray writes it
      by those of Windows, which leave an apostrophe as it is. Then bash gets the path of Python unquoted.
    - Ray neither asks for its cloud nor counts loggers, which only its reports on usage are for. The first is
      what the process of the dashboard does without a dashboard: it asks servers outside of this machine, and
      `ray.init` waits for it to start. The second imports mlflow and wandb, which write files of their own.
    """
    services: Any = importlib.import_module("ray._private.services")
    usage: Any = importlib.import_module("ray.air._internal.usage")
    posix = SimpleNamespace(**{**vars(subprocess), "list2cmdline": shlex.join})
    with (
        _replace_attribute(services, "subprocess", posix),
        _replace_attribute(services, "start_api_server", lambda *_, **__: ("", None)),
        _replace_attribute(usage, "tag_callbacks", lambda _: False),
    ):
        yield


@contextmanager
def _replace_attribute(module: Any, name: str, value: object) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def quote_worker_command() -> dict[str, str] | None:
    """Return the `runtime_env` with which Ray starts workers whose Python has an odd path (`adapt_ray`)."""
    quoted = shlex.quote(sys.executable)
    # where it needs no quotes there is no environment to set up, which would delay the first worker
    return None if quoted == sys.executable else {"py_executable": quoted}


@contextmanager
def ignore_uv_run() -> Iterator[None]:
    """Have workers run this Python as it is, also under `uv run`, unless the user has set it otherwise.

    Ray would pack the current folder, with results and images, and run `uv run` in an unpacked copy for each
    worker, which waits for ever where it cannot make the environment again.
    """
    constants: Any = importlib.import_module("ray._private.ray_constants")
    name = "RAY_ENABLE_UV_RUN_RUNTIME_ENV"
    os.environ.setdefault(name, "0")
    # Ray may have been imported before
    with _replace_attribute(constants, name, constants.env_bool(name, False)):
        yield


@contextmanager
def own_session_folder() -> Iterator[Callable[[], None]]:
    """Have the folder of Ray's session closed to other users, and removed after the search.

    It stays where the search failed, for its logs, until a later search removes it with what else was left
    by processes that have gone.

    Yields:
        What closes the folder again: Ray's processes open it to everybody as they start.
    """
    node: Any = importlib.import_module("ray._private.node")
    utils: Any = importlib.import_module("ray._common.utils")
    create = node.try_to_create_directory
    made: list[Path] = []
    root = Path(utils.get_default_ray_temp_dir())
    remove_leftovers(root, "session_*")
    locks = ExitStack()

    def create_own(path: str) -> None:
        create(path)
        folder = Path(path)
        if folder.parent == root and folder.name.startswith("session_"):
            folder.chmod(0o700)
            locks.enter_context(mark_in_use(folder))
            made.append(folder)

    def close() -> None:
        for folder in made:
            with suppress(FileNotFoundError):
                folder.chmod(0o700)

    node.try_to_create_directory = create_own
    try:
        yield close
    except SearchFailed:
        close()  # it may have ended before Ray's processes had started
        made.clear()
        raise
    finally:
        node.try_to_create_directory = create
        locks.close()
        for folder in made:
            shutil.rmtree(folder, ignore_errors=True)
        latest = root / "session_latest"
        if latest.is_symlink() and not latest.exists():
            latest.unlink(missing_ok=True)
