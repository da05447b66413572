"""Check the folders that a search writes to, with a small file in each."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tune_swa.child_process import Child
from tune_swa.doctor.findings import Finding
from tune_swa.errors import RequestError
from tune_swa.execution.ray_environment import foresee_folder
from tune_swa.files import hold_lock, is_locked, replace_file
from tune_swa.text import first_line, format_bytes

NETWORK_TYPES = ("nfs", "cifs", "smb", "fuse", "lustre", "gpfs", "beegfs", "ceph", "9p", "virtiofs", "afs")
"""Prefixes of names of network file systems."""
TRANSIENT_TYPES = {
    "tmpfs": "the machine is restarted",
    "ramfs": "the machine is restarted",
    "overlay": "the container is removed",
}
STORAGE_SECONDS = 30.0


def check_results_folder(folder: Path) -> Iterator[Finding]:
    """Check the folder of the journal, its lock and the checkpoints."""
    elsewhere = "Choose a folder on a local disk with --results-dir"
    # three checkpoints of one trial: model, average and Adam's two moments
    yield from _check_folder("results", folder, 600_000_000, 5_000_000_000, elsewhere, lasting=True)


def check_cache_folder() -> Iterator[Finding]:
    """Check the folder of decoded images."""
    from tune_swa.data.cache import cache_folder

    elsewhere = "Name a folder on a local disk in the environment variable TUNE_SWA_CACHE"
    yield from _check_folder("image cache", cache_folder(), 100_000_000, 2_000_000_000, elsewhere)


def check_ray_folder() -> Iterator[Finding]:
    """Check the folder of Ray's sessions."""
    elsewhere = "Name a folder on a local disk, with a short path, in the environment variable RAY_TMPDIR"
    try:
        folder = foresee_folder()
    except RequestError as error:
        yield Finding("problem", "temporary", str(error), elsewhere)
        return
    yield from _check_folder("temporary", folder, 200_000_000, 1_000_000_000, elsewhere, locks=False)


def _check_folder(
    area: str,
    folder: Path,
    least: int,
    comfortable: int,
    elsewhere: str,
    *,
    locks: bool = True,
    lasting: bool = False,
) -> Iterator[Finding]:
    """Try one folder, and look at its free space.

    Args:
        area: of the finding.
        folder: need not exist.
        least: free bytes without which nothing works.
        comfortable: free bytes below which a long search may end early.
        elsewhere: how to choose another one.
        locks: whether files there are locked.
        lasting: whether they have to outlive the search.
    """
    folder = folder.expanduser().absolute()
    existing = _find_existing(folder)
    try:
        _try_folder(existing, locks=locks)
    except OSError as error:
        text = f"{folder} cannot be used ({existing}: {error.strerror or first_line(error)})"
        yield Finding("problem", area, text, elsewhere)
        return
    kind, free = find_file_system(existing), shutil.disk_usage(existing).free
    made = "" if folder.exists() else ", will be made"
    text = f"{folder} ({kind}{made}): {format_bytes(free)} free"
    if free < least:
        text += f", {format_bytes(least)} are needed"
        yield Finding("problem", area, text, f"Free space there. {elsewhere}")
    elif free < comfortable:
        text += ", which a long search may fill"
        yield Finding("note", area, text, f"Free space there. {elsewhere}")
    elif locks and kind.startswith(NETWORK_TYPES):
        # locks were only tried among processes of this machine
        yield Finding("note", area, f"{text}; a network file system, whose locks may fail", elsewhere)
    elif lasting and kind in TRANSIENT_TYPES:
        text += f"; what is written there is lost when {TRANSIENT_TYPES[kind]}"
        yield Finding("note", area, text, elsewhere)
    else:
        yield Finding("ok", area, f"{text}; writing{' and locking work' if locks else ' works'}")


def _find_existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    return next(path for path in (folder, *folder.parents) if os.path.lexists(path))


def _try_folder(folder: Path, *, locks: bool) -> None:
    """Write, rename and lock a file as a search does.

    Raises:
        OSError: it does not work.
    """
    scratch = Path(tempfile.mkdtemp(prefix=".tune_swa-doctor-", dir=folder))
    try:
        file = scratch / "file"
        replace_file(file, bytes(1 << 20))
        if locks:
            with hold_lock(file, wait=False):
                if not is_locked(file):
                    raise OSError(errno.ENOLCK, "its file system gives one lock to two at once")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def find_file_system(path: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """Return the type of the file system that `path` is on, such as ext4."""
    found, longest = "unknown file system", -1
    with suppress(OSError):
        for line in mounts.read_text(errors="replace").splitlines():
            _, point, kind, *_ = line.split(" ")
            point = point.replace("\\040", " ")
            if path.resolve().is_relative_to(point) and len(point) >= longest:
                found, longest = kind, len(point)
    return found


def check_storage(uri: str) -> Iterator[Finding]:
    """Write, read and remove a file where `--storage` puts the checkpoints."""
    with Child("tune_swa.doctor.folders:try_storage", uri) as child:
        child.result(STORAGE_SECONDS)
    yield Finding("ok", "storage", f"{uri}: writing, reading and removing work")


def try_storage(uri: str) -> None:
    """Do that, in a process of its own."""
    from tune_swa.storage import check_usable, open_store

    check_usable(open_store(uri), "--storage")
