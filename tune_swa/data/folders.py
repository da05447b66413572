"""Your own images as a source: folders with one folder for each class."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tune_swa.data.layouts import (
    EXTENSIONS,
    LAYOUT,
    ImageFile,
    escape_name,
    find_parts,
    list_image_files,
    list_subfolders,
)
from tune_swa.data.pixels import open_rgb
from tune_swa.data.sources import Listing, Part
from tune_swa.errors import RequestError
from tune_swa.text import name_first

INTEL = (
    "The tutorial's set is Intel Image Classification, on Kaggle as puneet6060/intel-image-classification "
    "(needs a login): download it there and unpack it"
)

Classes = dict[str, list[ImageFile]]


class _Found(NamedTuple):
    part: Part
    folder: Path
    classes: Classes


class ImageFolders:
    """Images below one folder.

    Args:
        root: the folder; None where the request names none.
        exif_rotation: turn images as their EXIF orientation says.
    """

    def __init__(self, root: Path | None, *, exif_rotation: bool = False) -> None:
        self.root = root
        self.exif_rotation = exif_rotation

    @property
    def name(self) -> str:
        return "folder" if self.root is None else self.root.resolve().name

    def identify_images(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for part, folder, classes in self._found:
            # relative to its part, so that neither moving the images nor another way of writing their
            # folder's path has them decoded again
            cut = len(str(folder)) + 1
            for label, files in classes.items():
                digest.update(repr((part, label, [(path[cut:], *facts) for path, *facts in files])).encode())
        return f"folder {digest.hexdigest()} {self.exif_rotation}"

    def list_images(self) -> Listing:
        class_names = tuple(self._found[0].classes)
        index = {name: i for i, name in enumerate(class_names)}
        images = [
            (file.path, index[label], part)
            for part, _, classes in self._found
            for label, files in classes.items()
            for file in files
        ]
        paths, labels, parts = zip(*images, strict=True)
        return Listing(
            class_names=class_names,
            labels=np.array(labels, dtype=np.int64),
            parts=np.array(parts, dtype=np.int8),
            open_image=lambda i: open_rgb(paths[i], exif_rotation=self.exif_rotation),
            names=lambda i: escape_name(paths[i]),
        )

    def preview_images(self) -> Listing:
        return self.list_images()

    @cached_property
    def _found(self) -> list[_Found]:
        """Each part with its folder, and its classes with their files; training images first."""
        root = self._checked_root()
        try:
            parts = find_parts(root)
            found = [
                _Found(
                    part, folder, {name: list_image_files(folder / name) for name in list_subfolders(folder)}
                )
                for part, folder in sorted(parts.items())
            ]
        except OSError as error:
            raise RequestError(f"{error.filename or root}: cannot be read ({error.strerror})") from None
        if not found:
            raise RequestError(f"{root}: no images were found in folders of classes. {INTEL}. {LAYOUT}")
        _check_classes(found)
        return found

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


def _check_classes(found: list[_Found]) -> None:
    """At least two classes, none empty, and the same ones in every part."""
    train = found[0]
    for _, folder, classes in found:
        _check_names(folder, list(classes))
    if len(train.classes) < 2:
        raise RequestError(
            f"{train.folder}: expected a folder for each of at least two classes, found "
            f"{', '.join(train.classes) or 'none'}. {LAYOUT}"
        )
    for _, folder, classes in found:
        missing = sorted(train.classes.keys() - classes.keys())
        unknown = sorted(classes.keys() - train.classes.keys())
        differences = [f"{name_first(missing, 10)} missing"] if missing else []
        differences += [f"{name_first(unknown, 10)} not in train"] if unknown else []
        if differences:
            raise RequestError(
                f"{folder}: its classes differ from those of {train.folder}: {'; '.join(differences)}. "
                "Every part needs the same folders of classes"
            )
        empty = [name for name, files in classes.items() if not files]
        if empty:
            raise RequestError(
                f"{folder}: no images ({', '.join(EXTENSIONS)}) in {name_first(empty, 10)}. Add some, or "
                "remove the folders from every part"
            )


def _check_names(folder: Path, names: list[str]) -> None:
    """Names that would be one folder elsewhere, or that no result file can hold."""
    by_folded: dict[str, str] = {}
    for name in names:
        other = by_folded.setdefault(name.casefold(), name)
        if other != name:
            raise RequestError(
                f"{folder}: {other} and {name} differ in upper and lower case only. Put their images into "
                "one folder, or give them different names"
            )
        if escape_name(name) != name:
            raise RequestError(
                f"{folder}: the name of the class {escape_name(name)} holds characters that cannot be "
                "written. Rename the folder"
            )
