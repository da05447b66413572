"""Paths as people write them."""

from __future__ import annotations

import os
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


def refuse_links(folder: Path) -> None:
    """Refuse a results folder in which a link leads outside, before anything is written there.

    A folder that came from elsewhere could otherwise have a search write to, and remove, files that are not
    its own. Links within the folder are harmless; wandb makes some. `folder` may be a link itself: whoever
    starts the search has named it.

    Args:
        folder: of an experiment; need not exist.

    Raises:
        RequestError: naming the link and where it leads.
    """
    inside = folder.resolve()
    for parent, folders, files in os.walk(folder):  # which does not follow links
        for path in (Path(parent, name) for name in (*folders, *files)):
            if path.is_symlink() and not path.resolve().is_relative_to(inside):
                raise RequestError(
                    f"{path}: is a link that leads out of the experiment's folder, to {path.resolve()}. "
                    "Nothing is written through it. Remove the link, or put what it leads to in its place"
                )
