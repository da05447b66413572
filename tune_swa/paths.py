"""Paths as people write them."""

from __future__ import annotations

from pathlib import Path

from tune_swa.errors import RequestError


def expanded(path: str | Path, given_by: str) -> Path:
    """A path in which a leading `~` or `~USER` has become that user's home folder.

    Args:
        path: as it was given.
        given_by: the option or setting that gave it, for the message.

    Raises:
        RequestError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:  # which pathlib raises for this
        user = Path(path).parts[0]
        raise RequestError(
            f"{given_by} {path}: no home folder is known for {user}. Write the whole path, or ./{path} for a "
            "folder of that name"
        ) from None
