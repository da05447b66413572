"""Show what a search prints where its caller is: a terminal, a notebook's cell, or wherever stdout goes."""

from __future__ import annotations

import io
import sys
import time
from importlib import import_module
from typing import Any, Protocol

from rich.console import Console
from rich.text import Text

from tune_swa.from_python.screen import Screen

WIDTH, HEIGHT = 100, 30
"""Columns and lines of a cell: what a notebook shows without scrolling."""
REDRAW_SECONDS = 0.4
"""Least time between two changes of a cell, each of which sends all of it."""
_PRE = '<pre style="white-space:pre;overflow-x:auto;line-height:normal">{code}</pre>'


class Display(Protocol):
    """Shows what a search's process prints."""

    reads_output: bool
    """Whether it gets the output; else the process writes to this one's own stdout and stderr."""
    environment: dict[str, str]
    """Variables by which the process knows what it writes to."""

    def write_output(self, text: str) -> None:
        """Show a piece of what the process wrote to stdout."""

    def write_error(self, text: str) -> None:
        """Show a piece of what it wrote to stderr, or a message on its end."""

    def refresh(self, *, final: bool = False) -> None:
        """Draw what is new, if that is due; called several times a second, and at the end."""


class InheritedStreams:
    """The process writes to the stdout and stderr of this one, as a command does."""

    reads_output = False
    environment: dict[str, str] = {}  # noqa: RUF012 - nothing writes to it

    def write_output(self, text: str) -> None:
        """There is nothing to show."""

    def write_error(self, text: str) -> None:
        """Print a message."""
        print(text, file=sys.stderr, end="")

    def refresh(self, *, final: bool = False) -> None:
        """There is nothing to draw."""


class ForwardedStreams(InheritedStreams):
    """stdout and stderr are objects of the program's, which get what the process writes.

    Args:
        quiet: forward messages alone.
    """

    reads_output = True

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet

    def write_output(self, text: str) -> None:
        """Pass it on."""
        if not self._quiet:
            print(text, end="")  # which a program without stdout can, too

    def refresh(self, *, final: bool = False) -> None:
        """Have it appear."""
        print(end="", flush=True)


class NotebookCell:
    """One output below the cell that called, which changes in place."""

    reads_output = True
    environment = {  # noqa: RUF012 - nothing writes to it
        "TTY_COMPATIBLE": "1",  # rich's word for: the reader understands a terminal's orders
        "TERM": "xterm-256color",
        "COLUMNS": str(WIDTH),
        "LINES": str(HEIGHT),
    }

    def __init__(self) -> None:
        self._screen = Screen()
        self._display: Any = import_module("IPython.display")
        self._handle: Any = None
        self._changed, self._drawn = False, -float("inf")

    def write_output(self, text: str) -> None:
        """Take it in; `refresh` draws it."""
        self._screen.write(text)
        self._changed = True

    def write_error(self, text: str) -> None:
        """Show it with the rest."""
        self.write_output(text)

    def refresh(self, *, final: bool = False) -> None:
        """Draw the cell, if something has changed and the last time is long enough ago."""
        now = time.monotonic()
        if not self._changed or (now - self._drawn < REDRAW_SECONDS and not final):
            return
        content = {
            "text/plain": "\n".join(self._screen.plain_lines),
            "text/html": render_html(self._screen.lines),
        }
        if self._handle is None:
            self._handle = self._display.display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)
        self._changed, self._drawn = False, now


def render_html(lines: list[str]) -> str:
    """Render lines with a terminal's colours as HTML."""
    # told that this is no notebook, in which rich would show the text by itself
    console = Console(
        record=True,
        file=io.StringIO(),
        width=WIDTH,
        force_jupyter=False,
        force_terminal=True,
        color_system="truecolor",
    )
    console.print(Text.from_ansi("\n".join(lines)), soft_wrap=True)
    return console.export_html(inline_styles=True, code_format=_PRE)


def choose_display(*, quiet: bool) -> Display:
    """Choose how to show a search that is called here; `quiet`: show messages alone."""
    if quiet:
        return ForwardedStreams(quiet=True)
    if is_in_notebook():
        return NotebookCell()
    return InheritedStreams() if _is_own_stream(sys.stdout, 1) else ForwardedStreams()


def is_in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython: Any = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def _is_own_stream(stream: Any, number: int) -> bool:
    """Whether a stream is the process's own, rather than an object that the program has put in its place."""
    try:
        return bool(stream.fileno() == number)
    except (AttributeError, OSError, ValueError):
        return False
