"""The environment that Ray's own processes get, whatever the user's shell has set.

Ray and Tune read some hundred variables. Those that lead to another Ray, or change how Tune runs trials,
have been set for other programs; and some folders that they name are of no use to Ray.
"""

from __future__ import annotations

import importlib
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tune_swa.errors import RequestError
from tune_swa.files import expand_home, is_writable
from tune_swa.text import first_line

STARTUP_SECONDS = 300.0
"""How long Ray's node process may take to start: its agents import much, from disks that may be slow."""
POLL_SECONDS = 0.05
LONGEST_PATH = 107
"""Bytes in the path of a socket (Linux)."""
SOCKET_PATH = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""What Ray adds to its folder."""

_TUNE = ("TUNE_", "RAY_AIR_", "RAY_TRAIN_", "RAY_CHDIR_")
"""How names of variables begin by which Tune runs trials in another way."""
_OURS = "TUNE_SWA_"
_ELSEWHERE = (
    "RAY_ADDRESS",
    "RAY_API_SERVER_ADDRESS",
    "RAY_AUTH_TOKEN",
    "RAY_CLIENT_MODE",
    "RAY_JOB_",
    "RAY_LOGGING_CONFIG_ENCODING",
    "RAY_NAMESPACE",
    "RAY_OVERRIDE_",
    "RAY_REDIS_ADDRESS",
    "RAY_RUNTIME_ENV",
    "RAY_START_HOOK",
)
"""How names of variables begin that lead to another Ray, or have it prepare workers in another way."""


def concerns_tune(name: str) -> bool:
    """Whether a variable changes how Tune runs trials, which is for the search alone to decide."""
    return name.startswith(_TUNE) and not name.startswith(_OURS)


def concerns_ray(name: str) -> bool:
    """Whether a variable is one of Ray's or Tune's, or set for their processes."""
    return name.startswith(("RAY_", "TUNE_", "MALLOC_ARENA_")) and not name.startswith(_OURS)


@contextmanager
def local_ray_environment() -> Iterator[None]:
    """The environment of a Ray of our own on this machine; afterwards Ray's variables are as they were.

    It gets a token of its own, which is written nowhere: a search needs no home folder for it, and no other
    Ray of this user, or of a cluster, has to know it.

    Raises:
        RequestError: there is no folder for its sockets.
    """
    with kept_variables():
        folder = choose_folder()
        for name in [name for name in os.environ if name.startswith(_ELSEWHERE)]:
            del os.environ[name]
        os.environ["RAY_TMPDIR"] = str(folder)
        if os.environ.setdefault("RAY_AUTH_MODE", "token").lower() == "token":
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        _forget_token()
        yield


@contextmanager
def kept_variables() -> Iterator[None]:
    """Give back Ray's variables as they were, whoever changes them meanwhile."""
    before = {name: value for name, value in os.environ.items() if concerns_ray(name)}
    try:
        yield
    finally:
        for name in [name for name in os.environ if concerns_ray(name)]:
            del os.environ[name]
        os.environ.update(before)
        _forget_token()


def _forget_token() -> None:
    """Have Ray read its token, and whether it wants one, again."""
    raylet: Any = importlib.import_module("ray._raylet")
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


def choose_folder() -> Path:
    """Choose the folder for Ray's sockets, logs and objects: RAY_TMPDIR, TMPDIR, or /tmp. It is made.

    The path of a socket holds 107 bytes. Where those of TMPDIR do not fit, /tmp has to do.

    Raises:
        RequestError: RAY_TMPDIR cannot be used, or neither of the others can.
    """
    named = os.environ.get("RAY_TMPDIR")
    if named:
        folder = expand_home(named, "RAY_TMPDIR").absolute()
        if reason := _refuse_folder(folder):
            raise RequestError(
                f"RAY_TMPDIR={named}: {reason}. Name another folder, or unset it to use TMPDIR or /tmp"
            )
        return folder
    reasons = []
    for folder in dict.fromkeys((Path(os.environ.get("TMPDIR") or "/tmp").absolute(), Path("/tmp"))):
        reason = _refuse_folder(folder)
        if reason is None:
            return folder
        reasons.append(f"{folder} {reason}")
    raise RequestError(
        f"Ray has no folder for its sockets and logs: {'; '.join(reasons)}. Name one with a short path in "
        "the environment variable RAY_TMPDIR"
    )


def foresee_folder() -> Path:
    """Return the folder that `choose_folder` will choose, as far as can be seen without making any.

    Raises:
        RequestError: the path of RAY_TMPDIR is none for Ray.
    """
    named = os.environ.get("RAY_TMPDIR")
    if named:
        folder = expand_home(named, "RAY_TMPDIR").absolute()
        if reason := refuse_path(folder):
            raise RequestError(f"RAY_TMPDIR={named}: {reason}")
        return folder
    folder = Path(os.environ.get("TMPDIR") or "/tmp").absolute()
    return folder if refuse_path(folder) is None and is_writable(folder) else Path("/tmp")


def refuse_path(folder: Path) -> str | None:
    """Return why Ray cannot use a folder of this path, which need not exist; None if it can."""
    room = LONGEST_PATH - len(SOCKET_PATH)
    if len(os.fsencode(folder)) > room:
        return f"its path is too long for Ray's sockets ({len(os.fsencode(folder))} bytes; at most {room})"
    if not str(folder).isascii():
        return "its path has characters that Ray cannot read (other than ASCII)"
    return None


def _refuse_folder(folder: Path) -> str | None:
    """Return why Ray cannot use a folder, which is made; None if it can."""
    if reason := refuse_path(folder):
        return reason
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return f"cannot be written to ({error.strerror or first_line(error)})"


@contextmanager
def patient_start(
    seconds: float = STARTUP_SECONDS,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> Iterator[None]:
    """Have `ray.init` wait for its node process longer than the 30 seconds that it has built in.

    It waits as long as that process lives. Ray's own look at the node, made before it is there, sleeps for a
    second until the next one, so it is made after.
    """
    services: Any = importlib.import_module("ray._private.services")
    get_node, end = services.get_node, clock() + seconds

    def wait_for_node(*given: Any, **named: Any) -> Any:
        await_node(given[0], lambda: clock() > end or not has_child("raylet"))
        while True:
            try:
                return get_node(*given, **named)
            except RuntimeError:
                if clock() > end or not has_child("raylet"):
                    raise
            sleep(0.2)

    services.get_node = wait_for_node
    try:
        yield
    finally:
        services.get_node = get_node


def await_node(address: str, is_over: Callable[[], bool]) -> None:
    """Wait until Ray's server at this address knows of a node, or until it is over."""
    raylet: Any = importlib.import_module("ray._raylet")
    client = raylet.GcsClient(address=address)
    while not client.get_all_node_info() and not is_over():
        time.sleep(POLL_SECONDS)


def has_child(name: str) -> bool:
    """Whether a process of this name is a child of this one, and has not ended."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text(errors="replace")
        except OSError:  # it has just ended
            continue
        title, _, rest = text.partition("(")[2].rpartition(")")
        state, parent = rest.split()[:2]
        if title == name and int(parent) == os.getpid() and state != "Z":
            return True
    return False
