"""Your own images: folders with one folder a class, in the usual layouts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from tune_swa.data.sources import Listing, Part
from tune_swa.errors import RequestError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""As torchvision's ImageFolder takes them."""
_PART_NAMES = {
    Part.TRAIN: ("train", "training", "seg_train"),
    Part.VAL: ("val", "valid", "validation"),
    Part.TEST: ("test", "testing", "seg_test"),
}
_ALL_PART_NAMES = {name for names in _PART_NAMES.values() for name in names} | {"seg_pred"}
LAYOUT = (
    "Expected below it: train/CLASS/*.jpg, test/CLASS/*.jpg and, if you have them, val/CLASS/*.jpg; or "
    "Kaggle's seg_train/seg_train/CLASS/*.jpg and seg_test/seg_test/CLASS/*.jpg; or CLASS/*.jpg alone, "
    "from which validation and test images are held out"
)
INTEL = (
    "The tutorial's set is Intel Image Classification, on Kaggle as puneet6060/intel-image-classification "
    "(needs a login): download it there and unpack it"
)
SHOWN = 10


@dataclass(frozen=True)
class _File:
    path: Path
    part: Part
    label: str


class ImageFolders:
    """Images below one folder.

    Args:
        root: the folder; None where the request names none.
    """

    def __init__(self, root: Path | None) -> None:
        self.root = root

    @property
    def name(self) -> str:
        return "folder" if self.root is None else self.root.resolve().name

    def identity(self) -> str:
        lines = [f"{os.path.realpath(self._checked_root)}"]
        for file in self._files:
            facts = file.path.stat()
            lines.append(f"{file.path}\0{file.part}\0{file.label}\0{facts.st_size}\0{facts.st_mtime_ns}")
        return "\n".join(lines)

    def list_images(self) -> Listing:
        files = self._files
        class_names = tuple(sorted({f.label for f in files}))
        index = {name: i for i, name in enumerate(class_names)}
        return Listing(
            class_names=class_names,
            labels=np.array([index[f.label] for f in files], dtype=np.int64),
            parts=np.array([f.part for f in files], dtype=np.int8),
            open_image=lambda i: _open(files[i].path),
            names=lambda i: str(files[i].path),
        )

    @property
    def _checked_root(self) -> Path:
        if self.root is None:
            raise RequestError(
                "data.dataset is folder, but no folder is given. Give it with --data-dir DIR (or "
                f"data.path). {INTEL}. {LAYOUT}"
            )
        if not self.root.exists():
            raise RequestError(f"{self.root}: no such folder. {INTEL}. {LAYOUT}")
        if not self.root.is_dir():
            raise RequestError(f"{self.root}: is a file, expected a folder of images. {LAYOUT}")
        return self.root

    @cached_property
    def _files(self) -> list[_File]:
        root = self._checked_root
        parts = self._find_parts(root)
        if not parts:
            raise RequestError(f"{root}: no images were found in folders of classes. {INTEL}. {LAYOUT}")
        _check_classes(parts)
        return [
            _File(path, part, label)
            for part, folder in parts.items()
            for label in _classes(folder)
            for path in _images(folder / label)
        ]

    @staticmethod
    def _find_parts(root: Path) -> dict[Part, Path]:
        """The folder of each part: below `root`, or below the only folder in it (an archive's)."""
        candidates = [root]
        below = _folders(root)
        if len(below) == 1:
            candidates.append(root / below[0])
        for candidate in candidates:
            found = {part: folder for part in Part if (folder := _part_folder(candidate, part)) is not None}
            if Part.TRAIN in found:
                return found
        for candidate in candidates:
            if not set(_folders(candidate)) & _ALL_PART_NAMES and _holds_classes(candidate):
                return {Part.TRAIN: candidate}
        return {}


def _part_folder(root: Path, part: Part) -> Path | None:
    """`root/train`, or `root/seg_train/seg_train` as Kaggle packs it."""
    for name in _PART_NAMES[part]:
        folder = root / name
        if folder.is_dir():
            inner = folder / name
            return inner if inner.is_dir() and _holds_classes(inner) else folder
    return None


def _check_classes(parts: dict[Part, Path]) -> None:
    """At least two classes, none empty, and the same ones in every part."""
    train = _classes(parts[Part.TRAIN])
    if len(train) < 2:
        raise RequestError(
            f"{parts[Part.TRAIN]}: expected a folder for each of at least two classes, found "
            f"{', '.join(train) or 'none'}. {LAYOUT}"
        )
    for folder in parts.values():
        classes = _classes(folder)
        missing, unknown = sorted(set(train) - set(classes)), sorted(set(classes) - set(train))
        if missing or unknown:
            told = [f"{_list(missing)} missing"] * bool(missing) + [f"{_list(unknown)} not in train"] * bool(
                unknown
            )
            raise RequestError(
                f"{folder}: its classes differ from those of {parts[Part.TRAIN]}: {'; '.join(told)}. "
                "Every part needs the same folders of classes"
            )
        empty = [name for name in classes if next(_images(folder / name), None) is None]
        if empty:
            raise RequestError(
                f"{folder}: no images ({', '.join(EXTENSIONS)}) in {_list(empty)}. Add some, or remove the "
                "folders from every part"
            )


def _list(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _folders(folder: Path) -> list[str]:
    """Names of the folders in `folder`, sorted as ImageFolder sorts them, hidden ones left out."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith((".", "__MACOSX")))


def _classes(folder: Path) -> list[str]:
    return _folders(folder)


def _holds_classes(folder: Path) -> bool:
    return any(next(_images(folder / name), None) is not None for name in _folders(folder))


def _images(folder: Path) -> Iterator[Path]:
    """Image files below `folder`, sorted as ImageFolder sorts them, hidden ones left out."""
    for base, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        for name in sorted(names):
            if name.lower().endswith(EXTENSIONS) and not name.startswith("."):
                yield Path(base) / name


def _open(path: Path) -> Image.Image:
    """As torchvision's default loader: whatever the file's mode, RGB."""
    with path.open("rb") as file, Image.open(file) as image:
        return image.convert("RGB")
