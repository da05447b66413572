"""Run checks and print what they find."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

from tune_swa.child_process import ChildError
from tune_swa.text import escape_controls, first_line

SECONDS = 20.0
"""Seconds for one check; most take milliseconds."""
COLOURS = {"ok": "32", "note": "33", "problem": "1;31"}
"""Green, yellow and bold red as a terminal's codes."""
LEVEL_WIDTH, AREA_WIDTH = 7, 13


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's output."""

    level: Literal["ok", "note", "problem"]
    """`problem`: a search cannot run as it should. `note`: it can, but there is something to know."""
    area: str
    """Name of the check, such as `memory`."""
    text: str
    remedy: str | None = None
    """Remedy; every problem has one."""


Check = Callable[[], Iterable[Finding]]


def run_check(area: str, check: Check, remedy: str = "", seconds: float = SECONDS) -> list[Finding]:
    """Run a check in a thread; an error or a timeout becomes a finding, since a file system may hang.

    Args:
        area: of such a finding.
        check: yields findings.
        remedy: where a child process of the check fails.
        seconds: after which it is given up.
    """
    found: list[Finding] = []

    def collect_findings() -> None:
        try:
            found.extend(check())
        except ChildError as error:
            found.append(Finding("problem", area, str(error), remedy))
        except ImportError as error:
            text = f"a package is missing or damaged ({type(error).__name__}: {first_line(error)})"
            found.append(Finding("problem", area, text, "Install tune_swa and its dependencies again"))
        except Exception as error:
            text = f"could not be checked ({type(error).__name__}: {first_line(error)})"
            found.append(Finding("note", area, text))

    thread = threading.Thread(target=collect_findings, daemon=True)
    thread.start()
    thread.join(seconds)
    if not thread.is_alive():
        return found
    text = f"no answer within {seconds:g} seconds"
    hanging = "A file system or server that hangs would stop a search, too. Repair it or use another one"
    return [*found, Finding("problem", area, text, hanging)]


def print_findings(findings: Iterable[Finding]) -> list[Finding]:
    """Print findings as they come, and return them.

    In columns on a terminal; elsewhere in lines of any length, so that they can be searched and copied.
    """
    shown = []
    for finding in findings:
        shown.append(finding)
        safe = replace(
            finding,
            text=escape_controls(finding.text),
            remedy=None if finding.remedy is None else escape_controls(finding.remedy),
        )
        print(_format_for_terminal(safe) if sys.stdout.isatty() else format_finding(safe), flush=True)
    return shown


def format_finding(finding: Finding) -> str:
    """Format without colours and wrapping."""
    line = f"{finding.level:<{LEVEL_WIDTH}}  {finding.area:<{AREA_WIDTH}}  {finding.text}"
    return line if finding.remedy is None else f"{line}\n{'':<{LEVEL_WIDTH}}  -> {finding.remedy}"


def _format_for_terminal(finding: Finding) -> str:
    indent = LEVEL_WIDTH + AREA_WIDTH + 4
    width = max(20, shutil.get_terminal_size().columns - indent)
    paragraphs = [finding.text] if finding.remedy is None else [finding.text, f"-> {finding.remedy}"]
    lines = [line for part in paragraphs for line in textwrap.wrap(part, width, break_on_hyphens=False)]
    level = f"{finding.level:<{LEVEL_WIDTH}}"
    if "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb":
        level = f"\x1b[{COLOURS[finding.level]}m{level}\x1b[0m"
    return f"{level}  {finding.area:<{AREA_WIDTH}}  " + f"\n{'':<{indent}}".join(lines)


def summarize_findings(findings: list[Finding]) -> str:
    """Return the last line of the output."""
    problems = sum(finding.level == "problem" for finding in findings)
    if not problems:
        return "No problem found: a search can run here."
    count = "1 problem" if problems == 1 else f"{problems} problems"
    return f"{count}: a search would not run here as it should. What to do is below each."
