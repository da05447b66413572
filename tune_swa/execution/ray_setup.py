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
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tune_swa.errors import SearchFailed
from tune_swa.scratch import mark_in_use, remove_leftovers
from tune_swa.signals import hold_signals

if TYPE_CHECKING:  # the doctor needs none of its settings
    from tune_swa.execution.slots import Placement

REMOVE_SECONDS, POLL_SECONDS = 3.0, 0.1
"""How long the folder of a session is tried to be removed, and the time between."""
_PRESTARTED = "--num_prestart_python_workers"


def _remove_session(folder: Path) -> None:
    """Remove the folder of a session, in which workers that are ending may still write."""
    end = time.monotonic() + REMOVE_SECONDS
    shutil.rmtree(folder, ignore_errors=True)
    while folder.exists() and time.monotonic() < end:
        time.sleep(POLL_SECONDS)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def adapt_ray(placement: Placement) -> Iterator[None]:
    """Have Ray's modules do what a search on this machine needs; afterwards they are as they were.

    - Ray starts as many workers at once as there are slots, rather than one for each core. They find the
      packages of this process before they hear of it from Ray, and a library that reads the number of its
      threads when it is imported reads the cores of a trial.
    - Processes that `ray.init` has started end with this, also where it was interrupted and does not know of
      them any more.
    - Workers start whatever characters the path of Python has, together with `quote_worker_command`. The
      command is taken apart twice. The node process reads it by the rules of a POSIX shell, and Ray writes it
      by those of Windows, which leave an apostrophe as it is. Then bash gets the path of Python unquoted.
    - Ray starts neither its autoscaler nor its log monitor. One machine does not grow, and nobody reads the
      logs through Ray; both are programs of Python that take their time from the first workers.
    - Ray does not ask for its cloud, which only its reports on usage are for. It is what the process of the
      dashboard does without a dashboard: it asks servers outside of this machine, and `ray.init` waits for
      it to start.
    """
    services: Any = importlib.import_module("ray._private.services")
    node: Any = importlib.import_module("ray._private.node").Node
    start = services.start_ray_process
    started: list[subprocess.Popen[bytes]] = []

    def start_process(command: list[str], kind: str, *given: Any, **named: Any) -> Any:
        if kind == "raylet":
            workers = f"{_PRESTARTED}={placement.slots}"
            command = [workers if word.startswith(_PRESTARTED) else word for word in command]
            named["env_updates"] = {**_worker_variables(placement), **(named.get("env_updates") or {})}
        with hold_signals():  # an interrupt in the middle would leave a process that nobody knows
            info = start(command, kind, *given, **named)
            started.append(info.process)
        return info

    posix = SimpleNamespace(**{**vars(subprocess), "list2cmdline": shlex.join})
    with (
        _replace_attribute(services, "subprocess", posix),
        _replace_attribute(services, "start_api_server", lambda *_, **__: ("", None)),
        _replace_attribute(services, "start_ray_process", start_process),
        _replace_attribute(node, "start_monitor", lambda _: None),
        _replace_attribute(node, "start_log_monitor", lambda _: None),
    ):
        try:
            yield
        finally:
            for process in reversed(started):
                process.kill()  # nothing happens where it has ended
                process.wait()


def _worker_variables(placement: Placement) -> dict[str, str]:
    """Variables of Ray's node process, which its workers inherit."""
    here = [str(Path(path).absolute()) for path in sys.path if path and os.pathsep not in path]
    # what was added to the variable since this process began
    added = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path not in here]
    threads = os.environ.get("OMP_NUM_THREADS", str(placement.cpus_per_trial))
    return {"PYTHONPATH": os.pathsep.join([*added, *here]), "OMP_NUM_THREADS": threads}


@contextmanager
def adapt_tune(*, own_ray: bool) -> Iterator[None]:
    """Have Tune do what a search needs; afterwards its modules are as they were.

    - Tune does not count the loggers of its run, which only Ray's reports on usage are for. It imports mlflow
      and wandb for that, which write files of their own.
    - Where Ray is our own, trials run in the workers that have been started. Tune gives its actors a runtime
      environment that sets a few variables, and Ray a new process to each of them, which imports everything
      once more. Workers of our own Ray have these variables from this process.
    """
    usage: Any = importlib.import_module("ray.air._internal.usage")
    controller: Any = importlib.import_module("ray.tune.execution.tune_controller")
    with ExitStack() as stack:
        stack.enter_context(_replace_attribute(usage, "tag_callbacks", lambda _: False))
        if own_ray:
            stack.enter_context(_replace_attribute(controller, "_ActorClassCache", _ActorClasses))
        yield


class _ActorClasses:
    """In place of Tune's class of this kind: a trainable's actor class, made once, as it is."""

    def __init__(self) -> None:
        self._made: dict[type, Any] = {}

    def get(self, trainable: type) -> Any:
        import ray

        if trainable not in self._made:
            self._made[trainable] = ray.remote(trainable)
        return self._made[trainable]


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
        folder = Path(path)
        with hold_signals():
            create(path)
            if folder.parent == root and folder.name.startswith("session_"):
                made.append(folder)
                folder.chmod(0o700)
                locks.enter_context(mark_in_use(folder))

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
            _remove_session(folder)
        latest = root / "session_latest"
        if latest.is_symlink() and not latest.exists():
            latest.unlink(missing_ok=True)
