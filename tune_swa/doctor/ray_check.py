"""Ray: what runs here already, what earlier sessions left, and whether it starts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tune_swa.child_process import Child, ChildError
from tune_swa.doctor.finding import Finding, note, ok, problem
from tune_swa.doctor.folders import ray_folder
from tune_swa.text import format_bytes

PROC = Path("/proc")
SERVERS = ("raylet", "gcs_server")
"""A Ray's own processes, by their names; all others go when these go."""
LEFT_BYTES = 1_000_000_000
"""What earlier sessions may leave before it is worth a word."""
START_SECONDS = 60.0


@dataclass(frozen=True)
class Server:
    """A process of Ray's."""

    pid: int
    name: str
    program: int | None
    """The Python program that started it and waits for it; None: there is none."""


def processes(proc: Path = PROC) -> Iterator[Finding]:
    """Rays that run on this machine."""
    found = list(servers(proc))
    used = sorted({server.program for server in found if server.program is not None})
    if used:
        programs = ", ".join(map(str, used))
        yield ok(
            "Ray", f"in use by process{'es' * (len(used) > 1)} {programs}; a search would share this machine"
        )
    alone = [server for server in found if server.program is None]
    if alone:
        pids = " ".join(str(server.pid) for server in alone)
        yield note(
            "Ray",
            f"runs without a program that waits for it (processes {pids}): of `ray start`, or left by a "
            "program that was killed. It keeps memory",
            f"If nobody uses it: kill {pids}. `ray stop` would end searches that run, too",
        )
    if not found:
        yield ok("Ray", "no Ray runs on this machine")


def servers(proc: Path = PROC) -> Iterator[Server]:
    """Ray's servers, by their number."""
    for pid in sorted(int(folder.name) for folder in proc.glob("[0-9]*")):
        with suppress(OSError, ValueError, IndexError):  # it has just ended
            # `pid (name) state parent ...`
            name, _, after = (proc / str(pid) / "stat").read_text().partition("(")[2].rpartition(")")
            if name in SERVERS and after.split()[0] != "Z":
                parent = int(after.split()[1])
                yield Server(pid, name, parent if _is_python(proc / str(parent)) else None)


def _is_python(process: Path) -> bool:
    """Not init, or what adopts processes in its place."""
    with suppress(OSError):
        return (
            b"python" in Path(os.fsdecode((process / "cmdline").read_bytes().split(b"\0")[0])).name.encode()
        )
    return False


def sessions(folder: Path | None = None, proc: Path = PROC) -> Iterator[Finding]:
    """Folders of sessions that have ended."""
    root = (ray_folder() if folder is None else folder) / "ray"
    ended, total = 0, 0
    for session in sorted(root.glob("session_*_*")):
        if session.is_symlink() or (proc / session.name.rpartition("_")[2]).exists():
            continue
        ended += 1
        for base, _, names in os.walk(session):
            for name in names:
                with suppress(OSError):
                    total += (Path(base) / name).lstat().st_size
    if total > LEFT_BYTES:
        yield note(
            "Ray",
            f"{ended} sessions that have ended left {format_bytes(total)} in {root}",
            f"Remove the folders {root}/session_* while no Ray runs",
        )
    elif ended:
        sessions = "1 session that has ended" if ended == 1 else f"{ended} sessions that have ended"
        yield ok("Ray", f"{sessions} left {format_bytes(total)} in {root}")


def starts() -> Iterator[Finding]:
    """Start one, as a search would, and stop it."""
    with Child("tune_swa.execution.ray_probe:start") as child:
        try:
            address = child.result(START_SECONDS)
        except ChildError as error:
            yield problem(
                "Ray",
                str(error),
                f"See the newest logs in {ray_folder() / 'ray' / 'session_latest' / 'logs'}",
            )
            return
    if address == "127.0.0.1":
        yield ok("Ray", "starts on the loopback interface, and runs a task")
    else:
        yield problem(
            "Ray",
            f"starts, but listens at {address}, where other machines may reach it",
            "Unset the environment variables whose names begin with RAY_",
        )


def joins(address: str) -> Iterator[Finding]:
    """Join the cluster of `--address`, and list its computers."""
    with Child("tune_swa.execution.ray_probe:join", address) as child:
        try:
            computers = child.result(START_SECONDS)
        except ChildError as error:
            yield problem(
                "cluster", str(error), "docs/cluster.md tells how to start a cluster and to join it"
            )
            return
    listed = ", ".join(f"{c['name']} ({c['gpus']} GPUs, {c['cpus']} cores)" for c in computers)
    yield ok("cluster", f"{address}: {listed}. Everything else said here is of this machine alone")
