"""Keep checkpoints in a folder, or in an object store that all machines of a cluster see.

A file is there whole or not at all in a folder. Object stores promise the same for an object; where
a remote file system does not, a torn upload is a damaged checkpoint, and readers fall back to the
one before.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from tune_swa.errors import RequestError
from tune_swa.files import expand_home, replace_file
from tune_swa.scratch import scratch_folder
from tune_swa.text import first_line

ATTEMPTS = 3
"""Attempts on a remote store before its error counts."""
PAUSE_SECONDS = 1.0
"""Seconds before the second attempt; twice as long before the third."""


class Store(Protocol):
    """Files below one root, named by relative POSIX paths."""

    @property
    def where(self) -> str:
        """The root as a person writes it."""

    def names(self, folder: str) -> list[str]:
        """Names of the files in `folder`, sorted; none where there is no such folder.

        Raises:
            OSError: it cannot be read.
        """

    def folders(self, folder: str) -> list[str]:
        """Names of the folders in `folder`, sorted; none where there is no such folder.

        Raises:
            OSError: it cannot be read.
        """

    def write(self, name: str, write: Callable[[Path], object]) -> None:
        """Have `write(path)` write a file of its own, which then becomes `name`.

        Raises:
            OSError: there is no room, or no access. What `name` held before is as it was.
        """

    def local(self, name: str) -> AbstractContextManager[Path]:
        """A path of this machine at which `name` can be read.

        Raises:
            OSError: it is missing or cannot be read.
        """

    def remove(self, name: str) -> None:
        """Remove a file if it is there."""

    def keep_only(self, folder: str, names: set[str]) -> None:
        """Remove from `folder` all files but `names`, half-written ones included; without any, itself."""


def open_store(where: str | Path, *below: str) -> Store:
    """The store at a folder or a URI (`s3://bucket/path`, `file:///path`, any that fsspec knows).

    Args:
        where: a folder's path, or a URI.
        below: folders below it that become the root.

    Raises:
        RequestError: it is below the home of a user that is not known.
    """
    root = resolved(where)
    if "://" in root:
        return RemoteStore("/".join([root, *below]))
    return FolderStore(Path(root).joinpath(*below))


def resolved(where: str | Path) -> str:
    """The one way to write a folder or a URI, which is the same from every folder that one is in.

    Raises:
        RequestError: it is below the home of a user that is not known.
    """
    scheme, colon, path = str(where).partition("://")
    if colon:
        return f"{scheme}://{path.rstrip('/')}"
    # a link stays one: it may lead elsewhere on another machine
    return os.path.abspath(expand_home(where, "--storage"))  # noqa: PTH100


class FolderStore:
    """A folder of this machine, or of a file system that all machines mount."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def where(self) -> str:
        return str(self.root)

    def names(self, folder: str) -> list[str]:
        return self._list(folder, os.DirEntry.is_file)

    def folders(self, folder: str) -> list[str]:
        return self._list(folder, os.DirEntry.is_dir)

    def _list(self, folder: str, wanted: Callable[[os.DirEntry[str]], bool]) -> list[str]:
        try:
            with os.scandir(self.root / folder) as entries:
                return sorted(e.name for e in entries if wanted(e) and not e.name.startswith("."))
        except FileNotFoundError:
            return []

    def _path(self, name: str) -> Path:
        """The path of `name`, which is below the root, links on the way considered.

        Raises:
            OSError: it is not.
        """
        path = self.root / name
        inside = self.root.resolve()
        # the last part is replaced or removed, not followed
        if ".." in path.parts or not (path.parent.resolve() / path.name).is_relative_to(inside):
            raise OSError(errno.EPERM, "a name or a link leads out of the folder", str(path))
        return path

    def write(self, name: str, write: Callable[[Path], object]) -> None:
        if not self.root.is_dir():  # moved or removed: made again, it would be in the way of moving it back
            raise FileNotFoundError(errno.ENOENT, "the folder is not there any more", str(self.root))
        replace_file(self._path(name), write, exclusive=False)

    def local(self, name: str) -> AbstractContextManager[Path]:
        return nullcontext(self.root / name)

    def remove(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)

    def keep_only(self, folder: str, names: set[str]) -> None:
        path = self._path(folder)
        if path.is_symlink():
            raise OSError(errno.EPERM, "is a link, whose files are not removed", str(path))
        if not names:
            shutil.rmtree(path, ignore_errors=True)
            return
        for file in path.glob("*"):
            if file.name not in names:
                file.unlink(missing_ok=True)


