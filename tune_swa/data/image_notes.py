"""Describe images that were skipped, converted or found twice, and files left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tune_swa.data.duplicates import Duplicates
from tune_swa.text import name_first

SHOWN = 10
"""Names that are kept of each kind."""
DEEP_GREY, DEEP_COLOUR = "16-bit greyscale", "16-bit colour that is nearly black"
USED_BITS = {bits: f"{bits} of 16 bits used" for bits in (8, 10, 12, 14)}
"""Kinds of 16-bit greyscale images that hold no larger values than cameras of so many bits give."""


@dataclass(frozen=True)
class NamedImages:
    """Images of one kind."""

    count: int
    first: tuple[str, ...]
    """Names of the first few, with the reason where there is one."""

    @classmethod
    def from_names(cls, names: Iterable[str]) -> NamedImages:
        listed = list(names)
        return cls(len(listed), tuple(listed[:SHOWN]))

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {"count": self.count, "first": list(self.first)}

    def __str__(self) -> str:
        return f"{self.count}: {name_first(self.first, SHOWN, self.count)}"


@dataclass(frozen=True)
class ImageNotes:
    """Images that were skipped, converted (by kind of conversion), or occur more than once, and files beside
    them that were left out (by suffix)."""

    skipped: NamedImages = NamedImages(0, ())
    converted: Mapping[str, NamedImages] = field(default_factory=dict)
    duplicates: Duplicates | None = None
    """None: they are not divided yet, or were not compared."""
    left_out: Mapping[str, NamedImages] = field(default_factory=dict)

    def format_lines(self) -> list[str]:
        """One line for each kind, with names."""
        lines = [
            f"files left out, since they are no images by their suffix, {suffix}, {group}"
            for suffix, group in self.left_out.items()
        ]
        if self.skipped.count:
            lines.append(f"images skipped, since they cannot be decoded, {self.skipped}")
        lines += [f"images converted to RGB, {kind}, {group}" for kind, group in self.converted.items()]
        return lines + (self.duplicates.format_lines() if self.duplicates else [])

    def format_summary(self) -> str:
        """All of it in a few words; empty without any such image."""
        left_out = self.format_left_out()
        twice = self.duplicates.format_summary() if self.duplicates else ""
        lines = (left_out and f"files left out: {left_out}", self.format_decoded(), *self.format_warnings())
        return "\n".join(filter(None, (*lines, twice)))

    def format_decoded(self) -> str:
        """What was skipped and converted when the images were decoded; empty if nothing was."""
        parts = [f"{group.count} {kind}" for kind, group in self.converted.items()]
        skipped = [f"{self.skipped.count} images skipped"] if self.skipped.count else []
        return "; ".join(skipped + ([f"converted to RGB: {', '.join(parts)}"] if parts else []))

    def format_left_out(self) -> str:
        """The files that were left out, counted by suffix; empty if there are none."""
        counts = ", ".join(f"{group.count:,} {suffix}" for suffix, group in self.left_out.items())
        return f"{counts} (no images by their suffix)" if counts else ""

    def format_warnings(self) -> list[str]:
        """What to do about images that a conversion made nearly black."""
        lines = []
        dim = {bits: self.converted[kind].count for bits, kind in USED_BITS.items() if kind in self.converted}
        deep = self.converted.get(DEEP_GREY, NamedImages(0, ())).count
        if dim:
            most = max(dim)
            remedy = f"--set data.grey_bits={most} scales them"
            if sum(dim.values()) < deep:
                remedy = "unless they are meant to be that dark, scale them to 16 bits first"
            lines.append(
                f"{sum(dim.values()):,} of {deep:,} 16-bit greyscale images hold no value above "
                f"{2**most - 1:,} of 65,535, so they are nearly black here: {remedy}"
            )
        if DEEP_COLOUR in self.converted:
            lines.append(
                f"{self.converted[DEEP_COLOUR].count:,} images of 16-bit colour are nearly black, since the "
                "high byte of each value is used: unless they are meant to be that dark, scale them first"
            )
        return lines

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        duplicates = {"duplicates": self.duplicates.as_dict()} if self.duplicates else {}
        return {
            "skipped": self.skipped.as_dict(),
            "converted": {kind: group.as_dict() for kind, group in self.converted.items()},
            "left_out": {suffix: group.as_dict() for suffix, group in self.left_out.items()},
            **duplicates,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ImageNotes:
        """The inverse of `as_dict`, but for the duplicates, which depend on the division, and the files left
        out, which are not images of the set.

        Raises:
            KeyError, TypeError: the values are of another shape.
        """
        return cls(
            skipped=NamedImages(values["skipped"]["count"], tuple(values["skipped"]["first"])),
            converted={
                kind: NamedImages(group["count"], tuple(group["first"]))
                for kind, group in values["converted"].items()
            },
        )


NO_NOTES = ImageNotes()
"""Nothing was skipped, and all images were RGB."""
