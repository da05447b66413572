"""Match the subfolders of a folder with the parts of a set, by their names and by what they hold."""

from __future__ import annotations

from typing import NoReturn

from tune_swa.data.folder_names import PartName, is_kind_or_fold, is_wrapper_name, recognise_part, show_name
from tune_swa.data.folder_tree import Folder
from tune_swa.data.sources import Part
from tune_swa.errors import RequestError
from tune_swa.text import name_first

SHOWN = 10
"""Folders named in a message."""


def match_parts(folder: Folder) -> dict[Part, Folder]:
    """The subfolders that are parts; none where no part has training images in folders of classes.

    A name with further words, such as `x-ray_train`, needs another part with the same words beside it.

    Raises:
        RequestError: there are several sets, or a part twice.
        OSError: the folder of a part cannot be read.
    """
    groups: dict[tuple[str, ...], list[tuple[PartName, Folder]]] = {(): []}
    for name, subfolder in folder.subfolders.items():
        if (known := recognise_part(name)) is not None:
            if subfolder.error is not None and not known.rest:
                raise subfolder.error
            groups.setdefault(known.rest, []).append((known, subfolder))
    _add_numbered(groups)
    complete = []
    for rest, members in groups.items():
        chosen = {
            part: min((m for m in members if m[0].part is part), key=_rank_candidate)
            for part in sorted({known.part for known, _ in members})
        }
        train = chosen.get(Part.TRAIN)
        if train is None or not holds_classes(train[1]) or (rest and len(chosen) == 1):
            continue
        for known, subfolder in chosen.values():
            _refuse_twins(folder, known, subfolder)
        complete.append({part: subfolder for part, (_, subfolder) in chosen.items()})
        if not rest:
            return complete[0]
    if len(complete) > 1:
        refuse_sets(folder, [parts[Part.TRAIN].name for parts in complete])
    return complete[0] if complete else {}


def holds_classes(folder: Folder) -> bool:
    """Whether a part has folders of classes, not `images` and `labels` as sets for detection have."""
    filled = unwrap_part(folder).filled
    return len(filled) > 1 or any(
        inner.filled or not (is_wrapper_name(name) or is_kind_or_fold(name)) for name, inner in filled.items()
    )


def unwrap_part(folder: Folder) -> Folder:
    """`train/train`, as Kaggle packs it, or `train/images`."""
    while True:
        inner = folder.filled.get(folder.name)
        if inner is None and len(folder.filled) == 1 and not folder.own_images:
            ((name, only),) = folder.filled.items()
            inner = only if is_wrapper_name(name) else None
        if inner is None or not inner.filled:
            return folder
        folder = inner


def refuse_sets(folder: Folder, names: list[str]) -> NoReturn:
    """Several folders of training images beside each other.

    Raises:
        RequestError: always.
    """
    sets = name_first([show_name(name) for name in names], SHOWN)
    raise RequestError(
        f"{folder.path}: {sets} hold training images each; give one of them: move or link it to train/ in a "
        "folder of its own, and its test and validation images to test/ and val/ beside it"
    )


def _rank_candidate(member: tuple[PartName, Folder]) -> tuple[bool, bool, int]:
    """Lower: rather the folder of the part. An empty `val` does not hide a `dev`."""
    known, folder = member
    return not holds_classes(folder), not folder.holds_images, known.rank


def _add_numbered(groups: dict[tuple[str, ...], list[tuple[PartName, Folder]]]) -> None:
    """Take `test1` for `test` where there is neither that nor a `test2`."""
    usual = {known.part for known, _ in groups[()]}
    numbered = [member for rest, members in groups.items() if is_number(rest) for member in members]
    parts = [known.part for known, _ in numbered]
    groups[()] += [m for m in numbered if m[0].part not in usual and parts.count(m[0].part) == 1]


def is_number(rest: tuple[str, ...]) -> bool:
    """Whether the other words of a part's name are numbers, as in `test1`."""
    return bool(rest) and all(word.isdecimal() for word in rest)


def _refuse_twins(folder: Folder, known: PartName, chosen: Folder) -> None:
    twins = [name for name in folder.subfolders if name.lower() == chosen.name.lower()]
    if len(twins) > 1:
        raise RequestError(
            f"{folder.path}: {' and '.join(twins)} differ in upper and lower case only; which of them holds "
            f"the {known.part.name.lower()} images? Rename or remove the others"
        )
