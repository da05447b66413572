"""Trees of empty image files, where only the listing of folders is in question."""

from __future__ import annotations

from pathlib import Path


def touch_images(root: Path, *folders: str, count: int = 3) -> None:
    """Make `count` empty .jpg files in each folder below `root`; `{a,b}` in a folder's name is both."""
    for pattern in folders:
        for folder in _expand_braces(pattern):
            (root / folder).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                (root / folder / f"{i}.jpg").touch()


def _expand_braces(pattern: str) -> list[str]:
    head, opened, rest = pattern.partition("{")
    if not opened:
        return [pattern]
    inner, _, tail = rest.partition("}")
    return [path for choice in inner.split(",") for path in _expand_braces(head + choice + tail)]
