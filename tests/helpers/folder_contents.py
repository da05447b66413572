"""Folders as they are on the disk."""

from __future__ import annotations

from pathlib import Path


def contents_of(root: Path, *, leaving_out: Path) -> dict[Path, bytes | None]:
    """Every file below `root` with its content, folders as None, links not followed."""
    found: dict[Path, bytes | None] = {}
    for path in sorted(root.rglob("*")):
        if path == leaving_out or leaving_out in path.parents:
            continue
        found[path] = path.read_bytes() if path.is_file() and not path.is_symlink() else None
    return found
