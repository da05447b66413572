"""Find the folders of training, validation and test images, in the layouts that people have."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tune_swa.data.folder_names import (
    compare_key,
    is_kind_or_fold,
    is_name_of_all,
    is_unlabelled,
    is_wrapper_name,
    recognise_part,
    show_name,
)
from tune_swa.data.folder_tree import Folder
from tune_swa.data.layouts import LAYOUT
from tune_swa.data.part_matching import (
    SHOWN,
    holds_classes,
    is_number,
    match_parts,
    refuse_sets,
    unwrap_part,
)
from tune_swa.data.sources import Part
from tune_swa.errors import RequestError
from tune_swa.text import name_first

LayoutSetting = Literal["auto", "parts", "classes"]
"""Values of `data.layout`."""
_USES = {Part.TRAIN: "training", Part.VAL: "validation", Part.TEST: "test"}


@dataclass(frozen=True)
class PartFolder:
    """The folder of a part."""

    path: Path
    classes: tuple[str, ...]
    """Names of the folders of classes in it, as the file system has them, sorted."""


@dataclass(frozen=True)
class Layout:
    """Where the images of each part lie."""

    parts: dict[Part, PartFolder]
    """Training images first."""
    notes: tuple[str, ...] = ()
    """What was chosen and what is not used, for a person."""


def find_layout(root: Path, setting: LayoutSetting = "auto") -> Layout:
    """Find the folder of each part, which holds a folder for each class.

    They may lie in `root` or in folders around them, as archives unpack. A folder of classes alone counts
    as training images.

    Args:
        root: what to look in.
        setting: `data.layout`.

    Returns:
        The layout; its parts are empty where there are no images in folders of classes.

    Raises:
        RequestError: the layout can be read in more than one way, or has no training images.
        OSError: a folder cannot be read.
    """
    top = Folder(root)
    if setting == "classes":
        return Layout({Part.TRAIN: _as_part(top)}, tuple(_note_leftovers(top)))
    folder: Folder | None = top
    passed: list[Path] = []
    while folder is not None:
        base = folder
        if (home := _find_home(root, base)) is not None:
            if home is not base:
                passed += _list_others(base, [home])
            return _read_parts(root, home, passed, setting)
        _refuse_parts_alone(base)
        folder = _find_inner(base)
        if folder is not None:
            passed += _list_others(base, [folder])
    if setting == "parts":
        raise RequestError(
            f"{root}: data.layout is parts, but there is no folder of training images. {LAYOUT}. Or give "
            "--set data.layout=auto"
        )
    if base.filled:
        return _read_classes(root, base, passed)
    if errors := [sub.error for sub in (base, *base.subfolders.values()) if sub.error is not None]:
        raise errors[0]
    return Layout({}, tuple(_note_leftovers(base)))


def _find_home(root: Path, folder: Folder) -> Folder | None:
    """The folder that holds the folder of training images: this one, or one in it."""
    if Part.TRAIN in match_parts(folder):
        return folder
    homes = [inner for inner in folder.filled.values() if Part.TRAIN in match_parts(inner)]
    if len(homes) > 1:
        names = [show_name(str(home.path.relative_to(root))) for home in homes]
        raise RequestError(
            f"{root}: {name_first(names, SHOWN)} hold training images each; give one of them, such as "
            f"--data-dir {_quote(homes[0])}"
        )
    return homes[0] if homes else None


def _refuse_parts_alone(folder: Folder) -> None:
    """Part folders without a folder of training images with classes beside them."""
    named: dict[Part, list[Folder]] = {}
    others = []
    for name, subfolder in folder.filled.items():
        known = recognise_part(name)
        if known is not None and (not known.rest or is_number(known.rest)):
            named.setdefault(known.part, []).append(subfolder)
        else:
            others.append(name)
    train = named.pop(Part.TRAIN, [])
    if sets := [subfolder.name for subfolder in train if holds_classes(subfolder)]:
        refuse_sets(folder, sets)
    if train and (named or not others):
        raise RequestError(
            f"{train[0].path}: holds images, but no folders of classes, which the labels are taken from. Put "
            "the images of each class into a folder of its own there, and likewise for validation and test"
            + (f". {_offer_classes(folder)}" if len(folder.filled) > 1 else "")
        )
    if not named:  # `train` among others is a class, as in sets of vehicles
        return
    found = [subfolder.name for _, members in sorted(named.items()) for subfolder in members]
    if others:
        way_out = _offer_classes(folder)
    else:
        first = min(named.items())[1][0]
        way_out = f"Or give one of these folders to train on it: --data-dir {_quote(first)}"
    raise RequestError(
        f"{folder.path}: holds {name_first(found, SHOWN)}, but no training images. {LAYOUT}. {way_out}"
    )


def _offer_classes(folder: Folder) -> str:
    return f"Or, if every folder there is a class: {_way_out(folder, 'classes')}"


def _find_inner(folder: Folder) -> Folder | None:
    """The only subfolder with images, if it holds folders with images itself."""
    if len(folder.filled) != 1:
        return None
    ((name, inner),) = folder.filled.items()
    empty = folder.subfolders.keys() - {name}
    adds_nothing = is_wrapper_name(name) or is_kind_or_fold(name)
    if not inner.filled or not (adds_nothing or all(map(is_kind_or_fold, empty))):
        return None
    return inner


def _read_parts(root: Path, home: Folder, passed: list[Path], setting: LayoutSetting) -> Layout:
    matched = match_parts(home)
    train = unwrap_part(matched[Part.TRAIN])
    if setting == "auto":
        _refuse_kinds(train, train.filled, "parts")
    parts, notes = {Part.TRAIN: _as_part(train)}, [*_note_leftovers(home), *_note_leftovers(train)]
    classes = set(map(compare_key, train.subfolders))
    for part in (Part.VAL, Part.TEST):
        if part not in matched:
            continue
        folder = unwrap_part(matched[part])
        if reason := _explain_unusable(folder, classes):
            notes.append(
                f"{folder.path} {reason}, so it is not used: {_USES[part]} images are held out of the "
                "training images"
            )
        else:
            parts[part] = _as_part(folder)
            notes += _note_leftovers(folder)
    passed += _list_others(home, matched.values())
    return Layout(parts, (*_describe_parts(root, parts), *_note_unused(root, passed), *notes))


def _explain_unusable(folder: Folder, classes: set[str]) -> str | None:
    """Why a part has no images with labels; None: it has, or a later check names what is wrong."""
    filled = folder.filled
    named = [name for name in filled if compare_key(name) in classes or not is_name_of_all(name)]
    if named or len(filled) > 1:
        return None
    if not folder.holds_images:
        return None if folder.subfolders else "holds no images"
    count = folder.own_images + sum(subfolder.own_images for subfolder in filled.values())
    return f"holds {f'{count:,} ' if count else ''}images without folders of classes, that is without labels"


def _read_classes(root: Path, folder: Folder, passed: list[Path]) -> Layout:
    filled = dict(folder.filled)
    copies = [name for name, sub in filled.items() if _is_copy(sub, filled.keys() - {name})]
    if len(copies) == 1:
        passed.append(folder.path / copies[0])
        del filled[copies[0]]
    else:
        copies = []
    _refuse_shared(folder, filled)
    _refuse_kinds(folder, filled, "classes")
    part = _as_part(folder)
    classes = tuple(name for name in part.classes if name not in copies)
    parts = {Part.TRAIN: PartFolder(part.path, classes)}
    return Layout(
        parts, (*_describe_parts(root, parts), *_note_unused(root, passed), *_note_leftovers(folder))
    )


def _is_copy(folder: Folder, others: Iterable[str]) -> bool:
    """Whether a folder beside the classes holds the same classes once more, as some archives do."""
    beside = set(others)
    return len(beside) > 1 and set(folder.filled) == beside


def _refuse_kinds(folder: Folder, filled: dict[str, Folder], setting: LayoutSetting) -> None:
    """`images` and `masks`, or `fold1` and `fold2`, in the place of classes."""
    known = {name: recognise_part(name) for name in filled}
    parts = {found.part for found in known.values() if found is not None}
    like_parts = all(_is_odd(name) or found is not None for name, found in known.items())
    # one word for all, as in bullet_train and steam_train, is that of classes
    if len(filled) > 1 and like_parts and (len(parts) > 1 or any(map(_is_odd, filled))):
        raise RequestError(
            f"{folder.path}: {_name_folders(filled)} look like kinds of files or parts of a set, not like "
            f"classes. {_advise_choice(folder, filled)}. Or, if they are the classes: "
            f"{_way_out(folder, setting)}"
        )


def _refuse_shared(folder: Folder, filled: dict[str, Folder]) -> None:
    """Folders that hold the same folders, and so are parts, folds or kinds rather than classes."""
    nested = {n: sub for n, sub in filled.items() if len(sub.filled) > 1 and not sub.own_images}
    if len(nested) < 2 or 2 * len(nested) < len(filled):
        return
    below = [set(map(compare_key, sub.filled)) for sub in nested.values()]
    common, every = set.intersection(*below), set.union(*below)
    if len(common) < 2 or 2 * len(common) < len(every):
        return
    names = sorted(common)
    if all(map(_is_odd, names)):  # cat/train, cat/test: turned round
        advice = f"Move the folders inside, so that there is {names[0]}/{next(iter(nested))} and so on"
    else:
        advice = _advise_choice(folder, nested)
    raise RequestError(
        f"{folder.path}: {_name_folders(nested)} hold the same folders each, {_name_folders(names)}, and "
        f"either may be the classes. {advice}. Or, if {_name_folders(nested)} are the classes, with all "
        f"images below them: {_way_out(folder, 'classes')}"
    )


def _is_odd(name: str) -> bool:
    """Whether a name is rather that of a part or a kind of files than that of a class."""
    known = recognise_part(name)
    if known is not None:
        return not known.rest or is_number(known.rest)
    return is_kind_or_fold(name) or is_unlabelled(name) or is_wrapper_name(name)


def _advise_choice(folder: Folder, names: dict[str, Folder]) -> str:
    first = next((sub for sub in names.values() if sub.filled), None)
    parts = f"move or link them below {folder.path} as train/, test/ and, if you have it, val/"
    if first is None:
        return f"If they are parts, put their images into folders of classes, and {parts}"
    return f"Give the one to use, such as --data-dir {_quote(first)}; or, if they are parts, {parts}"


def _way_out(folder: Folder, setting: LayoutSetting) -> str:
    where = f"--data-dir {_quote(folder)} " if setting == "classes" else ""
    return f"{where}--set data.layout={setting}"


def _quote(folder: Folder) -> str:
    return shlex.quote(str(folder.path))


def _as_part(folder: Folder) -> PartFolder:
    return PartFolder(folder.path, tuple(folder.subfolders))


def _list_others(folder: Folder, used: Iterable[Folder]) -> list[Path]:
    """Subfolders with images that are not among those used."""
    names = {subfolder.name for subfolder in used}
    return [subfolder.path for name, subfolder in folder.filled.items() if name not in names]


def _describe_parts(root: Path, parts: dict[Part, PartFolder]) -> Iterator[str]:
    """Which folder is which; nothing where it is the one that was given."""
    if parts[Part.TRAIN].path != root:
        yield "; ".join(
            f"{_USES[part]} images: {show_name(str(found.path.relative_to(root)))}"
            for part, found in sorted(parts.items())
        )


def _note_unused(root: Path, paths: list[Path]) -> Iterator[str]:
    if paths:
        yield f"not used: {_name_folders(str(path.relative_to(root)) for path in paths)}"


def _note_leftovers(folder: Folder) -> Iterator[str]:
    """What lies beside the folders of classes and is not read."""
    if folder.own_images:
        yield f"{folder.path}: {folder.own_images:,} images in no folder of a class are not used"
    unread = [name for name, subfolder in folder.subfolders.items() if subfolder.error is not None]
    for names, what in (
        (unread, "folders that cannot be read are passed over"),
        (folder.broken_links, "links to nowhere are passed over"),
        (folder.circles, "links to a folder that they are in are passed over"),
    ):
        if names:
            yield f"{folder.path}: {what}: {_name_folders(names)}"


def _name_folders(names: Iterable[str]) -> str:
    return name_first([show_name(name) for name in names], SHOWN)
