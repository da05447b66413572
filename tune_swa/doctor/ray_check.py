"""Check Ray: what runs here, what earlier sessions left, and whether it starts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tune_swa.child_process import Child
from tune_swa.doctor.findings import Finding
from tune_swa.doctor.folders import find_ray_folder
from tune_swa.text import format_bytes

PROC = Path("/proc")
SERVERS = ("raylet", "gcs_server")
"""Ray's own processes; all others end when these do."""
LEFT_BYTES = 1_000_000_000
"""What earlier sessions may leave before it is worth a note."""
START_SECONDS = 60.0


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


def check_sessions(folder: Path | None = None, proc: Path = PROC) -> Iterator[Finding]:
    """Add up the folders of sessions that have ended."""
    root = (folder or find_ray_folder()) / "ray"
    ended = [
        session
        for session in root.glob("session_*_*")
        if not session.is_symlink() and not (proc / session.name.rpartition("_")[2]).exists()
    ]
    total = 0
    for session in ended:
        for path in session.rglob("*"):
            with suppress(OSError):  # it has just been removed
                total += path.lstat().st_size if not path.is_dir() else 0
    if ended:
        text = f"ended sessions in {root}: {len(ended)} ({format_bytes(total)})"
        if total > LEFT_BYTES:
            yield Finding("note", "Ray", text, f"Remove the folders {root}/session_* while no Ray runs")
        else:
            yield Finding("ok", "Ray", text)


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
