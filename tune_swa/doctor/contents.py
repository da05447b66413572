"""Check what earlier searches left, and the user's images."""

from __future__ import annotations

import importlib.metadata
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from tune_swa.doctor.findings import Finding
from tune_swa.errors import RequestError
from tune_swa.text import format_bytes

JOURNAL_BYTES = 200_000_000
"""Journals beyond this many bytes in all are not read: that would take long."""
VERIFIED_BYTES = 500_000_000
"""Larger entries of the cache are not read whole: a search verifies the one it uses."""


def check_searches(results_dir: Path, program: Sequence[str] = ("tune-swa",)) -> Iterator[Finding]:
    """Yield a finding for each search that runs, can continue or cannot be read, and one for the rest.

    Args:
        results_dir: of `--results-dir`.
        program: the words that start tune_swa, for the commands that are shown.
    """
    from tune_swa.experiment.folder import JOURNAL, find_writer
    from tune_swa.experiment.state import ExperimentState

    finished, unread, left = 0, 0, JOURNAL_BYTES
    folders = sorted(path.parent for path in results_dir.glob(f"*/{JOURNAL}"))
    for folder in folders:
        process = find_writer(folder)
        left -= (folder / JOURNAL).stat().st_size
        if process is not None:
            yield Finding("ok", "searches", f"{folder} runs now (process {process})")
        elif left < 0:
            unread += 1
        else:
            try:
                state = ExperimentState.read(folder / JOURNAL)
            except RequestError as error:  # it says what to do
                yield Finding("note", "searches", str(error))
                continue
            if state.finished is not None:
                finished += 1
            elif state.header is None:
                remedy = f"Start it again, or: rm -r {shlex.quote(str(folder))}"
                yield Finding("note", "searches", f"{folder} was begun and holds nothing", remedy)
            else:
                ended = sum(trial.ended for trial in state.trials.values())
                text = f"{folder} is not finished: {ended} of {len(state.trials)} trials have ended"
                yield _check_resume(folder, text, state.header.versions.get("torch"), program)
    if finished or not folders:
        yield Finding("ok", "searches", f"finished searches in {results_dir}: {finished or 'none yet'}")
    if unread:
        text = f"{unread} more in {results_dir}, whose journals were not read"
        yield Finding("note", "searches", text)


def _check_resume(folder: Path, text: str, torch: str | None, program: Sequence[str]) -> Finding:
    here = importlib.metadata.version("torch")
    if torch is not None and torch != here:
        text += f". It began with torch {torch}, and cannot continue with {here}: the numbers would differ"
        return Finding("note", "searches", text, f"Install torch {torch} to continue it")
    words = [*program, "search", "--space", f"{folder}/space.yaml", "--results-dir", f"{folder.parent}"]
    remedy = f"{shlex.join(words)} --resume (with --data-dir and the other options it was begun with)"
    return Finding("note", "searches", text, remedy)


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
