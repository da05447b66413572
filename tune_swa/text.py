"""Short texts that several rooms need: the first line of an error, byte sizes, shortened lists."""

from __future__ import annotations

import re
from collections.abc import Sequence

# C0 and C1, line and paragraph separators, what reverses the direction of text, and lone surrogates
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def escape_controls(text: str) -> str:
    """Write the characters that a terminal obeys, or cannot show, as Python's escapes: `\\x1b`.

    Names of files, classes and settings may hold any character, and so may a journal from elsewhere. Line
    breaks and tabs stay.
    """
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def quote_name(text: str) -> str:
    """Write a name that comes from outside in one line: as it is, with `escape_controls` and `\\n`."""
    return escape_controls(text).replace("\n", "\\n").replace("\t", "\\t")


def indent_message(text: str) -> str:
    """Write a message for the terminal, its lines after the first one indented.

    A line break in a name could otherwise begin a second message.
    """
    first, *others = escape_controls(text).split("\n")
    return "\n".join([first, *(f"  {line.removeprefix('  ')}" for line in others)])


def first_line(error: BaseException, most: int = 500) -> str:
    """Return the first line of an error's message, or its type if the message is empty.

    An `OSError` becomes "FILE: reason", without the error number.
    """
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:most]


def format_bytes(count: float) -> str:
    """Format a size in decimal units: `67.1 MB`, `90 MB`, `412 GB`."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            number = count / size
            return f"{number:.3g} {unit}" if number < 100 else f"{number:.0f} {unit}"
    return f"{count:.0f} bytes"


def name_first(names: Sequence[str], most: int, total: int | None = None, separator: str = ", ") -> str:
    """Join the first `most` names and add how many more there are.

    Args:
        names: all names, or the first ones if `total` is given.
        most: how many are named.
        total: how many there are in all.
        separator: between two names.
    """
    shown = names[:most]
    hidden = (len(names) if total is None else total) - len(shown)
    return separator.join(shown) + (f" {count_hidden(hidden)}" if hidden else "")


def count_hidden(count: int) -> str:
    """End of a shortened list."""
    return f"and {count:,} more"


def escape_name(name: str) -> str:
    """A file's name on one line, whatever bytes it is made of."""
    if name.isprintable():
        return name
    text = name.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
