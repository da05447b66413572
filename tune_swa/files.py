"""Write files whole, lock them, and read paths as people write them."""

from __future__ import annotations

import fcntl
import os
import pwd
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tune_swa.errors import RequestError

Writer = Callable[[Path], object]
"""Writes the file at the path that it is given."""


def replace_files(writers: Mapping[Path, Writer], *, exclusive: bool = True) -> None:
    """Write files under temporary names beside their own, then rename all of them.

    All are complete on the disk before the first is renamed, so a full disk or a kill leaves the old files.

    Args:
        writers: what writes each file.
        exclusive: whether this process is the only one that writes them. The temporary names are then always
            the same, so that what a kill leaves is written over.

    Raises:
        OSError: the disk refused. The files are as they were.
    """
    suffix = "tmp" if exclusive else f"{os.getpid()}.tmp"
    temporary = {path: path.with_name(f".{path.name}.{suffix}") for path in writers}
    try:
        for path, write in writers.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write(temporary[path])
            sync_file(temporary[path])  # a rename may reach the disk before the bytes do
        for path, written in temporary.items():
            written.replace(path)
    finally:
        for written in temporary.values():
            written.unlink(missing_ok=True)


def replace_file(path: Path, write: Writer | bytes, *, exclusive: bool = True) -> None:
    """Write one file whole or not at all; see `replace_files`.

    Args:
        path: where.
        write: what writes it, or its content.
        exclusive: whether this process is the only one that writes it.

    Raises:
        OSError: the disk refused. The file is as it was.
    """
    writer: Writer = (lambda temporary: temporary.write_bytes(write)) if isinstance(write, bytes) else write
    replace_files({path: writer}, exclusive=exclusive)


def sync_file(path: Path) -> None:
    """Have what was written to a file on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


class NoLocksError(OSError):
    """The file system has no locks."""


@contextmanager
def hold_lock(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Take the lock at `path` and hold it; the system frees it when the process dies.

    The file stays: removing it would let a third process lock a new file of that name while a second one
    waits for the old.

    Args:
        path: the lock's file, which is made where it is missing.
        wait: for another process that holds it.

    Raises:
        BlockingIOError: another process holds it, and `wait` is false.
        NoLocksError: the file system has no locks.
        OSError: the file cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        _lock_descriptor(file.fileno(), fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock at `path` now.

    Raises:
        NoLocksError: the file system has no locks.
        OSError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            _lock_descriptor(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)  # freed on closing
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _lock_descriptor(descriptor: int, operation: int) -> None:
    try:
        fcntl.flock(descriptor, operation)
    except BlockingIOError:
        raise
    except OSError as error:
        raise NoLocksError(error.errno, f"its file system has no locks ({error.strerror})") from None


def expand_home(path: str | Path, given_by: str) -> Path:
    """Replace a leading `~` or `~USER` by that user's home folder.

    Args:
        path: as it was given.
        given_by: the option or setting that gave it, for the message.

    Raises:
        RequestError: there is no such user.
    """
    if str(path).startswith("./~"):  # which pathlib would take for a home once it has dropped the dot
        return Path.cwd() / str(path)[2:]
    try:
        if Path(path).parts[:1] == ("~",) and Path.home() == _folder_of_our_own("home"):
            raise RuntimeError  # a stand-in
        return Path(path).expanduser()
    except RuntimeError:  # which pathlib raises for this
        user = Path(path).parts[0]
        raise RequestError(
            f"{given_by} {path}: no home folder is known for {user}. Write the whole path, or ./{path} for a "
            "folder of that name"
        ) from None


def is_writable(folder: Path) -> bool:
    """Whether a folder can be written to, or made where it is missing. Writes nothing."""
    if not folder.is_absolute():
        return False
    existing = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def give_user_a_home() -> None:
    """Set the variables by which Ray and torch find a home folder and a name, for a user who has none.

    So it is in containers that run as a user whom they do not know. Where there is a home folder that cannot
    be written to, only torch is led elsewhere.
    """
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        if not any(os.environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
            os.environ["USER"] = f"uid-{os.getuid()}"
        if not os.environ.get("HOME"):
            os.environ["HOME"] = str(private_folder("home"))
    if not os.environ.get("TORCH_HOME") and not os.environ.get("XDG_CACHE_HOME") and not has_home():
        os.environ["TORCH_HOME"] = str(private_folder("torch"))


def has_home() -> bool:
    """Whether this user has a home folder that can be written to."""
    try:
        return is_writable(Path.home())
    except RuntimeError:  # HOME is not set, and the user is not in the system's list
        return False


def private_folder(purpose: str) -> Path:
    """Name a folder for temporary files that is this user's alone, the same in every process.

    Raises:
        RequestError: it cannot be made, or somebody else has made it.
    """
    folder = _folder_of_our_own(purpose)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise RequestError(
            f"{folder}: cannot be made ({error.strerror}). Name another folder in TMPDIR"
        ) from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise RequestError(
            f"{folder}: belongs to somebody else, or others may write there. Remove it, or name another "
            "folder for temporary files in the environment variable TMPDIR"
        )
    return folder


def _folder_of_our_own(purpose: str) -> Path:
    return Path(tempfile.gettempdir()) / f"tune_swa-{purpose}-{os.getuid()}"


def refuse_strange_files(folder: Path) -> None:
    """Refuse a results folder with links that lead outside, or pipes, before anything is written there.

    A folder that came from elsewhere could otherwise have a search write to, and remove, files that are not
    its own, or wait for ever at a pipe. Links within the folder are harmless; wandb makes some. `folder` may
    be a link itself: whoever starts the search has named it.

    Args:
        folder: of an experiment; need not exist.

    Raises:
        RequestError: naming the file, and for a link where it leads.
    """
    inside = os.path.realpath(folder)
    for parent, folders, files in os.walk(folder):  # which does not follow links
        for path in (Path(parent, name) for name in (*folders, *files)):
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                _refuse_link_outside(path, inside)
            elif not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise RequestError(
                    f"{path}: is a pipe, a socket or a device, which a search does not write. Remove it"
                )


def _refuse_link_outside(path: Path, inside: str) -> None:
    target = os.path.realpath(path)
    if not Path(target).is_relative_to(inside):
        raise RequestError(
            f"{path}: is a link that leads out of the experiment's folder, to {target}. Nothing is written "
            "through it. Remove the link, or put what it leads to in its place"
        )
    try:
        path.stat()
    except FileNotFoundError:
        pass
    except OSError as error:  # it leads to itself
        raise RequestError(
            f"{path}: is a link that cannot be followed ({error.strerror}). Remove it"
        ) from None
