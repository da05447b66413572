"""The report's section on duplicate images, from their counts in the journal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tune_swa.experiment.events import ExperimentCreated
from tune_swa.results.report.style import encode_png

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
    """The section of the page on duplicate images."""

    text: str
    warning: str | None
    """Why the test accuracies are optimistic; None: as far as is known here, they are not."""
    rows: tuple[tuple[str, str, str], ...]
    """Kind, parts and number of images."""
    pairs: tuple[tuple[str, Shown, Shown], ...]
    """Kind, and the two images."""


def describe_duplicates(header: ExperimentCreated, picture: Picture | None = None) -> Section | None:
    """The section, or None for a journal of before copies were looked for, and for images from arrays.

    Args:
        header: the `created` event.
        picture: shows an image; None: they are named only.
    """
    try:
        found = header.data["duplicates"]
        if found is None:
            return None
        sizes = {part: int(header.data[part]) for part in WORDS}
        counted = [kind for kind in KINDS if found[kind]]
        rows = [row for kind in counted for row in _list_counts(kind, found[kind]["counts"], sizes)]
        removed = sum(int(count) for count in found["left_out"]["counts"].values())
        tested = sum(int(found[kind]["counts"].get("train-test", 0)) for kind in counted)
        pairs = [
            (KINDS[kind], _show_image(pair["image"], picture), _show_image(pair["copy"], picture))
            for kind in counted
            for pair in found[kind]["first"][:SHOWN]
        ]
        compared = found["near"] is not None
        text = _explain_counts(str(found["setting"]), removed, compared=compared, any_found=bool(rows))
    except (KeyError, TypeError, ValueError, AttributeError):  # of another version
        return None
    warning = None
    if tested:
        warning = (
            f"{tested:,} of {sizes['test']:,} test images are among the training images, too, so test "
            "accuracies are optimistic"
        )
    return Section(text, warning, tuple(rows), tuple(pairs))


def _list_counts(
    kind: str, counts: Mapping[str, Any], sizes: Mapping[str, int]
) -> list[tuple[str, str, str]]:
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


def _explain_counts(setting: str, removed: int, *, compared: bool, any_found: bool) -> str:
    sentences = [
        "Images are identical if all pixels are equal at the size of the search, and nearly identical if a "
        "perceptual hash and their pixels agree (a file saved or resized again, another brightness)."
    ]
    if not any_found:
        sentences.append("There are none." if compared else "No two images are identical.")
    if not compared:
        sentences.append(
            "Nearly identical images were not counted, because different images of this set are too similar."
        )
    if setting == "group":
        sentences.append(
            "All copies of an image were kept on one side of each split (data.duplicates: group)."
        )
    if removed:
        sentences.append(
            f"{removed:,} images were left out of training or validation, because the set has copies of them "
            "among its test or validation images."
        )
    return " ".join(sentences)


def _show_image(image: Mapping[str, Any], picture: Picture | None) -> Shown:
    png = picture(int(image["row"])) if picture else None
    caption = f"{image['name']}, {image['part']}, {image['label']}"
    return Shown(caption, None if png is None else encode_png(png))
