"""Check Ray: what runs here, and whether it starts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tune_swa.child_process import Child
from tune_swa.doctor.findings import Finding
from tune_swa.execution.first_worker import GIVE_UP_SECONDS
from tune_swa.execution.ray_environment import STARTUP_SECONDS

PROC = Path("/proc")
SERVERS = ("raylet", "gcs_server")
"""Ray's own processes; all others end when these do."""
START_SECONDS = STARTUP_SECONDS + GIVE_UP_SECONDS
"""As long as a search waits for Ray and its first worker."""


def check_processes(proc: Path = PROC) -> Iterator[Finding]:
    """List the programs that use Ray on this machine, and servers of Ray's that no program waits for."""
    programs, orphans = set(), []
    for pid in sorted(int(folder.name) for folder in proc.glob("[0-9]*")):
        with suppress(OSError, ValueError, IndexError):  # it has just ended
            # `pid (name) state parent ...`
            name, _, after = (proc / str(pid) / "stat").read_text().partition("(")[2].rpartition(")")
            state, parent = after.split()[:2]
            if name not in SERVERS or state == "Z":
                continue
            if b"python" in (proc / parent / "cmdline").read_bytes().split(b"\0")[0].rpartition(b"/")[2]:
                programs.add(int(parent))
            else:  # init, or what adopts processes in its place
                orphans.append(pid)
    if programs:
        pids = ", ".join(map(str, sorted(programs)))
        text = f"in use by process{'es' * (len(programs) > 1)} {pids}; a search would share this machine"
        yield Finding("ok", "Ray", text)
    if orphans:
        pids = " ".join(map(str, orphans))
        text = f"processes {pids} are of `ray start`, or of a program that was killed. They keep memory"
        remedy = f"If nobody uses them: kill {pids}. `ray stop` would end running searches, too"
        yield Finding("note", "Ray", text, remedy)
    if not programs and not orphans:
        yield Finding("ok", "Ray", "no Ray runs on this machine")


def check_start() -> Iterator[Finding]:
    """Start Ray as a search would, and stop it."""
    with Child("tune_swa.execution.ray_probe:start") as child:
        address = child.result(START_SECONDS)
    if address == "127.0.0.1":
        yield Finding("ok", "Ray", "starts on the loopback interface, and runs a task")
    else:
        text = f"starts, but listens at {address}, where other machines may reach it"
        remedy = "Unset the environment variables whose names begin with RAY_"
        yield Finding("problem", "Ray", text, remedy)


def check_cluster(address: str) -> Iterator[Finding]:
    """Join the cluster of `--address`, and list its nodes."""
    with Child("tune_swa.execution.ray_probe:join", address) as child:
        nodes = child.result(START_SECONDS)
    listed = ", ".join(f"{node['name']} ({node['gpus']} GPUs, {node['cpus']} cores)" for node in nodes)
    text = f"{address}: {listed}. All other findings are about this machine alone"
    yield Finding("ok", "cluster", text)
