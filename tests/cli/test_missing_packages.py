"""A package that is missing is named, with the Python that lacks it and the command that installs it."""

from __future__ import annotations

import importlib.metadata
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from helpers.programs import ROOT
from tune_swa.cli import missing_packages

DIGITS = str(ROOT / "search_spaces" / "digits.yaml")


def make_bare(folder: Path) -> Path:
    base = getattr(sys, "_base_executable", sys.executable)
    subprocess.run([base, "-m", "venv", "--without-pip", folder], check=True)
    return folder / "bin" / "python"


def run(*words: object) -> list[str]:
    """Run a command that has to be refused; return the lines on stderr."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/nowhere"}
    result = subprocess.run(
        [str(word) for word in words], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert (result.returncode, result.stdout) == (2, ""), result.stderr
    return result.stderr.splitlines()


@pytest.mark.parametrize(
    "words",
    [
        ["run_search.py", "--space", DIGITS],
        ["-m", "tune_swa", "search", "--space", DIGITS, "--dry-run"],
        ["-m", "tune_swa", "schema"],
        ["-m", "tune_swa", "compare", "results/a", "results/b"],
    ],
)
def test_a_python_without_packages(words: list[str], tmp_path: Path) -> None:
    python = make_bare(tmp_path / "bare env")
    said, command = run(python, *words)
    assert said.startswith("error: the package ")
    assert f"is not installed in the Python that runs this ({python})" in said
    assert shlex.split(command) == ["uv", "pip", "install", "--python", str(python), "-e", str(ROOT)]


def test_one_package_of_an_installed_tune_swa(tmp_path: Path) -> None:
    """The requirement is the one that tune_swa declares."""
    python = make_bare(tmp_path / "env")
    there = Path(sysconfig.get_path("purelib"))
    here = tmp_path / "env" / there.relative_to(sys.prefix)
    for entry in there.iterdir():
        if not entry.name.startswith(("plotly", "__editable__", "tune_swa")):
            (here / entry.name).symlink_to(entry)
    shutil.copytree(ROOT / "tune_swa", here / "tune_swa")
    about = next(there.glob("tune_swa-*.dist-info"))
    (here / about.name).symlink_to(about)
    said, command = run(python, "-P", "-m", "tune_swa", "search", "--space", DIGITS, "--gpus", "0")
    assert said.startswith(
        f"error: the package plotly is not installed in the Python that runs this ({python})"
    )
    assert shlex.split(command) == [str(python), "-m", "pip", "install", "plotly>=6"]


@pytest.mark.parametrize("declared", [["numpy>=2"], None], ids=["all are met", "no metadata"])
def test_what_no_requirement_names_is_installed_by_its_name(
    declared: list[str] | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A package of a package, or a copy of the code alone."""

    def read_requirements(name: str) -> list[str]:
        if declared is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return declared

    monkeypatch.setattr(missing_packages, "CHECKOUT", tmp_path)
    monkeypatch.setattr(importlib.metadata, "requires", read_requirements)
    said = missing_packages.explain_import_error(ModuleNotFoundError("no", name="alembic.util"))
    assert shlex.split(said.splitlines()[-1])[-2:] == ["install", "alembic"]


def test_a_python_that_was_built_without_a_module() -> None:
    said = missing_packages.explain_import_error(ModuleNotFoundError("no", name="_lzma"))
    assert f"({sys.executable}) was built without its module _lzma" in said
    assert len(said.splitlines()) == 1  # without a command


def test_a_package_that_does_not_fit(tmp_path: Path) -> None:
    (tmp_path / "pydantic.py").write_text("")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from tune_swa.cli import main; sys.exit(main())"
    )
    [said] = run(sys.executable, "-c", code, "schema")
    assert said.startswith(
        f"error: a package of {sys.executable} is damaged, or does not fit the others (cannot"
    )
    assert f"`{shlex.quote(sys.executable)} -m tune_swa doctor`" in said
