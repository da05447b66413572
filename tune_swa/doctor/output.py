"""The doctor's answer as a person reads it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable

from tune_swa.doctor.finding import Finding

COLOURS = {"ok": "green", "note": "yellow", "problem": "bold red"}
LEVEL_WIDTH, AREA_WIDTH = 7, 13


def show(findings: Iterable[Finding]) -> list[Finding]:
    """Print the findings as they come, and return them.

    On a terminal in columns; elsewhere a line for each finding and one for what to do, of any length, so
    that commands can be copied and lines be searched.
    """
    show_one = _on_terminal() if sys.stdout.isatty() else None
    shown = []
    for finding in findings:
        if show_one is not None:
            show_one(finding)
        else:
            print(plain(finding), flush=True)
        shown.append(finding)
    return shown


def plain(finding: Finding) -> str:
    """A finding without colours and wrapping."""
    line = f"{finding.level:<{LEVEL_WIDTH}}  {finding.area:<{AREA_WIDTH}}  {finding.text}"
    return line if finding.remedy is None else f"{line}\n{'':<{LEVEL_WIDTH}}  -> {finding.remedy}"


def summary(findings: list[Finding]) -> str:
    """The last line."""
    problems = sum(finding.level == "problem" for finding in findings)
    if problems:
        what = "1 problem" if problems == 1 else f"{problems} problems"
        return f"{what}: a search would not run here as it should. What to do stands below each."
    return "No problem found: a search can run here."


def _on_terminal() -> Callable[[Finding], None] | None:
    """What prints a finding in columns; None where rich is missing, of which the doctor has to tell."""
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return None
    console = Console(highlight=False)

    def show_one(finding: Finding) -> None:
        line = Table.grid(padding=(0, 2, 0, 0), expand=True)
        line.add_column(width=LEVEL_WIDTH)
        line.add_column(width=AREA_WIDTH)
        line.add_column(ratio=1, overflow="fold")
        text = Text(finding.text)
        if finding.remedy is not None:
            text.append(f"\n-> {finding.remedy}", style="bold" if finding.level == "problem" else "")
        line.add_row(Text(finding.level, style=COLOURS[finding.level]), Text(finding.area), text)
        console.print(line)

    return show_one
