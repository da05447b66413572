"""Short texts that several rooms need: the first line of an error, byte sizes, shortened lists."""

from __future__ import annotations

from collections.abc import Sequence


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
