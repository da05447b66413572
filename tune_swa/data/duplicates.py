"""Count and name the images that occur more than once, by the parts that they are in."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from tune_swa.data.similarity import Copies, Rows
from tune_swa.data.sources import Labels, Part, Parts
from tune_swa.data.splits import Division
from tune_swa.text import name_first

SHOWN = 10
"""Pairs that are named of each kind."""
BRIEFLY = 3
"""Pairs that are named where there is little room."""
PAIRS = (("train", "test"), ("val", "test"), ("train", "val"), ("train",) * 2, ("val",) * 2, ("test",) * 2)
"""Parts that are compared: images of the second are counted. Those that spoil a verdict come first."""
WORDS = {"train": "training", "val": "validation", "test": "test"}

Setting = Literal["warn", "error", "group"]


@dataclass(frozen=True)
class Image:
    """One image of a pair."""

    row: int
    name: str
    """Its file below the folder of the images, or its number."""
    part: str
    """`train`, `val` or `test`."""
    label: str


@dataclass(frozen=True)
class Pair:
    """Two images that show the same."""

    image: Image
    """The one that is counted."""
    copy: Image
    """Image that it is a copy of."""

    def describe_pair(self, sign: str) -> str:
        """Both names with their parts, and with their labels where these differ."""
        differ = self.image.label != self.copy.label
        names = []
        for image in (self.image, self.copy):
            folder, slash, _ = image.name.partition("/")
            # such as test/forest/1.jpg or seg_test/forest/1.jpg, but not of the class `valley`
            named = bool(slash) and image.part in re.split(r"[^a-z]+", folder.lower())
            facts = ([] if named else [image.part]) + ([image.label] if differ else [])
            names.append(f"{image.name} ({', '.join(facts)})" if facts else image.name)
        return f" {sign} ".join(names)


@dataclass(frozen=True)
class Kind:
    """Images that show the same in one way."""

    counts: Mapping[str, int] = field(default_factory=dict)
    """Counts by pair of parts, such as `train-test`: images of the second part that the first one holds as
    well; within a part, such as `train-train`: images besides the first copy of each. Those of 0 are
    absent."""
    first: tuple[Pair, ...] = ()
    """The first few."""

    @property
    def total(self) -> int:
        """All counts together; an image may be in several."""
        return sum(self.counts.values())

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {"counts": dict(self.counts), "first": [asdict(pair) for pair in self.first]}


@dataclass(frozen=True)
class Duplicates:
    """Counts and examples of images that occur more than once."""

    setting: Setting
    """`data.duplicates`."""
    sizes: Mapping[str, int]
    """Images in each part."""
    identical: Kind
    """Same pixels at the size of the search."""
    other_label: Kind
    """Images that occur in more than one class; each is counted once, as `all`."""
    near: Kind | None
    """Nearly identical and not identical; None where the hash does not tell the images apart."""
    left_out: Kind
    """Images that `group` took out of the first part, since the second one holds them. Counted by pair of
    parts."""

    def list_sentences(self) -> list[tuple[str, Kind, str]]:
        """Describe what was found, with the images, and the sign between the two of a pair."""
        found = []
        if self.identical.total:
            found.append((f"identical images: {self._describe_counts(self.identical)}", self.identical, "="))
        if self.other_label.total:
            count = self.other_label.total
            text = f"{count:,} {'images occur' if count > 1 else 'image occurs'} in more than one class"
            found.append((text, self.other_label, "="))
        if self.near is not None and self.near.total:
            found.append((f"nearly identical images: {self._describe_counts(self.near)}", self.near, "~"))
        if self.left_out.total:
            text = "; ".join(_describe_removal(key, count) for key, count in self.left_out.counts.items())
            found.append((f"images left out: {text}", self.left_out, "~"))
        return found

    def format_lines(self, most: int = SHOWN) -> list[str]:
        """One line for each sentence, with the first few pairs."""
        lines = []
        for text, kind, sign in self.list_sentences():
            pairs = [pair.describe_pair(sign) for pair in kind.first]
            lines.append(f"{text} ({name_first(pairs, most, kind.total, separator='; ')})")
        return lines

    def format_summary(self) -> str:
        """All of it briefly, a line for each kind, and what to do; empty where no image occurs twice."""
        lines = self.format_lines(BRIEFLY)
        if self.setting == "warn" and any(self._crosses_parts(kind) for kind in (self.identical, self.near)):
            lines.append("--set data.duplicates=group keeps all copies of an image on one side of each split")
        return "\n".join(lines)

    def format_plan(self) -> str:
        """Line about it in a plan."""
        found = self.format_lines(BRIEFLY) or ["no two images are identical"]
        if self.near is None:
            found.append("nearly identical images are not counted, since different ones are too much alike")
        if self.setting == "error" and self.identical.total:
            found.append("the search refuses them (data.duplicates: error)")
        return "\n".join(found)

    def explain_refusal(self, name: str) -> str | None:
        """Why a search with `error` cannot begin, and what to do; None where no two images are identical."""
        if not self.identical.total:
            return None
        return (
            f"{name}: images occur more than once, and data.duplicates is error:\n  "
            + "\n  ".join(self.format_lines())
            + "\nRemove the copies, keep all copies of an image on one side of each split with "
            "--set data.duplicates=group, or search in spite of them with --set data.duplicates=warn. "
            "Nothing was trained"
        )

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "setting": self.setting,
            "sizes": dict(self.sizes),
            "identical": self.identical.as_dict(),
            "other_label": self.other_label.as_dict(),
            "near": None if self.near is None else self.near.as_dict(),
            "left_out": self.left_out.as_dict(),
        }

    @staticmethod
    def _crosses_parts(kind: Kind | None) -> bool:
        """Whether images of one part are in another, too."""
        return kind is not None and any(len(set(key.split("-"))) > 1 for key in kind.counts)

    def _describe_counts(self, kind: Kind) -> str:
        return "; ".join(_describe_count(key, count, self.sizes) for key, count in kind.counts.items())


def find_duplicates(
    copies: Copies,
    division: Division,
    given: Parts,
    labels: Labels,
    *,
    class_names: tuple[str, ...],
    names: Callable[[], Callable[[int], str]],
    setting: Setting,
) -> Duplicates:
    """Count the copies among the images of a division.

    Args:
        copies: which images show the same.
        division: the rows of each part, and those that were taken out.
        given: the part that each image came in, [N].
        labels: [N].
        class_names: by label.
        names: gives a function that names a row; called only where there is something to name.
        setting: `data.duplicates`.
    """
    parts = {"train": division.train, "val": division.val, "test": division.test}
    identical = _find_mates(parts, copies.identical)
    near = _find_mates(parts, copies.near, copies.identical)
    removed = _find_removed(parts, division.left_out, given, copies.near)
    conflicts = _find_conflicts(parts, copies.identical, labels)
    places = given.copy()
    for part, rows in zip(Part, parts.values(), strict=True):
        places[rows] = part
    found = (identical, near, removed, conflicts)
    name = names() if any(len(mates.rows) for mates in (m for kind in found for m in kind.values())) else str

    def describe_image(row: int) -> Image:
        part = Part(places[row]).name.lower()
        return Image(int(row), name(int(row)), part, class_names[labels[row]])

    def collect_kind(kind: dict[str, _Mates]) -> Kind:
        pairs = [p for mates in kind.values() for p in zip(mates.rows[:SHOWN], mates.copies, strict=False)]
        first = [Pair(*map(describe_image, pair)) for pair in pairs[:SHOWN]]
        return Kind({key: len(mates.rows) for key, mates in kind.items() if len(mates.rows)}, tuple(first))

    return Duplicates(
        setting=setting,
        sizes={part: len(rows) for part, rows in parts.items()},
        identical=collect_kind(identical),
        other_label=collect_kind(conflicts),
        near=collect_kind(near) if copies.near_compared else None,
        left_out=collect_kind(removed),
    )


class _Mates(NamedTuple):
    """Images, and what each is a copy of."""

    rows: Rows
    copies: Rows


def _find_mates(parts: Mapping[str, Rows], same: Rows, finer: Rows | None = None) -> dict[str, _Mates]:
    """Find by pair of parts the images that show what one of the first part shows.

    Args:
        parts: rows of each.
        same: of each image the first row that shows the same, [N].
        finer: likewise; images that have a copy by this already are passed over.
    """
    found = {}
    for first, second in PAIRS:
        rows = parts[second]
        mates = _look_up(parts[first], rows, same)
        kept = mates >= 0
        if finer is not None:
            kept &= _look_up(parts[first], rows, finer) < 0
        found[f"{first}-{second}"] = _Mates(rows[kept], mates[kept])
    return found


def _look_up(among: Rows, rows: Rows, same: Rows) -> Rows:
    """The first row of `among` that shows what each of `rows` shows; -1: none, or itself."""
    first = np.full(len(same), -1, dtype=np.int64)
    first[same[among[::-1]]] = among[::-1]
    mates = first[same[rows]]
    mates[mates == rows] = -1
    return mates


def _find_removed(parts: Mapping[str, Rows], left_out: Rows, given: Parts, same: Rows) -> dict[str, _Mates]:
    found = {}
    for first, second in ((Part.TRAIN, "test"), (Part.TRAIN, "val"), (Part.VAL, "test")):
        rows = left_out[given[left_out] == first]
        mates = _look_up(parts[second], rows, same)
        found[f"{first.name.lower()}-{second}"] = _Mates(rows[mates >= 0], mates[mates >= 0])
    return found


def _find_conflicts(parts: Mapping[str, Rows], same: Rows, labels: Labels) -> dict[str, _Mates]:
    """Find for each image in more than one class the first row of another class than its first row."""
    rows = np.sort(np.concatenate(list(parts.values())))
    first = np.full(len(same), -1, dtype=np.int64)
    first[same[rows[::-1]]] = rows[::-1]
    others = rows[labels[rows] != labels[first[same[rows]]]]
    _, index = np.unique(same[others], return_index=True)
    others = others[index]
    return {"all": _Mates(others, first[same[others]])}


def _describe_count(key: str, count: int, sizes: Mapping[str, int]) -> str:
    first, _, second = key.partition("-")
    of = f"{count:,} of {sizes[second]:,} {WORDS[second]} images {'is' if count == 1 else 'are'}"
    if first == second:
        return f"{of} {'a copy of another' if count == 1 else 'copies of others'} there"
    return f"{of} among the {WORDS[first]} images, too"


def _describe_removal(key: str, count: int) -> str:
    first, _, second = key.partition("-")
    return f"{count:,} of the {WORDS[first]} images, since they are among the {WORDS[second]} images"
