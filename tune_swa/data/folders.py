"""Your own images as a source: folders with one folder for each class."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from tune_swa.data.layouts import (
    EXTENSIONS,
    LAYOUT,
    ImageFile,
    find_parts,
    image_files,
    listed,
    subfolders,
)
from tune_swa.data.sources import Listing, Part
from tune_swa.errors import RequestError

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
    """

    def __init__(self, root: Path | None) -> None:
        self.root = root

    @property
    def name(self) -> str:
        return "folder" if self.root is None else self.root.resolve().name

    def identity(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for part, folder, classes in self._found:
            # relative to its part, so that neither moving the images nor another way of writing their
            # folder's path has them decoded again
            cut = len(str(folder)) + 1
            for label, files in classes.items():
                digest.update(repr((part, label, [(path[cut:], *facts) for path, *facts in files])).encode())
        return f"folder {digest.hexdigest()}"

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
            open_image=lambda i: _open(paths[i]),
            names=lambda i: str(paths[i]),
        )

    def preview(self) -> Listing:
        return self.list_images()

    @cached_property
    def _found(self) -> list[_Found]:
        """Each part with its folder, and its classes with their files; training images first."""
        root = self._checked_root()
        try:
            parts = find_parts(root)
            found = [
                _Found(part, folder, {name: image_files(folder / name) for name in subfolders(folder)})
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
    if len(train.classes) < 2:
        raise RequestError(
            f"{train.folder}: expected a folder for each of at least two classes, found "
            f"{', '.join(train.classes) or 'none'}. {LAYOUT}"
        )
    for _, folder, classes in found:
        missing = sorted(train.classes.keys() - classes.keys())
        unknown = sorted(classes.keys() - train.classes.keys())
        differences = [f"{listed(missing)} missing"] if missing else []
        differences += [f"{listed(unknown)} not in train"] if unknown else []
        if differences:
            raise RequestError(
                f"{folder}: its classes differ from those of {train.folder}: {'; '.join(differences)}. "
                "Every part needs the same folders of classes"
            )
        empty = [name for name, files in classes.items() if not files]
        if empty:
            raise RequestError(
                f"{folder}: no images ({', '.join(EXTENSIONS)}) in {listed(empty)}. Add some, or remove the "
                "folders from every part"
            )


def _open(path: str) -> Image.Image:
    """As torchvision's default loader: whatever the file's mode, RGB."""
    with Path(path).open("rb") as file, Image.open(file) as image:
        return image.convert("RGB")
