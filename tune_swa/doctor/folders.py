"""Folders that a search writes to: each is tried with a small file, which is removed again."""

from __future__ import annotations

import errno
import mmap
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tune_swa.child_process import Child, ChildError
from tune_swa.doctor.finding import Finding, note, ok, problem
from tune_swa.files import hold_lock, is_locked, replace_file
from tune_swa.text import first_line, format_bytes

NETWORK_TYPES = ("nfs", "cifs", "smb", "fuse", "lustre", "gpfs", "beegfs", "ceph", "9p", "virtiofs", "afs")
"""How names of file systems begin that other machines, or a program, stand behind."""
TRIED_BYTES = 1 << 20
SOCKET_PATH_BYTES = 107
"""Longest path of a socket on Linux."""
SOCKET_OF_A_SESSION = "ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""The longest of those that Ray makes below its temporary folder."""


@dataclass(frozen=True)
class Place:
    """A folder, and what a search wants of it."""

    area: str
    folder: Path
    least: int
    """Free bytes without which nothing works."""
    comfortable: int
    """Free bytes below which a long search may end early."""
    elsewhere: str
    """How to choose another one."""
    locks: bool = True
    mapped: bool = False
    """Whether files there are mapped into memory."""
    sockets: bool = False
    lasting: bool = False
    """Whether it has to outlive the search."""


def results(folder: Path) -> Place:
    """Where the journal, its lock and the checkpoints go."""
    return Place(
        "results",
        folder,
        least=600_000_000,  # three checkpoints of one trial: model, average and Adam's two moments
        comfortable=5_000_000_000,
        elsewhere="Choose a folder on a local disk with --results-dir",
        lasting=True,
    )


def image_cache(folder: Path) -> Place:
    """Where decoded images go."""
    return Place(
        "image cache",
        folder,
        least=100_000_000,
        comfortable=2_000_000_000,
        elsewhere="Name a folder on a local disk in the environment variable TUNE_SWA_CACHE",
        mapped=True,
    )


def temporary() -> Place:
    """Where Ray keeps its sessions."""
    return Place(
        "temporary",
        ray_folder(),
        least=200_000_000,
        comfortable=1_000_000_000,
        elsewhere="Name a folder on a local disk, with a short path, in the environment variable RAY_TMPDIR",
        locks=False,
        sockets=True,
    )


def ray_folder() -> Path:
    """Ray's temporary folder, as Ray chooses it."""
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")


def check_place(place: Place) -> Iterator[Finding]:
    """Try one folder, and look at the room there."""
    area, folder = place.area, place.folder.expanduser().absolute()
    existing = _existing(folder)
    try:
        if place.sockets:
            _check_length(folder)
        _try(existing, place)
    except OSError as error:
        reason = f"{existing}: {error.strerror or first_line(error)}"
        full = "Free space there. " if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        yield problem(area, f"{folder} cannot be used ({reason})", f"{full}{place.elsewhere}")
        return
    kind = file_system(existing)
    free = shutil.disk_usage(existing).free
    made = "" if folder.exists() else ", will be made"
    text = f"{folder} ({kind}{made}): {format_bytes(free)} free"
    if free < place.least:
        yield problem(
            area, f"{text}, {format_bytes(place.least)} are needed", f"Free space there. {place.elsewhere}"
        )
    elif free < place.comfortable:
        yield note(area, f"{text}, which a long search may fill", f"Free space there. {place.elsewhere}")
    elif place.locks and kind.startswith(NETWORK_TYPES):
        # it was tried, but only among processes of this machine
        yield note(area, f"{text}; a network file system, whose locks may fail one day", place.elsewhere)
    elif place.lasting and kind in ("tmpfs", "ramfs", "overlay"):
        gone = "the container is removed" if kind == "overlay" else "the machine is restarted"
        yield note(area, f"{text}; what is written there is gone when {gone}", place.elsewhere)
    else:
        tried = "writing, renaming and locking" if place.locks else "writing and renaming"
        yield ok(area, f"{text}; {tried} work")


def check_storage(uri: str) -> Iterator[Finding]:
    """Write, read and remove a file where the checkpoints are to go."""
    with Child("tune_swa.doctor.folders:try_storage", uri) as child:
        try:
            child.result(30)
        except ChildError as error:
            yield problem("storage", str(error), "See that the place and your credentials are right")
        else:
            yield ok("storage", f"{uri}: writing, reading and removing work")


def try_storage(uri: str) -> None:
    """Do that, in a process of its own.

    Raises:
        RequestError: it does not work.
    """
    from tune_swa.storage import check_usable, open_store

    check_usable(open_store(uri), "--storage")


def file_system(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """The kind of file system that `path` is on, such as ext4."""
    found, longest = "unknown file system", -1
    with suppress(OSError):
        for line in mounts.read_text(errors="replace").splitlines():
            before, _, after = line.partition(" - ")
            # spaces are \040 there
            point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), before.split()[4])
            if path.resolve().is_relative_to(point) and len(point) >= longest:
                found, longest = after.split()[0], len(point)
    return found


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(path for path in (folder, *folder.parents) if os.path.lexists(path))


def _try(folder: Path, place: Place) -> None:
    """Do there what a search does.

    Raises:
        OSError: it does not work.
    """
    scratch = Path(tempfile.mkdtemp(prefix=".tune_swa-doctor-", dir=folder))
    try:
        final = scratch / "final"
        replace_file(final, bytes(TRIED_BYTES))
        if final.stat().st_size != TRIED_BYTES:
            raise OSError(errno.EIO, "what was written there was not kept")
        if place.locks:
            _try_lock(final)
        if place.mapped:
            with final.open("r+b") as written, mmap.mmap(written.fileno(), 0) as mapped:
                os.posix_fallocate(written.fileno(), 0, TRIED_BYTES)
                mapped[:4] = b"swa\n"
                mapped.flush()
        if place.sockets:
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(str(scratch / "s"))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _try_lock(path: Path) -> None:
    with hold_lock(path, wait=False):
        if not is_locked(path):
            raise OSError(errno.ENOLCK, "its file system gives one lock to two at once")


def _check_length(folder: Path) -> None:
    length = len(os.fsencode(folder / SOCKET_OF_A_SESSION))
    if length > SOCKET_PATH_BYTES:
        too_much = length - SOCKET_PATH_BYTES
        raise OSError(errno.ENAMETOOLONG, f"its path is {too_much} bytes too long for Ray's sockets")