class RemoteStore:
    """A file system that pyarrow or fsspec opens by its URI. Connects when it is first used."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._opened: tuple[Any, PurePosixPath] | None = None

    @property
    def where(self) -> str:
        return self._uri

    def names(self, folder: str) -> list[str]:
        return [f.base_name for f in self._list(folder) if f.is_file]

    def folders(self, folder: str) -> list[str]:
        return [f.base_name for f in self._list(folder) if not f.is_file]

    def _list(self, folder: str) -> list[Any]:
        from pyarrow.fs import FileSelector

        filesystem, root = self._filesystem()
        selector = FileSelector(str(root / folder), allow_not_found=True)
        found = _with_retries(lambda: filesystem.get_file_info(selector))
        return sorted((f for f in found if not f.base_name.startswith(".")), key=lambda f: f.base_name)

    def write(self, name: str, write: Callable[[Path], object]) -> None:
        filesystem, root = self._filesystem()
        target = root / name
        with scratch_folder() as scratch:
            source = scratch / target.name
            try:
                write(source)
            except OSError as error:  # it is this disk that refuses, not the store
                raise OSError(
                    error.errno,
                    f"{error.strerror or error} in {scratch.parent}, where uploads are made ready "
                    "(TMPDIR names another place)",
                ) from error

            def upload() -> None:
                filesystem.create_dir(str(target.parent), recursive=True)
                with source.open("rb") as file, filesystem.open_output_stream(str(target)) as stream:
                    shutil.copyfileobj(file, stream, 1 << 20)

            _with_retries(upload)

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        filesystem, root = self._filesystem()
        source = root / name
        with scratch_folder() as scratch:
            path = scratch / source.name

            def download() -> None:
                with filesystem.open_input_stream(str(source)) as stream, path.open("wb") as file:
                    shutil.copyfileobj(stream, file, 1 << 20)

            _with_retries(download)
            yield path

    def remove(self, name: str) -> None:
        filesystem, root = self._filesystem()
        with suppress(FileNotFoundError):
            _with_retries(lambda: filesystem.delete_file(str(root / name)))

    def keep_only(self, folder: str, names: set[str]) -> None:
        for name in self.names(folder):
            if name not in names:
                self.remove(f"{folder}/{name}")
        if not names:
            filesystem, root = self._filesystem()
            with suppress(FileNotFoundError):
                _with_retries(lambda: filesystem.delete_dir(str(root / folder)))

    def _filesystem(self) -> tuple[Any, PurePosixPath]:
        if self._opened is None:
            filesystem, root = _connect(self._uri)
            self._opened = filesystem, PurePosixPath(root)
        return self._opened

    def __getstate__(self) -> dict[str, Any]:
        """Connections do not travel."""
        return {"_uri": self._uri, "_opened": None}


def _connect(uri: str) -> tuple[Any, str]:
    """pyarrow's file system of a URI and the path on it; fsspec's where pyarrow has none.

    Raises:
        OSError: there is none for it, or it cannot be reached.
    """
    import pyarrow
    from pyarrow import fs

    try:
        filesystem, path = fs.FileSystem.from_uri(uri)
        return filesystem, path
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError, ImportError):
        import fsspec

        try:
            other, path = fsspec.core.url_to_fs(uri)
        except Exception as error:  # unknown, a package is missing, or it lacks a part of its own
            raise OSError(str(error) or type(error).__name__) from None
        return fs.PyFileSystem(fs.FSSpecHandler(other)), path


def _with_retries(action: Callable[[], Any]) -> Any:
    """Call `action`, up to `ATTEMPTS` times: a network may fail for a moment."""
    for attempt in range(ATTEMPTS):
        try:
            return action()
        except FileNotFoundError:
            raise
        except Exception as error:  # file systems raise errors of their own kinds
            if attempt == ATTEMPTS - 1:
                raise error if isinstance(error, OSError) else OSError(str(error)) from error
            time.sleep(PAUSE_SECONDS * 2**attempt)
    raise AssertionError("unreachable")


def check_usable(store: Store, option: str) -> None:
    """Write, read and remove a small file.

    Args:
        store: what is to be used.
        option: what the user gave it with, for the message.

    Raises:
        RequestError: that does not work.
    """
    name = f"probe-{os.uname().nodename}-{os.getpid()}"
    try:
        if isinstance(store, FolderStore):
            store.root.mkdir(parents=True, exist_ok=True)
        store.write(name, lambda path: path.write_text(name))
        with store.local(name) as path:
            same = path.read_text() == name
        store.remove(name)
    except OSError as error:
        raise RequestError(
            f"{option} {store.where}: cannot be written to ({first_line(error, 200)}). Give a folder or a "
            "URI that every machine of the search can write to, such as /mnt/shared/swa or s3://bucket/swa"
        ) from None
    if not same:
        raise RequestError(f"{option} {store.where}: what was written there was not read back")
