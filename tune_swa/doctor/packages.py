"""Compare the installed packages with what tune_swa requires."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator

from tune_swa.doctor.findings import Finding

DISTRIBUTION = "tune-swa"
SHOWN = ("torch", "torchvision", "ray", "optuna", "numpy")
"""Packages whose versions are listed when all are right."""


def check_packages() -> Iterator[Finding]:
    """Check each declared requirement. What those packages require themselves is left to `pip check`."""
    from packaging.requirements import Requirement

    try:
        declared = map(Requirement, importlib.metadata.requires(DISTRIBUTION) or [])
    except importlib.metadata.PackageNotFoundError:
        text = "tune_swa runs from its folder without being installed, so its requirements are unknown"
        yield Finding("note", "packages", text, "Run `pip install -e .` in that folder")
        return
    wrong = False
    for requirement in declared:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = _find_version(requirement.name)
        if version is None:
            text = f"{requirement.name} is not installed"
        elif not requirement.specifier.contains(version, prereleases=True):
            text = f"{requirement.name} is {version}, but tune_swa needs {requirement.specifier}"
        else:
            continue
        wrong = True
        requirement.marker = None  # the shell needs none
        yield Finding("problem", "packages", text, f"Run: pip install '{requirement}'")
    if not wrong:
        versions = ", ".join(f"{name} {_find_version(name)}" for name in SHOWN)
        yield Finding(
            "ok", "packages", f"{versions}, Python {platform.python_version()}; all requirements are met"
        )


def _find_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
