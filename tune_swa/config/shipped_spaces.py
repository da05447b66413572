"""Find the space files that come with the package."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from tune_swa.errors import RequestError
from tune_swa.text import quote_name

FOLDER = Path(__file__).parent.parent / "spaces"
"""In a checkout a link to `search_spaces/`, in a wheel a folder with the files."""


def list_spaces() -> dict[str, Path]:
    """List the shipped space files by name, such as `digits`."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def locate_space(path: Path) -> Path:
    """Return the file that `--space` means: the one at that path, else the shipped one of that name.

    A folder of that name is in nobody's way: `results/` has one for each experiment.
    """
    shipped = list_spaces().get(str(path))
    if shipped is None or (path.exists() and not path.is_dir()):
        return path
    return shipped


def read_space(name: str) -> str:
    """Read the shipped space of that name, comments included.

    Raises:
        RequestError: there is none; with the nearest names.
    """
    spaces = list_spaces()
    if name not in spaces:
        close = difflib.get_close_matches(Path(name).stem.lower(), spaces, n=1)
        question = f"Did you mean {close[0]}? " if close else ""
        raise RequestError(
            f"{quote_name(name) or repr(name)}: no shipped space. {question}There are {', '.join(spaces)}"
        )
    return spaces[name].read_text(encoding="utf-8")


def suggest_spaces(path: Path) -> str:
    """Say in a message which shipped space, or which file beside it, a path that does not exist may mean."""
    spaces = list_spaces()
    beside = {file.name: str(file) for end in ("*.yaml", "*.yml") for file in sorted(path.parent.glob(end))}
    close = [
        *(name for name in difflib.get_close_matches(path.stem.lower(), spaces, n=1)),
        *(beside[name] for name in _find_beside(path, beside)),
    ]
    question = f"Did you mean {' or '.join(close)}? " if close else ""
    return f"{question}Shipped spaces, given by name: {', '.join(spaces)}"


def _find_beside(path: Path, names: Iterable[str]) -> list[str]:
    """Names that a mistyped one may mean: it without an ending, else the closest."""
    same = [name for name in names if Path(name).stem == path.name]
    return same or difflib.get_close_matches(path.name, list(names), n=1)


def describe_space(name: str) -> str:
    """Return the first line of a shipped space's comment."""
    return list_spaces()[name].read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
