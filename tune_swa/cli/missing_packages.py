"""Explain an import that failed: in which Python, and how to install what is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shlex
import sys
from pathlib import Path

from tune_swa.text import first_line

CHECKOUT = Path(__file__).parents[2]


def explain_import_error(error: ImportError) -> str:
    """Describe a failed import in a sentence, and what to do about it in another."""
    missing = isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("tune_swa")
    if not missing:
        doctor = shlex.join([sys.executable, "-m", "tune_swa", "doctor"])
        return (
            f"a package of {sys.executable} is damaged, or does not fit the others ({first_line(error)}). "
            f"See what is wrong with `{doctor}`, and install it again"
        )
    assert error.name
    package = error.name.partition(".")[0]
    if package in sys.stdlib_module_names:
        return (
            f"the Python that runs this ({sys.executable}) was built without its module {package}. Use "
            "another one, or build it again with the library that this module needs"
        )
    return (
        f"the package {package} is not installed in the Python that runs this ({sys.executable}). Use the "
        "Python of the environment that has it, or install what is missing:\n"
        f"{shlex.join([*_installer(), *(_list_missing() or [package])])}"
    )


def _installer() -> list[str]:
    """Return the command that installs packages here; environments made by uv have no pip."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", "install"]
    return ["uv", "pip", "install", "--python", sys.executable]


def _list_missing() -> list[str]:
    """Return what to install: requirements that are not met, or the whole checkout.

    Nothing where all are met, or where a copy of the package alone does not say what it requires.
    """
    if (CHECKOUT / "pyproject.toml").exists():
        return ["-e", str(CHECKOUT)]
    try:
        declared = importlib.metadata.requires("tune-swa") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    needed = [text for text in declared if "extra ==" not in text]
    return [text.partition(";")[0].strip() for text in needed if not _is_installed(text)]


def _is_installed(requirement: str) -> bool:
    name = re.match(r"[\w.-]+", requirement)
    try:
        return name is not None and bool(importlib.metadata.version(name[0]))
    except importlib.metadata.PackageNotFoundError:
        return False
