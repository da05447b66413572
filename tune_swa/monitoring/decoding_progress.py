"""Show how far the decoding of images is."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

WORTH_SHOWING = 200
"""Fewer images are decoded before anyone could read the message."""


class Decoding:
    """Shows how many images are decoded: a bar on a terminal, a line every ten seconds elsewhere."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._bar = Progress(
            TextColumn("decoding images"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("decoding", total=None)
        self._started = False
        self._printed = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` images are decoded."""
        if self._quiet or total < WORTH_SHOWING:
            return
        if self._console.is_terminal:
            if not self._started:
                self._bar.start()
                self._started = True
            self._bar.update(self._task, completed=done, total=total)
        elif done == total or time.monotonic() - self._printed >= 10:
            self._printed = time.monotonic()
            self._console.print(f"decoding images: {done} of {total}")

    def __enter__(self) -> Decoding:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._started:
            self._bar.stop()
