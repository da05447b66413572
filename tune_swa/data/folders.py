"""Your own images as a source: folders with one folder for each class."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tune_swa.data.folder_names import (
    compare_key,
    decode_name,
    find_unwritable,
    recognise_part,
    show_name,
)
from tune_swa.data.folder_tree import Folder
from tune_swa.data.image_files import (
    TORCHVISION_SUFFIXES,
    FolderFiles,
    Suffixes,
    count_contents,
    describe_groups,
    find_suffix,
    group_by_suffix,
    list_files,
    list_suffixes,
)
from tune_swa.data.image_notes import NamedImages
from tune_swa.data.layouts import LAYOUT
from tune_swa.data.part_folders import Layout, LayoutSetting, find_layout
from tune_swa.data.pixels import open_rgb
from tune_swa.data.sources import Listing, Part
from tune_swa.errors import RequestError
from tune_swa.text import escape_name, name_first

INTEL = (
    "The tutorial's set is Intel Image Classification, on Kaggle as puneet6060/intel-image-classification "
    "(needs a login): download it there and unpack it"
)

Classes = dict[str, FolderFiles]


class _Found(NamedTuple):
    part: Part
    folder: Path
    classes: Classes
    beside: list[str]
    """Files beside the folders of classes that are no images."""


class ImageFolders:
    """Images below one folder.

    Args:
        root: the folder; None where the request names none.
        suffixes: which suffixes images have.
        exif_rotation: turn images as their EXIF orientation says.
        grey_bits: bits that 16-bit greyscale images use.
        layout: how its folders are read, `data.layout`.
    """

    def __init__(
        self,
        root: Path | None,
        *,
        suffixes: Suffixes = "all",
        exif_rotation: bool = False,
        grey_bits: int = 16,
        layout: LayoutSetting = "auto",
    ) -> None:
        self.root = root
        self.suffixes: Suffixes = suffixes
        self.exif_rotation = exif_rotation
        self.grey_bits = grey_bits
        self.layout = layout

    @property
    def name(self) -> str:
        return "folder" if self.root is None else show_name(self.root.resolve().name)

    def identify_images(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for part, folder, classes, _ in self._found:
            # relative to its part, so that neither moving the images nor another way of writing their
            # folder's path has them decoded again
            cut = len(str(folder)) + 1
            for label, files in classes.items():
                listed = [(path[cut:], *facts) for path, *facts in files.images]
                digest.update(repr((part, label, listed)).encode())
        # what is as it was before a setting existed keeps its name, and so its decoded images
        settings = [self.exif_rotation, *([self.grey_bits] if self.grey_bits != 16 else [])]
        return " ".join(map(str, ["folder", digest.hexdigest(), *settings]))

    def list_images(self) -> Listing:
        names = list(self._found[0].classes)
        index = {compare_key(name): i for i, name in enumerate(names)}
        images = [
            (file.path, index[compare_key(label)], part)
            for part, _, classes, _ in self._found
            for label, files in classes.items()
            for file in files.images
        ]
        paths, labels, parts = zip(*images, strict=True)
        return Listing(
            class_names=tuple(map(decode_name, names)),
            labels=np.array(labels, dtype=np.int64),
            parts=np.array(parts, dtype=np.int8),
            open_image=lambda i: open_rgb(
                paths[i], exif_rotation=self.exif_rotation, grey_bits=self.grey_bits
            ),
            names=lambda i: escape_name(paths[i]),
            optional=frozenset(
                i for i, path in enumerate(paths) if find_suffix(path) not in TORCHVISION_SUFFIXES
            ),
        )

    def preview_images(self) -> Listing:
        return self.list_images()

    def find_left_out(self) -> dict[str, NamedImages]:
        """Files that lie among the images and are not taken for some, by suffix.

        Raises:
            RequestError: as `list_images`.
        """
        paths = [
            path
            for found in self._found
            for path in [*found.beside, *(name for files in found.classes.values() for name in files.others)]
        ]
        return group_by_suffix(map(escape_name, paths))

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
            for name, folder in Folder(root).subfolders.items():
                if (known := recognise_part(name)) and known.part is Part.TRAIN and folder.subfolders:
                    raise _explain_empty(folder.path, list(folder.subfolders), self.suffixes)
            notes = "".join(f"{note}. " for note in layout.notes)
            found = _describe_contents("all", root)
            raise RequestError(
                f"{root}: no images were found in folders of classes{found}. {notes}{INTEL}. {LAYOUT}"
            )
        return layout

    @cached_property
    def _found(self) -> list[_Found]:
        """Each part with its folder, and its classes with their files; training images first."""
        try:
            found = [
                self._list_part(part, at.path, at.classes) for part, at in sorted(self._layout.parts.items())
            ]
        except OSError as error:
            raise _explain_unreadable(self._checked_root(), error) from None
        _check_classes(found, self.suffixes)
        return found

    def _list_part(self, part: Part, folder: Path, names: tuple[str, ...]) -> _Found:
        known = list_suffixes(self.suffixes)
        classes = {name: list_files(folder / name, known) for name in names}
        beside = list_files(
            folder, list_suffixes("all"), below=False
        )  # images there are in the layout's notes
        return _Found(part, folder, classes, beside.others)

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


def _check_classes(found: list[_Found], suffixes: Suffixes) -> None:
    """Check that there are at least two classes, none empty, and the same ones in every part."""
    train = found[0]
    for _, folder, classes, _ in found:
        _check_names(folder, list(classes))
    if len(train.classes) < 2:
        raise RequestError(
            f"{train.folder}: expected a folder for each of at least two classes, found "
            f"{', '.join(map(show_name, train.classes)) or 'none'}. {LAYOUT}"
        )
    for _, folder, classes, _ in found:
        _check_same_classes(train, folder, classes)
        empty = [name for name, files in classes.items() if not files.images]
        if empty:
            raise _explain_empty(folder, empty, suffixes)


def _explain_empty(folder: Path, empty: list[str], suffixes: Suffixes) -> RequestError:
    """Return the error of a part with classes that hold no images."""
    known = ", ".join(TORCHVISION_SUFFIXES)
    known += " and others that Pillow reads" if suffixes == "all" else ""
    instead = _describe_contents(suffixes, *(folder / name for name in empty))
    return RequestError(
        f"{folder}: no images ({known}) in {name_first([*map(show_name, empty)], 10)}{instead}. Add "
        "some, or remove the folders from every part"
    )


def _describe_contents(suffixes: Suffixes, *folders: Path) -> str:
    """What folders without images hold instead, and how it becomes images; empty for empty folders."""
    groups = count_contents(*folders)
    if not groups:
        return ""
    found = f" (found {describe_groups(groups)})"
    if groups.keys() & list_suffixes(suffixes):  # images, but not where they are looked for
        return found
    if groups.keys() & list_suffixes("all"):
        return f"{found}. Leave data.suffixes out to have all images that Pillow reads"
    return f"{found}. If these are images, convert them to .jpg or .png"


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
