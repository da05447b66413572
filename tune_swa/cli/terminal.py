"""Print to a terminal what may hold names from outside: no character of them gives it an order."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from tune_swa.cli.process_setup import discard_output
from tune_swa.text import escape_controls


class NamesConsole(Console):
    """A console that escapes control characters in whatever it prints; its own stay.

    A reader of the output that has gone (`| head`) ends nothing: rich would raise SystemExit in the middle of
    a search.
    """

    def on_broken_pipe(self) -> None:
        """Go on without output."""
        self.quiet = True
        discard_output()

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(escape_controls(segment.text), segment.style)
