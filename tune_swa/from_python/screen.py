"""What a terminal would show of the output of a program with a live region, as lines."""

from __future__ import annotations

import re

KEPT_LINES = 100
"""Lines that are kept of a long output: all of them would be drawn again at every change."""

_TOKEN = re.compile(
    r"\x1b\[\?*(?P<count>[\d;]*)(?P<order>[A-Za-z])|(?P<end>\r|\n)|(?P<text>[^\x1b\r\n]+|\x1b)"
)
_UNFINISHED = re.compile(r"\x1b(\[\?*[\d;]*)?$")
_COLOURS = re.compile(r"\x1b\[[\d;]*m")


class Screen:
    """Follows text, and of a terminal's orders those that rich's live regions give: to begin a line again, to
    go lines up, to erase a line, and colours, which stay in the lines.

    Args:
        kept: lines that are shown at most.
    """

    def __init__(self, kept: int = KEPT_LINES) -> None:
        self._kept = kept
        self._lines = [""]
        self._row = 0
        self._hidden = 0
        self._begins_again = False
        """Whether what is written next replaces its line."""
        self._unfinished = ""

    @property
    def lines(self) -> list[str]:
        """The lines as they are now, with the orders for colours; the first says how many have left."""
        shown = self._lines[:-1] if self._lines[-1] == "" else self._lines
        return [*([f"... {self._hidden} earlier lines"] if self._hidden else []), *shown]

    @property
    def plain_lines(self) -> list[str]:
        """The same without colours."""
        return [_COLOURS.sub("", line) for line in self.lines]

    def write(self, text: str) -> None:
        """Take in what the program has written, wherever that was cut."""
        text = self._unfinished + text
        cut = _UNFINISHED.search(text)
        self._unfinished = text[cut.start() :] if cut else ""
        for token in _TOKEN.finditer(text[: cut.start()] if cut else text):
            if token["text"]:
                self._put_text(token["text"])
            elif token["end"] == "\r":
                self._begins_again = True
            elif token["end"]:
                self._row, self._begins_again = self._row + 1, False
                self._lines += [""] * (self._row + 1 - len(self._lines))
            elif token["order"] == "m":
                self._put_text(token[0])
            elif token["order"] == "A":
                self._row = max(0, self._row - int(token["count"] or 1))
            elif token["order"] == "K":
                self._lines[self._row] = ""
        self._drop_lines()

    def _put_text(self, text: str) -> None:
        before = "" if self._begins_again else self._lines[self._row]
        self._lines[self._row], self._begins_again = before + text, False

    def _drop_lines(self) -> None:
        """Drop the first lines if there are too many, and empty ones that a shorter region has left."""
        while len(self._lines) > self._row + 1 and self._lines[-1] == "":
            self._lines.pop()
        surplus = min(self._row, len(self._lines) - self._kept)
        if surplus > 0:
            del self._lines[:surplus]
            self._row -= surplus
            self._hidden += surplus
