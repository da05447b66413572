"""Environments and checkouts at paths of all kinds, made in no time: they share this one's packages."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from helpers.programs import ROOT

ODD = 'it\'s 100% $HOME #1 [é] (x) {y} \\z "w" ;&'
"""A folder's name with what shells, formats and parsers take for theirs."""


def make_environment(folder: Path) -> Path:
    """Make a virtual environment with the packages of this one; return its Python."""
    base = getattr(sys, "_base_executable", sys.executable)
    subprocess.run([base, "-m", "venv", "--without-pip", folder], check=True)
    packages = Path(sysconfig.get_path("purelib"))
    here = folder / packages.relative_to(sys.prefix)
    shutil.rmtree(here)
    here.symlink_to(packages)
    return folder / "bin" / "python"


def copy_checkout(folder: Path) -> Path:
    """Copy what a checkout needs to run; return its `run_search.py`."""
    folder.mkdir(parents=True)
    no_caches = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "tune_swa", folder / "tune_swa", ignore=no_caches)
    shutil.copyfile(ROOT / "run_search.py", folder / "run_search.py")
    return folder / "run_search.py"
