"""A folder as far as it has been looked at: subfolders, and whether there are images below."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from tune_swa.data.folder_names import is_system_folder
from tune_swa.data.image_files import (
    Identity,
    find_suffix,
    identify_folder,
    identify_parents,
    is_folder,
    list_suffixes,
)


class _Listing(NamedTuple):
    folders: list[str]
    images: int
    """Number of image files."""
    broken_links: list[str]
    """Names of links to nowhere that are no image files."""
    error: OSError | None = None
    """Why it could not be read."""


class Folder:
    """A folder, listed when it is asked for, and once.

    System folders, hidden ones and links to a folder that they are in are left out.

    Args:
        path: of the folder.
        above: the folders that it was reached through; default: those that it is in.
    """

    def __init__(self, path: Path, above: frozenset[Identity] | None = None) -> None:
        self.path = path
        self._above = identify_parents(path) if above is None else above

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def own_images(self) -> int:
        """Number of image files directly in it."""
        return self._listing.images

    @property
    def broken_links(self) -> list[str]:
        """Names of links in it that lead nowhere and may have been folders."""
        return self._listing.broken_links

    @property
    def error(self) -> OSError | None:
        """Why it cannot be read; None: it can."""
        return self._listing.error

    @cached_property
    def subfolders(self) -> dict[str, Folder]:
        """By name, sorted as ImageFolder sorts classes."""
        return {name: folder for name, folder in self._linked.items() if not folder._is_circle}

    @cached_property
    def circles(self) -> list[str]:
        """Names of links in it that lead to a folder that they are in."""
        return [name for name, folder in self._linked.items() if folder._is_circle]

    @cached_property
    def filled(self) -> dict[str, Folder]:
        """The subfolders that hold images, at any depth."""
        return {name: folder for name, folder in self.subfolders.items() if folder.holds_images}

    @cached_property
    def holds_images(self) -> bool:
        """Whether there is an image in it, at any depth; stops at the first."""
        pending = [self]
        while pending:
            folder = pending.pop()
            if folder.own_images:
                return True
            pending += folder.subfolders.values()
        return False

    @cached_property
    def _identity(self) -> Identity:
        return identify_folder(self.path)

    @property
    def _is_circle(self) -> bool:
        return self._identity in self._above

    @cached_property
    def _linked(self) -> dict[str, Folder]:
        above = self._above | {self._identity}
        return {name: Folder(self.path / name, above) for name in sorted(self._listing.folders)}

    @cached_property
    def _listing(self) -> _Listing:
        folders, images, broken = [], 0, []
        try:
            entries = list(os.scandir(self.path))
        except OSError as error:  # it may not matter: a folder beside those of the parts
            return _Listing([], 0, [], error)
        for entry in entries:
            if is_folder(entry):
                if not is_system_folder(entry.name):
                    folders.append(entry.name)
            elif not entry.name.startswith("."):
                if find_suffix(entry.name) in list_suffixes("all"):
                    images += 1
                elif entry.is_symlink() and not Path(entry.path).exists():
                    broken.append(entry.name)
        return _Listing(folders, images, sorted(broken))
