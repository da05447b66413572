"""Python and the packages: is everything here that tune_swa says it needs, in versions that will do?"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tune_swa.doctor.finding import Finding, note, ok, problem

if TYPE_CHECKING:
    from packaging.requirements import Requirement

DISTRIBUTION = "tune-swa"
SHOWN = ("torch", "torchvision", "ray", "optuna", "numpy")
"""Packages whose versions are told when nothing is wrong with them."""


def python() -> Iterator[Finding]:
    """The interpreter against `requires-python`."""
    from packaging.specifiers import SpecifierSet

    version = platform.python_version()
    try:
        wanted = importlib.metadata.metadata(DISTRIBUTION).json.get("requires_python")
    except importlib.metadata.PackageNotFoundError:
        wanted = None
    if wanted and not SpecifierSet(str(wanted)).contains(version, prereleases=True):
        yield problem(
            "Python",
            f"{version}, but tune_swa needs {wanted}",
            "Make an environment with another Python, and install tune_swa there",
        )
    else:
        yield ok("Python", f"{version} on {platform.system()} {platform.machine()}")


def packages() -> Iterator[Finding]:
    """Every requirement that tune_swa declares, with those of the extras it asks for (`ray[tune]`)."""
    try:
        declared = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        yield note(
            "packages",
            "tune_swa runs from its folder without being installed, so nothing says what it needs",
            "Run `pip install -e .` in that folder",
        )
        return
    applying = list(_applying(declared))
    named = {requirement.name for requirement in applying}
    wrong = [line for requirement in applying for line in _wrong(requirement, named)]
    for what, requirement in wrong:
        yield problem("packages", what, f"Run: pip install '{requirement}'")
    if not wrong:
        versions = [f"{name} {v}" for name in SHOWN if (v := _version(name)) is not None]
        yield ok("packages", f"{', '.join(versions)}; all that tune_swa needs is installed")


def _applying(lines: list[str], extra: str = "") -> Iterator[Requirement]:
    """Requirements whose markers hold here; with an `extra`, those that only it asks for."""
    from packaging.requirements import Requirement

    for line in lines:
        requirement = Requirement(line)
        marker = requirement.marker
        holds = marker is None or marker.evaluate({"extra": extra})
        if extra:
            holds = holds and marker is not None and not marker.evaluate({"extra": ""})
        if holds:
            yield requirement


def _wrong(requirement: Requirement, named: set[str]) -> Iterator[tuple[str, str]]:
    """What is wrong with a requirement, and what to install. What its extras lack is told here, unless it
    is one of `named`, the requirements that have a line of their own."""
    wanted = f"{requirement.name}{_extras(requirement)}{requirement.specifier}"
    version = _version(requirement.name)
    if version is None:
        yield f"{requirement.name} is not installed", wanted
        return
    if not requirement.specifier.contains(version, prereleases=True):
        yield f"{requirement.name} is {version}, but tune_swa needs {requirement.specifier}", wanted
        return
    for extra in sorted(requirement.extras):
        for below in _applying(importlib.metadata.requires(requirement.name) or [], extra):
            have = _version(below.name)
            if have is None:
                if below.name not in named:
                    yield f"{below.name} is not installed, which {requirement.name}[{extra}] needs", wanted
            elif not below.specifier.contains(have, prereleases=True):
                needs = f"{requirement.name}[{extra}] needs {below.specifier}"
                yield f"{below.name} is {have}, but {needs}", wanted


def _extras(requirement: Requirement) -> str:
    return f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
