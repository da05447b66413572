"""Where training, validation and test images lie below a folder, in the layouts that people have."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from tune_swa.data.sources import Part
from tune_swa.errors import RequestError
from tune_swa.text import name_first

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""As torchvision's ImageFolder takes them."""
_NAMES = {
    Part.TRAIN: ("train", "training", "seg_train"),
    Part.VAL: ("val", "valid", "validation"),
    Part.TEST: ("test", "testing", "seg_test"),
}
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


def find_parts(root: Path) -> dict[Part, Path]:
    """The folder of each part, which holds a folder for each class.

    They may lie in `root` or in a folder in it (where an archive was unpacked). A folder of classes
    alone counts as training images.

    Returns:
        Part to folder; empty where there are no images.

    Raises:
        RequestError: the layout can be read in more than one way, or has no training images.
        OSError: a folder cannot be read.
    """
    here = _find_part_folders(root)
    if Part.TRAIN in here:
        return here
    names = list_subfolders(root)
    below = {name: parts for name in names if Part.TRAIN in (parts := _find_part_folders(root / name))}
    if len(below) == 1:
        return next(iter(below.values()))
    if below:
        raise RequestError(
            f"{root}: {name_first(sorted(below), 10)} hold training images each; give one of them"
        )
    if here:
        found = name_first([path.relative_to(root).parts[0] for path in here.values()], 10)
        raise RequestError(f"{root}: holds {found}, but no training images. {LAYOUT}")
    if len(names) == 1 and _holds_classes(root / names[0]):
        return {Part.TRAIN: root / names[0]}
    return {Part.TRAIN: root} if _holds_classes(root) else {}


def list_subfolders(folder: Path) -> list[str]:
    """Names of the folders in `folder`, sorted as ImageFolder sorts classes, hidden ones left out."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith((".", "__MACOSX")))


def list_image_files(folder: Path) -> list[ImageFile]:
    """Image files in `folder` and below, in ImageFolder's order, hidden files and folders left out."""
    pending, found = [(str(folder), frozenset({_identify_folder(str(folder))}))], []
    while pending:
        base, above = pending.pop()
        files = []
        with os.scandir(base) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    here = _identify_folder(entry.path)
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


def _identify_folder(folder: str) -> tuple[int, int]:
    facts = Path(folder).stat()
    return facts.st_dev, facts.st_ino


def _image_file(entry: os.DirEntry[str]) -> ImageFile:
    try:
        facts = entry.stat()
    except OSError:  # a link to nowhere: decoding will say so
        return ImageFile(entry.path, -1, 0)
    return ImageFile(entry.path, facts.st_size, facts.st_mtime_ns)


def _find_part_folders(root: Path) -> dict[Part, Path]:
    return {part: folder for part in Part if (folder := _part_folder(root, part)) is not None}


def _part_folder(root: Path, part: Part) -> Path | None:
    """`root/train`, or `root/seg_train/seg_train` as Kaggle packs it; `Train` will do."""
    present: dict[str, list[str]] = {}
    for name in list_subfolders(root):
        present.setdefault(name.lower(), []).append(name)
    for name in _NAMES[part]:
        found = present.get(name, [])
        if len(found) > 1:
            raise RequestError(
                f"{root}: {' and '.join(found)} differ in upper and lower case only; which of them holds the "
                f"{part.name.lower()} images? Rename or remove the others"
            )
        if found:
            folder = root / found[0]
            return folder / folder.name if _holds_classes(folder / folder.name) else folder
    return None


def _holds_classes(folder: Path) -> bool:
    """Whether there are folders with images in `folder`; stops at the first image."""
    return folder.is_dir() and any(
        name.lower().endswith(EXTENSIONS) and not name.startswith(".")
        for label in list_subfolders(folder)
        for _, _, names in os.walk(folder / label)
        for name in names
    )
