"""List the image files of a class, and what a message says of the expected layout."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tune_swa.data.folder_names import is_system_folder

Identity = tuple[int, int]
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""As torchvision's ImageFolder takes them."""
LAYOUT = (
    "Expected below it: train/CLASS/*.jpg, test/CLASS/*.jpg and, if you have them, val/CLASS/*.jpg; or "
    "Kaggle's seg_train/seg_train/CLASS/*.jpg and seg_test/seg_test/CLASS/*.jpg; or CLASS/*.jpg alone, "
    "from which validation and test images are held out"
)


class ImageFile(NamedTuple):
    """An image file, as the file system lists it."""

    path: str
    size: int
    """In bytes."""
    changed: int
    """Time of the last change, in nanoseconds."""


def list_image_files(folder: Path) -> list[ImageFile]:
    """Image files in `folder` and below, in ImageFolder's order, hidden files and folders left out."""
    pending, found = [(str(folder), identify_parents(folder) | {identify_folder(folder)})], []
    while pending:
        base, above = pending.pop()
        files = []
        with os.scandir(base) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    if is_system_folder(entry.name):
                        continue
                    here = identify_folder(Path(entry.path))
                    if here not in above:  # a link to a folder that it is in
                        pending.append((entry.path, above | {here}))
                elif entry.name.lower().endswith(EXTENSIONS):
                    files.append(_image_file(entry))
        found.append((base, sorted(files)))
    return [file for _, files in sorted(found) for file in files]


def escape_name(name: str) -> str:
    """A file's name on one line, whatever bytes it is made of."""
    if name.isprintable():
        return name
    text = name.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


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


def _image_file(entry: os.DirEntry[str]) -> ImageFile:
    try:
        facts = entry.stat()
    except OSError:  # a link to nowhere: decoding will say so
        return ImageFile(entry.path, -1, 0)
    return ImageFile(entry.path, facts.st_size, facts.st_mtime_ns)
