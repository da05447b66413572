"""Your own images as a source: folders with one folder for each class."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tune_swa.data.folder_names import compare_key, decode_name, find_unwritable, show_name
from tune_swa.data.layouts import EXTENSIONS, LAYOUT, ImageFile, escape_name, list_image_files
from tune_swa.data.part_folders import Layout, LayoutSetting, find_layout
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
        layout: how its folders are read, `data.layout`.
    """

    def __init__(
        self, root: Path | None, *, exif_rotation: bool = False, layout: LayoutSetting = "auto"
    ) -> None:
        self.root = root
        self.exif_rotation = exif_rotation
        self.layout = layout

    @property
    def name(self) -> str:
        return "folder" if self.root is None else show_name(self.root.resolve().name)

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
        names = list(self._found[0].classes)
        index = {compare_key(name): i for i, name in enumerate(names)}
        images = [
            (file.path, index[compare_key(label)], part)
            for part, _, classes in self._found
            for label, files in classes.items()
            for file in files
        ]
        paths, labels, parts = zip(*images, strict=True)
        return Listing(
            class_names=tuple(map(decode_name, names)),
            labels=np.array(labels, dtype=np.int64),
            parts=np.array(parts, dtype=np.int8),
            open_image=lambda i: open_rgb(paths[i], exif_rotation=self.exif_rotation),
            names=lambda i: escape_name(paths[i]),
        )

    def preview_images(self) -> Listing:
        return self.list_images()

    @property
    def folder_notes(self) -> tuple[str, ...]:
        """Which folders are which part, and what is not used.

        Raises:
            RequestError: as `list_images`.
        """
        return self._layout.notes if self._found else ()

    @cached_property
    def _layout(self) -> Layout:
        root = self._checked_root()
        try:
            layout = find_layout(root, self.layout)
        except OSError as error:
            raise _explain_unreadable(root, error) from None
        if not layout.parts:
            notes = "".join(f"{note}. " for note in layout.notes)
            raise RequestError(
                f"{root}: no images were found in folders of classes. {notes}{INTEL}. {LAYOUT}"
            )
        return layout

    @cached_property
    def _found(self) -> list[_Found]:
        """Each part with its folder, and its classes with their files; training images first."""
        try:
            found = [
                _Found(part, at.path, {name: list_image_files(at.path / name) for name in at.classes})
                for part, at in sorted(self._layout.parts.items())
            ]
        except OSError as error:
            raise _explain_unreadable(self._checked_root(), error) from None
        _check_classes(found)
        return found

    def _checked_root(self) -> Path:
        if self.root is None:
            raise RequestError(
                "data.dataset is folder, but no folder is given. Give it with --data-dir DIR (or "
                f"data.path). {INTEL}. {LAYOUT}"
            )
        if any("\ud800" <= character <= "\udfff" for character in str(self.root)):
            raise RequestError(
                f"{show_name(str(self.root))}: the path holds bytes that are not UTF-8, which Ray cannot "
                "take. Rename the folder, or give a link to it (ln -s)"
            )
        if not self.root.exists():
            raise RequestError(f"{self.root}: no such folder. {INTEL}. {LAYOUT}")
        if not self.root.is_dir():
            raise RequestError(f"{self.root}: is a file, expected a folder of images. {LAYOUT}")
        return self.root


def _explain_unreadable(root: Path, error: OSError) -> RequestError:
    return RequestError(f"{error.filename or root}: cannot be read ({error.strerror})")


def _check_classes(found: list[_Found]) -> None:
    """At least two classes, none empty, and the same ones in every part."""
    train = found[0]
    for _, folder, classes in found:
        _check_names(folder, list(classes))
    if len(train.classes) < 2:
        raise RequestError(
            f"{train.folder}: expected a folder for each of at least two classes, found "
            f"{', '.join(map(show_name, train.classes)) or 'none'}. {LAYOUT}"
        )
    for _, folder, classes in found:
        _check_same_classes(train, folder, classes)
        empty = [show_name(name) for name, files in classes.items() if not files]
        if empty:
            raise RequestError(
                f"{folder}: no images ({', '.join(EXTENSIONS)}) in {name_first(empty, 10)}. Add some, or "
                "remove the folders from every part"
            )


def _check_same_classes(train: _Found, folder: Path, classes: Classes) -> None:
    known, here = ({compare_key(name): name for name in names} for names in (train.classes, classes))
    missing = [_reveal_name(known[key]) for key in sorted(known.keys() - here.keys())]
    unknown = [_reveal_name(here[key]) for key in sorted(here.keys() - known.keys())]
    differences = [f"{name_first(missing, 10)} missing"] if missing else []
    differences += [f"{name_first(unknown, 10)} not in train"] if unknown else []
    if differences:
        raise RequestError(
            f"{folder}: its classes differ from those of {train.folder}: {'; '.join(differences)}. "
            "Every part needs the same folders of classes"
        )


def _reveal_name(name: str) -> str:
    """A name in which characters can be seen that look like none, or like a space."""
    return repr(name) if name != name.strip() else escape_name(name)


def _check_names(folder: Path, names: list[str]) -> None:
    """Names that would be one folder elsewhere, or that no result file can hold."""
    by_folded: dict[str, str] = {}
    for name in names:
        if (problem := find_unwritable(name)) is not None:
            raise RequestError(
                f"{folder}: the name of the class {show_name(name)} {problem}, which no result file can "
                "hold. Rename the folder"
            )
        other = by_folded.setdefault(compare_key(name).casefold(), name)
        if other != name:
            same = compare_key(other) == compare_key(name)
            how = "their way of writing accents (composed, decomposed)" if same else "upper and lower case"
            raise RequestError(
                f"{folder}: {other} and {name} differ in {how} only. Put their images into one folder, or "
                "give them different names"
            )
