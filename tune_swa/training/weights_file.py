"""Read a file of weights from elsewhere: tensors in nested dictionaries, without running what it holds."""

from __future__ import annotations

import errno
import io
import pickletools
import re
import shlex
import stat
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch

SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".tar", ".safetensors")
"""Of files of weights; they only serve to name some in a folder."""
OTHER_FORMATS = (
    (
        b"version https://git-lfs",
        "it is a Git LFS pointer, not the file itself",
        "Fetch it with: git lfs pull",
    ),
    (b"\x1f\x8b", "it is a gzip archive", "Unpack it, and name the file inside"),
    (b"BZh", "it is a bzip2 archive", "Unpack it, and name the file inside"),
    (b"\xfd7zXZ", "it is an xz archive", "Unpack it, and name the file inside"),
    (b"\x28\xb5\x2f\xfd", "it is a zstd archive", "Unpack it, and name the file inside"),
    (b"7z\xbc\xaf", "it is a 7z archive", "Unpack it, and name the file inside"),
    (b"Rar!", "it is a RAR archive", "Unpack it, and name the file inside"),
    (b"\x89HDF", "it is an HDF5 file, as Keras writes them", "Give weights of a torch network"),
)
"""How files begin that are something else, what they are, and what to do."""
URL = re.compile(r"[a-z][a-z0-9+.-]+:/")
LEGACY_MAGIC = b"l\xfc\x9cF\xf9 j\xa8P\x19"
"""The number that torch.save wrote first, before its files were zip archives."""
PICKLES_OF_LEGACY_FILES = 5
"""Magic number, protocol, system, the object and its storages, one after the other."""
REBUILT_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
"""Modules of Python 2, which pickles of protocol 2 name, as torch looks them up."""


class WeightsFileError(Exception):
    """A file that holds no weights.

    Args:
        reason: what it is, or what is wrong with it.
        remedy: what to do about that; None: what the caller advises.
    """

    def __init__(self, reason: str, remedy: str | None = None) -> None:
        super().__init__(reason)
        self.reason, self.remedy = reason, remedy


class Placeholder(list[Any]):
    """Stands where the file has an object that is no tensor and no plain container.

    Nothing of that object's class is imported or run; whatever the file says about it is only kept. A list,
    because torch 2.14 appends to subclasses of that.
    """

    source = ""
    """Name of the class or function that the file asks for."""
    content: Any = None
    """What the file would set its attributes to."""

    def __new__(cls, *_: Any) -> Placeholder:
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        self.content = state


class DictPlaceholder:
    """The same for objects that have items: torch sets them in dictionaries alone."""

    def __new__(cls, *_: Any) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


class ListPlaceholder:
    """The same for objects that are appended to: torch 2.14 takes subclasses of list, others do not."""

    def __new__(cls, *_: Any) -> list[Any]:  # type: ignore[misc]
        return []


def read_weights_file(path: Path) -> Any:
    """Read what `torch.save` or safetensors wrote, on the CPU.

    Tensors, numbers, texts and plain containers are read as they are. Other objects (settings, numpy's
    numbers, paths) become `Placeholder`s: the file may have them beside its weights, and cannot have
    anything run through them.

    Raises:
        WeightsFileError: it holds no weights; says what it is instead, where that can be seen.
        OSError: it cannot be read.
    """
    _check_content(path)
    if _is_safetensors(path):
        return _load_safetensors(path)
    try:
        names = {name for name, _ in _list_globals(path)}
    except (
        ValueError,
        KeyError,
        IndexError,
        EOFError,
        zipfile.BadZipFile,
        NotImplementedError,
        RuntimeError,
    ):
        raise WeightsFileError("torch.save has not written it, or it is damaged") from None
    try:
        return _load_tensors(path, names)
    except OSError:
        raise
    except Exception as error:  # torch.load raises a dozen types for files that are not its own
        raise WeightsFileError(_explain_failure(path, error)) from None


def _check_content(path: Path) -> None:
    """Refuse what is no file, and files whose first bytes belong to another format."""
    if URL.match(str(path)) and not path.exists():
        raise WeightsFileError("it is a URL", "Download the file, and give its path")
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "Is a directory", str(path))
    if not stat.S_ISREG(mode):  # reading a pipe would wait for ever
        raise WeightsFileError("it is a device or a pipe", "Give a file")
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise WeightsFileError("it is empty")
    for magic, reason, remedy in OTHER_FORMATS:
        if head.startswith(magic):
            raise WeightsFileError(reason, remedy)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        remedy = "Download the file itself: the address leads to a page about it, or asks to log in"
        raise WeightsFileError("it is a web page", remedy)
    if b"/annex/objects" in head:
        raise WeightsFileError(
            "it is a git-annex pointer, not the file itself", "Fetch it with: git annex get"
        )
    if head.startswith(b"\x80") and LEGACY_MAGIC not in head[:32]:
        raise WeightsFileError("it was written by pickle, not by torch.save")
    if zipfile.is_zipfile(path):
        _check_archive(path)
    elif head.startswith(b"PK\x03\x04"):
        remedy = "Copy or download it again"
        raise WeightsFileError(f"it is cut off after {path.stat().st_size:,} bytes, or damaged", remedy)


