"""Recognise what a folder's name says: a part of a set, a kind of file, a fold, or the system's own."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from tune_swa.data.sources import Part
from tune_swa.text import name_first

SHOWN_CLASSES = 40

_WORDS = {
    Part.TRAIN: ("train", "training", "trainval"),
    Part.VAL: ("val", "valid", "validation", "validate", "dev", "development", "eval", "evaluation"),
    Part.TEST: ("test", "testing", "holdout"),
}
"""In the order in which they are preferred."""
_FILLERS = (
    "set", "sets", "data", "dataset", "images", "image", "imgs", "img", "pictures", "photos", "samples",
    "split", "folder", "dir", "seg", "fold", "part", "subset",
)  # fmt: skip
"""Words that add nothing to the name of a part."""
_KINDS = (
    "images", "image", "imgs", "img", "jpegimages", "masks", "mask", "labels", "label", "annotations",
    "annotation", "annots", "bboxes", "segmentation", "segmentations", "segmentationclass",
    "segmentationobject", "groundtruth", "gt", "labeled", "labelled",
)  # fmt: skip
"""Kinds of files that belong together, as sets for detection and segmentation keep them."""
_NO_LABELS = ("all", "unknown", "unlabeled", "unlabelled", "unclassified", "unsorted", "pred", "seg_pred")
_FOLDS = ("fold", "kfold", "k", "cv", "partition", "batch", "shard", "chunk")
_SYSTEM = (
    "__macosx", "__pycache__", "@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot",
    "$recycle.bin", "recycler", "system volume information", "lost+found", "found.000", "temporary items",
    "network trash folder",
)  # fmt: skip
"""Folders that Linux, macOS, Windows and the makers of network disks put beside the user's."""
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_a-zA-Z]+")


class PartName(NamedTuple):
    """A folder's name that may be that of a part."""

    part: Part
    rank: int
    """Lower: rather the usual name."""
    rest: tuple[str, ...]
    """Its other words, without those that add nothing."""


def is_system_folder(name: str) -> bool:
    """Whether a folder of this name is hidden, or the system's and not the user's."""
    return name.startswith(".") or name.lower().startswith("__macosx") or name.lower() in _SYSTEM


def recognise_part(name: str) -> PartName | None:
    """The part that a name such as `train`, `training_set`, `TestImages` or `x-ray_val` may mean."""
    text = re.sub(r"(?i)h[oe]ld[\W_]*out", "holdout", unicodedata.normalize("NFC", name))
    words = [word.lower() for word in _WORD.findall(text)]
    found = {word: known for word in words if (known := _match_part(word)) is not None}
    parts = {part for part, _ in found.values()}
    if parts == {Part.TRAIN, Part.VAL} and len(words) == 2:  # train_val: what is not for the test
        return PartName(Part.TRAIN, len(_WORDS[Part.TRAIN]), ())
    if len(found) != 1:
        return None
    ((word, (part, rank)),) = found.items()
    words.remove(word)
    rest = tuple(other for other in words if other not in _FILLERS)
    # `test` itself goes before `test_set`
    return PartName(part, 2 * rank + (text.lower() != _WORDS[part][rank]), rest)


def is_kind_or_fold(name: str) -> bool:
    """Whether a folder is named as a kind of files (`masks`) or a numbered share of them (`fold3`)."""
    words = [word.lower() for word in _WORD.findall(unicodedata.normalize("NFC", name))]
    if "".join(words) in _KINDS:
        return True
    *stem, last = words or [""]
    return last.isdecimal() and bool(stem) and all(word in (*_FOLDS, *_FILLERS, *_KINDS) for word in stem)


def is_wrapper_name(name: str) -> bool:
    """Whether a folder of this name between a part and its classes adds nothing, such as `images`."""
    words = [word.lower() for word in _WORD.findall(name)]
    return bool(words) and all(word in _FILLERS or _match_part(word) for word in words)


def is_name_of_all(name: str) -> bool:
    """Whether a folder of this name holds images of unknown classes, where it is the only one of its part."""
    return is_wrapper_name(name) or name.isdecimal() or is_unlabelled(name)


def is_unlabelled(name: str) -> bool:
    """Whether a folder's name says that its images are of unknown classes."""
    return name.lower() in _NO_LABELS


def decode_name(name: str) -> str:
    """A name as UTF-8, which file systems hold, whatever encoding the locale has Python read them in."""
    try:
        return os.fsencode(name).decode(errors="surrogateescape")
    except UnicodeEncodeError:  # it does not come from a file system
        return name


def compare_key(name: str) -> str:
    """What is equal for names that are the same text, whether accents are composed (Linux) or not (macOS)."""
    return unicodedata.normalize("NFC", decode_name(name))


def show_name(name: str) -> str:
    """A name as a person reads it, on one line: control characters and bytes that are not UTF-8 escaped."""
    return "".join(map(_show_character, decode_name(name)))


def _show_character(character: str) -> str:
    if 0xDC80 <= ord(character) <= 0xDCFF:  # a byte, as Python keeps those that are not UTF-8
        return f"\\x{ord(character) & 0xFF:02x}"
    hidden = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
    return ascii(character)[1:-1] if hidden else character


def name_classes(names: Sequence[str]) -> str:
    """Join the names of classes for a person, cut where there are hundreds."""
    return name_first([show_name(name) for name in names], SHOWN_CLASSES)


def find_unwritable(name: str) -> str | None:
    """Why no result file can hold the name of a class; None: it can."""
    categories = {unicodedata.category(character) for character in decode_name(name)}
    if "Cs" in categories:
        return "holds bytes that are not UTF-8"
    return "holds characters that control a terminal" if "Cc" in categories else None


def _match_part(word: str) -> tuple[Part, int] | None:
    for part, known in _WORDS.items():
        for rank, name in enumerate(known):
            if word == name or (word.startswith(name) and word[len(name) :] in _FILLERS):
                return part, rank
    return None
