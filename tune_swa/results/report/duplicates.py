"""The report's section on images that occur more than once, from what the journal says of them."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Picture = Callable[[int], "bytes | None"]
"""PNG of an image by its row in the set; None where it is not at hand."""
WORDS = {"train": "training", "val": "validation", "test": "test"}
KINDS = {
    "identical": "identical",
    "other_label": "in more than one class",
    "near": "nearly identical",
}
SHOWN = 10
"""Pairs that are shown of each kind."""


@dataclass(frozen=True)
class Shown:
    """One image of a pair as it is shown."""

    caption: str
    picture: str | None
    """As a data URI."""


@dataclass(frozen=True)
class Section:
    """What the page says of images that occur more than once."""

    text: str
    warning: str | None
    """Why the test accuracies look better than they are; None: for all that is known here, they do not."""
    rows: tuple[tuple[str, str, str], ...]
    """Kind, parts and number of images."""
    pairs: tuple[tuple[str, Shown, Shown], ...]
    """Kind, and the two images."""


def describe_duplicates(header: Mapping[str, Any], picture: Picture | None = None) -> Section | None:
    """The section, or None for a journal of before copies were looked for, and for images from arrays.

    Args:
        header: the `created` event.
        picture: shows an image; None: they are named only.
    """
    try:
        found = header["data"]["duplicates"]
        if found is None:
            return None
        sizes = {part: int(header["data"][part]) for part in WORDS}
        rows = [row for kind in KINDS if found[kind] for row in _rows(kind, found[kind]["counts"], sizes)]
        removed = sum(int(count) for count in found["left_out"]["counts"].values())
        tested = sum(int((found[kind] or {"counts": {}})["counts"].get("train-test", 0)) for kind in KINDS)
        pairs = [
            (title, _shown(pair["image"], picture), _shown(pair["copy"], picture))
            for kind, title in KINDS.items()
            if found[kind]
            for pair in found[kind]["first"][:SHOWN]
        ]
        text = _text(str(found["setting"]), removed, compared=found["near"] is not None, any_found=bool(rows))
    except (KeyError, TypeError, ValueError, AttributeError):  # of another version
        return None
    warning = None
    if tested:
        warning = (
            f"{tested:,} of {sizes['test']:,} test images are among the training images, too: accuracies on "
            "the test images look better than they are"
        )
    return Section(text, warning, tuple(rows), tuple(pairs))


def _rows(kind: str, counts: Mapping[str, Any], sizes: Mapping[str, int]) -> list[tuple[str, str, str]]:
    rows = []
    for key, count in counts.items():
        first, _, second = key.partition("-")
        if kind == "other_label":
            parts, number = "anywhere", f"{int(count):,}"
        else:
            within = first == second
            parts = f"{WORDS[second]} images, also in {'the same part' if within else WORDS[first]}"
            number = f"{int(count):,} of {sizes[second]:,}"
        rows.append((KINDS[kind], parts, number))
    return rows


def _text(setting: str, removed: int, *, compared: bool, any_found: bool) -> str:
    sentences = [
        "Images count as identical where all pixels are the same at the size of the search, and as nearly "
        "identical where a perceptual hash and their pixels agree (a file that was saved or resized again, "
        "another brightness)."
    ]
    if not any_found:
        sentences.append("There are none." if compared else "No two are identical.")
    if not compared:
        sentences.append(
            "Nearly identical ones were not counted: different images of this set are too much alike."
        )
    if setting == "group":
        sentences.append(
            "All copies of an image were kept on one side of each split (data.duplicates: group)."
        )
    if removed:
        sentences.append(
            f"{removed:,} images were left out of training or validation, since copies of them are among the "
            "test or validation images that the set brings."
        )
    return " ".join(sentences)


def _shown(image: Mapping[str, Any], picture: Picture | None) -> Shown:
    png = picture(int(image["row"])) if picture else None
    uri = None if png is None else "data:image/png;base64," + base64.b64encode(png).decode()
    return Shown(f"{image['name']}, {image['part']}, {image['label']}", uri)
