"""Temporary folders that are removed by a later process if the one that made them was killed."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tune_swa.files import hold_lock, is_locked

PREFIX = "tune_swa-"
IN_USE = ".in-use"
"""In each of these folders: the file that its process locks while it lives."""
FRESH_SECONDS = 60.0
"""A folder younger than this may be about to be locked."""


@contextmanager
def scratch_folder(purpose: str = "") -> Iterator[Path]:
    """Make a folder of this user alone in TMPDIR; remove it afterwards."""
    made = tempfile.TemporaryDirectory(prefix=f"{PREFIX}{purpose}", ignore_cleanup_errors=True)
    with made as name, mark_in_use(Path(name)):
        yield Path(name)


@contextmanager
def mark_in_use(folder: Path) -> Iterator[None]:
    """Mark a folder as in use while this process lives; where there are no locks, nobody will remove it."""
    with ExitStack() as lock:
        with suppress(OSError):
            lock.enter_context(hold_lock(folder / IN_USE, wait=False))
        yield


def remove_leftovers(root: Path | None = None, names: str = f"{PREFIX}*") -> None:
    """Remove the marked folders of this user whose processes have gone.

    Args:
        root: where they are; default: TMPDIR.
        names: pattern of their names.
    """
    for folder in (root or Path(tempfile.gettempdir())).glob(names):
        with suppress(OSError):  # it has just been removed, or its lock cannot be read
            found = folder.lstat()
            ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
            fresh = time.time() - found.st_mtime < FRESH_SECONDS
            if ours and not fresh and (folder / IN_USE).exists() and not is_locked(folder / IN_USE):
                shutil.rmtree(folder, ignore_errors=True)
