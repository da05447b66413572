"""Images: those of the user, and those that are decoded already."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tune_swa.config import DataSpec
from tune_swa.data.cache import Entry, list_entries
from tune_swa.data.source_lookup import find_source
from tune_swa.data.sources import Part
from tune_swa.doctor.finding import Finding, note, ok, problem
from tune_swa.errors import RequestError
from tune_swa.text import format_bytes

VERIFIED_BYTES = 500_000_000
"""Larger entries are not read whole: a search does that with the one it uses."""
STATES = {
    "damaged": "cannot be read, or with other pixels than were written",
    "other version": "by another version of tune_swa",
    "half written": "left half written when a search was killed",
}


def cached() -> Iterator[Finding]:
    """The entries of the cache."""
    found = list(list_entries(VERIFIED_BYTES))
    whole = [entry for entry in found if entry.state == "whole"]
    yield ok("image cache", f"holds {_sets(whole)}" if whole else "holds no decoded images yet")
    for state, what in STATES.items():
        useless = [entry for entry in found if entry.state == state]
        if useless:
            yield note(
                "image cache",
                f"{_sets(useless)} {what}. A search decodes what it wants of them again",
                f"To have the space back: rm -r {shlex.join(str(entry.folder) for entry in useless)}",
            )


def _sets(found: list[Entry]) -> str:
    count = f"{len(found)} set{'s' * (len(found) != 1)} of decoded images"
    return f"{count} ({format_bytes(sum(entry.size for entry in found))})"


def given(folder: Path) -> Iterator[Finding]:
    """The folder of `--data-dir`. Nothing is decoded."""
    if not folder.expanduser().is_dir():
        kind = "is a file" if folder.expanduser().exists() else "no such folder"
        yield problem(
            "images",
            f"{folder}: {kind}",
            "Give the folder of your images, or make one (mkdir) for torchvision to download into",
        )
        return
    try:
        listing = find_source(DataSpec(dataset="folder"), folder).preview_images()
    except RequestError as error:
        yield note("images", str(error), "For a set that torchvision downloads there this does not matter")
        return
    counts = [
        f"{np.count_nonzero(listing.parts == part):,} {name}"
        for part, name in ((Part.TRAIN, "training"), (Part.VAL, "validation"), (Part.TEST, "test"))
    ]
    yield ok("images", f"{folder}: {', '.join(counts)} images in {len(listing.class_names)} classes")
