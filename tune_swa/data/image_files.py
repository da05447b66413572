"""Which files below a folder are images, by their suffixes, and which are left out."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from PIL import Image, features

from tune_swa.data.folder_names import is_system_folder
from tune_swa.data.image_notes import NamedImages
from tune_swa.text import escape_name

TORCHVISION_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""As torchvision's ImageFolder takes them."""
Identity = tuple[int, int]
Suffixes = Literal["all", "torchvision"]

_NO_PIXELS = frozenset({"BUFR", "GRIB", "HDF5", "WMF", "MPEG", "EPS"})
"""Formats that Pillow recognises without decoding them by itself: EPS runs Ghostscript, the others need a
handler."""
_RARELY_IMAGES = frozenset({"PCD", "FITS", "IPTC"})
"""Formats whose suffixes are mostly of other things: point clouds, measurements, metadata."""
_BUILT_IN = {"AVIF": "avif", "JPEG2000": "jpg_2000"}
"""Formats that Pillow can be built without, and what it calls that feature."""
MOST_KINDS = 10
"""Suffixes that are named of the files left out."""
MOST_LISTED = 10_000
"""Files that are looked at to say what a folder without images holds."""


class ImageFile(NamedTuple):
    """An image file, as the file system lists it."""

    path: str
    size: int
    """In bytes."""
    changed: int
    """Time of the last change, in nanoseconds."""


class FolderFiles(NamedTuple):
    """Files of a folder and the folders in it, hidden ones aside."""

    images: list[ImageFile]
    """In ImageFolder's order."""
    others: list[str]
    """Paths of all other files."""


@functools.cache
def list_suffixes(which: Suffixes) -> frozenset[str]:
    """Suffixes of image files, in lower case: torchvision's, or those of every format that Pillow decodes."""
    if which == "torchvision":
        return frozenset(TORCHVISION_SUFFIXES)
    Image.preinit()  # the usual formats are the first that Pillow tries
    Image.init()
    formats = {*Image.OPEN, "MPO"} - _NO_PIXELS - _RARELY_IMAGES  # MPO files are opened as JPEG
    formats -= {name for name in formats & _BUILT_IN.keys() if not features.check(_BUILT_IN[name])}
    registered = Image.registered_extensions().items()
    return frozenset(TORCHVISION_SUFFIXES).union(suffix for suffix, name in registered if name in formats)


def find_suffix(name: str) -> str:
    """The suffix of a file's name or path, in lower case; empty if it has none."""
    before, _, suffix = name.rpartition(".")
    return f".{suffix.lower()}" if before and os.sep not in suffix else ""


def list_files(folder: Path, suffixes: Collection[str], *, below: bool = True) -> FolderFiles:
    """List the files in `folder`; folders that are links to one above them are not followed.

    Args:
        folder: where to look.
        suffixes: of images.
        below: look into the folders in it, too.

    Raises:
        OSError: a folder cannot be read.
    """
    pending, found = [(str(folder), identify_parents(folder) | {identify_folder(folder)})], []
    others: list[str] = []
    while pending:
        base, above = pending.pop()
        images = []
        with os.scandir(base) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if is_folder(entry):
                    if not below or is_system_folder(entry.name):
                        continue
                    here = identify_folder(Path(entry.path))
                    if here not in above:
                        pending.append((entry.path, above | {here}))
                elif find_suffix(entry.name) in suffixes:
                    images.append(_describe_file(entry))
                else:
                    others.append(entry.path)
        found.append((base, sorted(images)))
    return FolderFiles([file for _, files in sorted(found) for file in files], sorted(others))


def count_contents(*folders: Path) -> dict[str, NamedImages]:
    """Count the files in folders and below by suffix, as `group_by_suffix` does."""
    files = (
        name
        for folder in folders
        for _, _, names in os.walk(folder)
        for name in names
        if not name.startswith(".")
    )
    return group_by_suffix(map(escape_name, itertools.islice(files, MOST_LISTED)))


def group_by_suffix(names: Iterable[str]) -> dict[str, NamedImages]:
    """Group files by suffix, the commonest first; rare suffixes are one group where there are many.

    Args:
        names: of the files, as they are printed.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(find_suffix(name), []).append(name)
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    named = {suffix or "without a suffix": files for suffix, files in ordered[:MOST_KINDS]}
    rest = [name for _, files in ordered[MOST_KINDS:] for name in files]
    if rest:
        named["of other suffixes"] = rest
    return {suffix: NamedImages.from_names(files) for suffix, files in named.items()}


def describe_groups(groups: Mapping[str, NamedImages]) -> str:
    """Name what `group_by_suffix` found: `40 .heic, 2 .txt`."""
    return ", ".join(f"{group.count:,} {suffix}" for suffix, group in groups.items())


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder or a link to one; a link to itself is not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def identify_folder(folder: Path) -> Identity:
    """Device and inode: equal for a folder and a link to it."""
    facts = folder.stat()
    return facts.st_dev, facts.st_ino


def identify_parents(folder: Path) -> frozenset[Identity]:
    """All folders that a folder is in: a link to one of them leads in a circle."""
    found = set()
    for parent in folder.absolute().parents:
        with suppress(OSError):  # a relative path may be open to a user who may not walk down to it
            found.add(identify_folder(parent))
    return frozenset(found)


def _describe_file(entry: os.DirEntry[str]) -> ImageFile:
    try:
        facts = entry.stat()
    except OSError:  # a link to nowhere: decoding will say so
        return ImageFile(entry.path, -1, 0)
    return ImageFile(entry.path, facts.st_size, facts.st_mtime_ns)
