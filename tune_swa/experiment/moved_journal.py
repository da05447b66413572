"""Notice that a journal was moved, renamed or removed while a search writes to it.

The system keeps an open file wherever it goes, so a search could write on for days to one that nobody finds.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from tune_swa.files import replace_file

KEPT = "journal.kept.jsonl"
"""What was recorded, where another file has taken the journal's place."""
_GONE = (FileNotFoundError, NotADirectoryError)


class JournalMovedError(OSError):
    """The journal is not at its path any more; says where it is, and what to do."""


class PlaceCheck:
    """Checks that an open file is still the one at its path.

    Args:
        path: where it was opened.
        descriptor: the open file.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path, self._descriptor = path, descriptor
        self._file_name = os.fspath(path)
        self._own = identify_file(os.fstat(descriptor))

    def check_in_place(self) -> None:
        """Do nothing if it is, at the cost of one call of the system. One that was removed is written back.

        Raises:
            JournalMovedError: it is not at its path any more.
        """
        taken = False
        try:
            if identify_file(os.stat(self._file_name)) == self._own:  # noqa: PTH116 - a Path costs as much again
                return
            taken = True
        except _GONE:
            pass
        except OSError:  # no access, or a server that does not answer: nothing is known
            return
        _refuse_moved(self._path, self._descriptor, taken=taken)


def identify_file(stat: os.stat_result) -> tuple[int, int]:
    """Return what tells a file from all others of the machine."""
    return stat.st_dev, stat.st_ino


def _refuse_moved(path: Path, descriptor: int, *, taken: bool) -> None:
    own = os.fstat(descriptor)
    if own.st_nlink == 0:
        raise JournalMovedError(_keep_removed(path, descriptor, taken=taken))
    try:
        present = Path(f"/proc/self/fd/{descriptor}").readlink()
    except OSError:
        raise JournalMovedError(
            f"{path}: was moved while the search wrote to it. Move it back, then continue with --resume"
        ) from None
    if present == path.resolve():  # a file system whose numbers of files change
        return
    raise JournalMovedError(_describe_move(path, present))


def _describe_move(path: Path, present: Path) -> str:
    if present.name != path.name or path.parent.exists():
        return (
            f"{path}: was moved while the search wrote to it, and is {present} now. Move it back, then "
            "continue with --resume"
        )
    was, now = path.parent, present.parent
    while was.name == now.name and not was.parent.exists():  # it is a folder above that was moved
        was, now = was.parent, now.parent
    back = shlex.join(["mv", str(now), str(was)])
    return (
        f"{was}: was moved or renamed while the search wrote to it, and is {now} now. Move it back "
        f"(`{back}`), then continue with --resume"
    )


def _keep_removed(path: Path, descriptor: int, *, taken: bool) -> str:
    """Write what a removed file holds beside its place, or in it if that is free; say where it is."""
    if not path.parent.is_dir():
        return f"{path.parent}: was removed while the search wrote to it. Start it again without --resume"
    kept = path.with_name(KEPT) if taken else path
    try:
        replace_file(kept, lambda to: _copy_descriptor(descriptor, to))
    except OSError as error:
        return f"{path}: was removed while the search wrote to it, and cannot be written back ({error})"
    if taken:
        return (
            f"{path}: another file has taken its place while the search wrote to it. What the search has "
            f"recorded is in {kept}: give that file the name {path.name}, then continue with --resume"
        )
    return (
        f"{path}: was removed while the search wrote to it, and has been written back. Continue with --resume"
    )


def _copy_descriptor(descriptor: int, to: Path) -> None:
    at = 0
    with to.open("wb") as file:
        while block := os.pread(descriptor, 1 << 20, at):
            file.write(block)
            at += len(block)
