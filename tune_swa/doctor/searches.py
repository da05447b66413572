"""Searches in the results folder: which run now, which can go on, which cannot be read."""

from __future__ import annotations

import importlib.metadata
import shlex
from collections.abc import Iterator
from pathlib import Path

from tune_swa.doctor.finding import Finding, note, ok
from tune_swa.errors import RequestError
from tune_swa.experiment.folder import JOURNAL, SPACE, find_writer
from tune_swa.experiment.state import ExperimentState

READ_BYTES = 200_000_000
"""Journals beyond this many bytes in all are not read: that would take long."""


def searches(results_dir: Path) -> Iterator[Finding]:
    """A line for each search that is not finished, and one for all that are."""
    finished, unread, left = 0, 0, READ_BYTES
    folders = sorted(path.parent for path in results_dir.glob(f"*/{JOURNAL}"))
    for folder in folders:
        process = find_writer(folder)
        if process is not None:
            yield ok("searches", f"{folder} runs now (process {process})")
            continue
        left -= (folder / JOURNAL).stat().st_size
        if left < 0:
            unread += 1
            continue
        try:
            state = ExperimentState.read(folder / JOURNAL)
        except RequestError as error:  # it says what to do
            yield note("searches", str(error))
            continue
        if state.finished is not None:
            finished += 1
        else:
            yield _unfinished(folder, results_dir, state)
    if finished:
        yield ok("searches", f"{finished} in {results_dir} {'is' if finished == 1 else 'are'} finished")
    elif not folders:
        yield ok("searches", f"none in {results_dir} yet")
    if unread:
        yield note("searches", f"{unread} more in {results_dir}, whose journals were not read")


def _unfinished(folder: Path, results_dir: Path, state: ExperimentState) -> Finding:
    if state.header is None:
        return note(
            "searches",
            f"{folder} was begun and holds nothing",
            f"Start it again, or: rm -r {shlex.quote(str(folder))}",
        )
    ended = sum(trial.ended for trial in state.trials.values())
    open_ = len(state.trials) - ended
    text = f"{folder} is not finished: {ended} trials have ended, {open_} {'goes' if open_ == 1 else 'go'} on"
    began, here = state.header.versions.get("torch"), importlib.metadata.version("torch")
    if began is not None and began != here:
        return note(
            "searches",
            f"{text}. It began with torch {began}, and cannot go on with {here}: the numbers would differ",
            f"Install torch {began} to go on with it",
        )
    words = [
        "tune-swa",
        "search",
        "--space",
        str(folder / SPACE),
        "--results-dir",
        str(results_dir),
        "--resume",
    ]
    if results_dir == Path("results"):
        del words[4:6]
    return note(
        "searches", text, f"{shlex.join(words)} (with --data-dir and the other options it was begun with)"
    )
