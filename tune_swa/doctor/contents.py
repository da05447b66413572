"""Check the cache of decoded images, and the user's images."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tune_swa.doctor.findings import Finding
from tune_swa.errors import RequestError
from tune_swa.text import format_bytes

VERIFIED_BYTES = 500_000_000
"""Larger entries of the cache are not read whole: a search verifies the one it uses."""


def check_cached_images() -> Iterator[Finding]:
    """Count the entries of the image cache, and list those that are of no use."""
    from tune_swa.data.cache import list_entries

    entries = list(list_entries(VERIFIED_BYTES))
    useless = [entry for entry in entries if entry.state != "whole"]
    size = sum(entry.size for entry in entries if entry.state == "whole")
    text = f"sets of decoded images: {len(entries) - len(useless)} ({format_bytes(size)})"
    yield Finding("ok", "image cache", text)
    if useless:
        states = Counter(entry.state for entry in useless)
        counts = ", ".join(f"{count} {state}" for state, count in states.items())
        size = sum(entry.size for entry in useless)
        text = f"{counts} ({format_bytes(size)}); a search decodes what it needs of them again"
        folders = shlex.join(str(entry.folder) for entry in useless)
        yield Finding("note", "image cache", text, f"To free the space: rm -r {folders}")


def check_image_folder(folder: Path) -> Iterator[Finding]:
    """Count the images of `--data-dir`. Nothing is decoded."""
    from tune_swa.config import DataSpec
    from tune_swa.data.folder_names import name_classes
    from tune_swa.data.source_lookup import find_source
    from tune_swa.data.sources import Part

    try:
        source = find_source(DataSpec(dataset="folder"), folder)
        listing = source.preview_images()
    except RequestError as error:
        if folder.expanduser().is_dir():
            remedy = "For a set that torchvision downloads there this does not matter"
            yield Finding("note", "images", str(error), remedy)
        else:
            remedy = "Give the folder of your images, or make one (mkdir) for torchvision to download into"
            yield Finding("problem", "images", str(error), remedy)
        return
    names = {Part.TRAIN: "training", Part.VAL: "validation", Part.TEST: "test"}
    counts = ", ".join(f"{(listing.parts == part).sum():,} {name}" for part, name in names.items())
    text = f"{folder}: {counts} images in {len(listing.class_names)} classes"
    text += f" ({name_classes(listing.class_names)})"
    yield Finding("ok", "images", "; ".join([text, *source.folder_notes]))
