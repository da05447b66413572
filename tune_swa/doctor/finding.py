"""What a check has found, and how a check is kept from taking the command down with it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from tune_swa.text import first_line

Level = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's answer."""

    level: Level
    """`problem`: a search cannot run as it should. `note`: it can, but there is something to know."""
    area: str
    """What was looked at, such as `memory`."""
    text: str
    remedy: str | None = None
    """What to do about it; every problem has one."""


def ok(area: str, text: str) -> Finding:
    return Finding("ok", area, text)


def note(area: str, text: str, remedy: str | None = None) -> Finding:
    return Finding("note", area, text, remedy)


def problem(area: str, text: str, remedy: str) -> Finding:
    return Finding("problem", area, text, remedy)


Check = Callable[[], Iterable[Finding]]


def findings_of(area: str, check: Check, seconds: float) -> list[Finding]:
    """Run a check; whatever happens in it becomes a finding.

    It runs in a thread, so that a file system or a server that never answers costs `seconds` and not
    for ever.
    """
    found: list[Finding] = []

    def run() -> None:
        try:
            found.extend(check())
        except Exception as error:  # a check that fails is a line, not a traceback
            found.append(_failed(area, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        return [
            *found,
            problem(
                area,
                f"no answer within {seconds:g} seconds",
                "A file system or a server that hangs would stop a search, too. See that it answers, or use "
                "another place",
            ),
        ]
    return found


def _failed(area: str, error: Exception) -> Finding:
    text = f"{type(error).__name__}: {first_line(error)}"
    if isinstance(error, ImportError):
        return problem(
            area,
            f"a package is missing or damaged ({text})",
            "Install tune_swa with what it needs again: pip install --force-reinstall in its environment",
        )
    return note(area, f"could not be looked at ({text})")