def _check_archive(path: Path) -> None:
    """Refuse a zip archive that torch.save has not written."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if any(entry.header_offset < 0 for entry in archive.infolist()):
                raise zipfile.BadZipFile("an entry begins before the file")
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        raise WeightsFileError("its list of contents is damaged", "Copy or download it again") from None
    if any(name.endswith("/constants.pkl") for name in names):
        code = f'import torch; torch.save(torch.jit.load({str(path)!r}).state_dict(), "weights.pt")'
        remedy = f"Where you trust it, write its weights with: python -c {shlex.quote(code)}"
        raise WeightsFileError("it is a TorchScript archive, which is a program", remedy)
    if any(name.endswith("data.pkl") for name in names):
        return
    if any(name.endswith(".npy") for name in names):
        raise WeightsFileError("it holds arrays of numpy", "Give weights that torch.save has written")
    files = [name for name in names if not name.endswith("/")]
    shown = ", ".join(files[:3]) + (", ..." if len(files) > 3 else "")
    raise WeightsFileError(f"it is a zip archive ({shown})", "Unpack it, and name the file inside")


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do: the length of a header in JSON, and the header."""
    with path.open("rb") as file:
        head = file.read(9)
    length = int.from_bytes(head[:8], "little")
    return len(head) == 9 and head[8:] == b"{" and length + 8 <= path.stat().st_size


def _load_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, ValueError, KeyError):
        raise WeightsFileError("it is damaged", "Copy or download it again") from None


def _load_tensors(path: Path, names: set[str]) -> Any:
    """Load by torch, with a placeholder for every name that the file asks for and torch does not know.

    A name that torch knows is taken as torch knows it. An object with items of its own (a subclass of dict or
    list) can only be told from others by trying.
    """
    dictionaries, lists = False, set[str]()
    while True:
        placeholders: list[Any] = [
            (_make_placeholder(name, dictionaries, name in lists), name) for name in sorted(names)
        ]
        try:
            with torch.serialization.safe_globals(placeholders), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of pickle protocols
                return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            refused = {name for name in names - lists if f"{Placeholder.__name__} {name}'" in str(error)}
            if "SETITEM" in str(error) and not dictionaries:
                dictionaries = True
            elif "lists" in str(error) and refused:
                lists |= refused
            else:
                raise


def _make_placeholder(name: str, dictionaries: bool, is_list: bool) -> Any:
    if is_list:
        return type("ListPlaceholder", (ListPlaceholder,), {})
    # numpy's numbers carry a state that no dictionary takes
    if dictionaries and not name.startswith(("numpy.", "pathlib.")):
        return type("DictPlaceholder", (DictPlaceholder,), {})
    return type(f"{Placeholder.__name__} {name}", (Placeholder,), {"source": name})


def _list_globals(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the classes and functions that a file asks for, with their modules. Nothing is imported.

    Raises:
        ValueError: it is no pickle.
        KeyError: it is an archive without one.
    """
    for stream in _open_pickles(path):
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "GLOBAL":
                module, _, name = str(argument).partition(" ")
                module = REBUILT_MODULES.get(module, module)
                yield f"{module}.{name}", module


def _open_pickles(path: Path) -> Iterator[BinaryIO]:
    """Yield a stream at the beginning of each pickle of a file."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith("data.pkl"):
                    yield io.BytesIO(archive.read(name))
        return
    with path.open("rb") as file:
        for _ in range(PICKLES_OF_LEGACY_FILES):
            yield file


def _explain_failure(path: Path, error: Exception) -> str:
    """Why torch did not load a file. Its own words go on for lines, and advise to run what it holds."""
    blocked = [name for name, module in _list_globals(path) if module in ("os", "posix", "nt", "sys")]
    if blocked:
        return f"it holds other things than tensors: {blocked[0]}, which would be run"
    protocols = [
        int(argument or 0)
        for stream in _open_pickles(path)
        for opcode, argument, _ in pickletools.genops(stream)
        if opcode.name == "PROTO"
    ]
    if max(protocols, default=2) > 2:
        return f"it was written with pickle_protocol={max(protocols)}, of which torch reads 2 without risk"
    if type(error).__name__ == "UnpicklingError":
        return "it holds other things than tensors, or torch.save has not written it"
    return "torch.save has not written it, or it is damaged"


def list_weights_files(folder: Path) -> list[str]:
    """Names of the files in a folder that could be weights, sorted."""
    return sorted(file.name for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
