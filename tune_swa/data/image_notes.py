"""Describe skipped, converted and duplicate images for the log, the journal and the files' metadata."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tune_swa.data.duplicates import Duplicates
from tune_swa.text import name_first

SHOWN = 10
"""Names that are kept of each kind."""


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

    def __str__(self) -> str:
        return f"{self.count}: {name_first(self.first, SHOWN, self.count)}"


@dataclass(frozen=True)
class ImageNotes:
    """Images that were skipped, converted (by kind of conversion), or occur more than once."""

    skipped: NamedImages = NamedImages(0, ())
    converted: Mapping[str, NamedImages] = field(default_factory=dict)
    duplicates: Duplicates | None = None
    """None: they are not divided yet, or were not compared."""

    def format_lines(self) -> list[str]:
        """One line for each kind, with names."""
        lines = (
            [f"images skipped, since they cannot be decoded, {self.skipped}"] if self.skipped.count else []
        )
        lines += [f"images converted to RGB, {kind}, {group}" for kind, group in self.converted.items()]
        return lines + (self.duplicates.format_lines() if self.duplicates else [])

    def format_summary(self) -> str:
        """All of it in a few words; empty without any such image."""
        parts = [f"{group.count} {kind}" for kind, group in self.converted.items()]
        skipped = [f"{self.skipped.count} images skipped"] if self.skipped.count else []
        decoded = "; ".join(skipped + ([f"converted to RGB: {', '.join(parts)}"] if parts else []))
        twice = self.duplicates.format_summary() if self.duplicates else ""
        return "\n".join(filter(None, (decoded, twice)))

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        duplicates = {"duplicates": self.duplicates.as_dict()} if self.duplicates else {}
        return {
            "skipped": {"count": self.skipped.count, "first": list(self.skipped.first)},
            "converted": {
                kind: {"count": group.count, "first": list(group.first)}
                for kind, group in self.converted.items()
            },
            **duplicates,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ImageNotes:
        """The inverse of `as_dict`, but for the duplicates, which depend on the division.

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
