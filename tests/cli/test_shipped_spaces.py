"""Spaces that come with the package: in the wheel, by name in `--space`, and printed by `init`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from helpers.programs import ROOT
from tune_swa.cli import main
from tune_swa.config import yaml_file
from tune_swa.config.shipped_spaces import list_spaces
from tune_swa.experiment.event_lines import encode_event
from tune_swa.experiment.events import ExperimentCreated

SHIPPED = {path.stem: path for path in sorted((ROOT / "search_spaces").glob("*.yaml"))}


@pytest.fixture(scope="module")
def installed(module_path: Path) -> Path:
    """A folder with the package as its wheel installs it, and `dist/` with the source distribution."""
    checkout = module_path / "checkout"
    shutil.copytree(
        ROOT / "tune_swa", checkout / "tune_swa", symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copytree(ROOT / "search_spaces", checkout / "search_spaces")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, checkout / name)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    offline = ["--no-deps", "--no-index", "--quiet", "--disable-pip-version-check"]
    for command in (
        ["-c", "from setuptools import build_meta; build_meta.build_sdist('dist')"],
        ["-m", "pip", "wheel", *offline, "--no-build-isolation", "--wheel-dir", "dist", "."],
        [
            "-m",
            "pip",
            "install",
            *offline,
            "--no-compile",
            "--target",
            "installed",
            "--find-links",
            "dist",
            "tune-swa",
        ],
    ):
        done = subprocess.run(
            [sys.executable, *command],
            cwd=checkout,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    shutil.rmtree(checkout / "tune_swa")
    shutil.rmtree(checkout / "search_spaces")
    return checkout / "installed"


def run_installed(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, installed / "bin" / "tune-swa", *arguments], cwd=folder, text=True, check=False,
        capture_output=True, env={**os.environ, "PYTHONPATH": str(installed)},
    )  # fmt: skip


def test_a_wheel_holds_the_spaces(installed: Path, tmp_path: Path) -> None:
    with tarfile.open(next((installed.parent / "dist").glob("*.tar.gz"))) as source:
        packed = {member.name.partition("/")[2]: member for member in source.getmembers()}
    for name, path in SHIPPED.items():
        assert (installed / "tune_swa" / "spaces" / path.name).read_bytes() == path.read_bytes(), name
        assert packed[f"tune_swa/spaces/{path.name}"].size == path.stat().st_size, name
    listed = run_installed(installed, tmp_path, "init")
    assert [line.split()[0] for line in listed.stdout.splitlines()] == list(SHIPPED)
    planned = run_installed(installed, tmp_path, "search", "--space", "digits", "--dry-run", "--gpus", "0")
    assert (planned.returncode, planned.stderr) == (0, "")
    assert "Plan of digits" in planned.stdout


def test_every_shipped_space_is_listed_with_its_purpose(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == list(SHIPPED)
    for line, path in zip(lines, SHIPPED.values(), strict=True):
        purpose = line.partition("  ")[2].strip()
        assert purpose.endswith("."), f"{path.name}: its first comment line is a sentence"
        assert path.read_text().startswith(f"# {purpose}\n")


@pytest.mark.parametrize("name", SHIPPED)
def test_what_init_prints_is_a_space_file(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", name]) == 0
    printed, errors = capsys.readouterr()
    assert (printed, errors) == (SHIPPED[name].read_text(), "")
    (tmp_path / "mine.yaml").write_text(printed)
    assert yaml_file.load_experiment(tmp_path / "mine.yaml") == yaml_file.load_experiment(name)


@pytest.mark.parametrize(
    ("arguments", "hint"), [(["init"], "init NAME"), (["init", "swag"], "init swag > mine.yaml")]
)
def test_a_terminal_is_shown_what_to_do_next(
    arguments: list[str], hint: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(arguments) == 0
    assert f"tune-swa {hint}" in capsys.readouterr().err


def test_a_file_comes_before_a_shipped_space_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "swag").mkdir()
    (tmp_path / "digits").write_text("{name: mine, space: {lr: 1e-3, swa_start: 5, swa_lr: 1e-3}}")
    assert yaml_file.load_experiment("digits").name == "mine"
    assert yaml_file.load_experiment("swag").name == "swag"  # a folder is no space file


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("swa_gird", "Did you mean swa_grid? "),
        ("DIGITS", "Did you mean digits? "),
        ("search_spaces/digits.yaml", "Did you mean digits? "),
        ("mime.yaml", "Did you mean mine.yaml? "),
        ("mine", "Did you mean mine.yaml? "),
        ("unlike", "unlike: no such space file. Shipped"),
    ],
)
def test_an_unknown_space_is_answered_with_near_names(
    given: str,
    meant: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").touch()
    assert main(["search", "--space", given]) == 2
    message = capsys.readouterr().err
    assert meant in message
    assert message.endswith(f"Shipped spaces, given by name: {', '.join(list_spaces())}\n")


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("swa_gird", "swa_gird: no shipped space. Did you mean swa_grid? "),
        ("Digits", "Digits: no shipped space. Did you mean digits? "),
        ("", "'': no shipped space. "),
        ("a\nb", r"a\nb: no shipped space. "),
    ],
)
def test_init_of_an_unknown_name(given: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", given]) == 2
    assert capsys.readouterr().err == f"error: {shown}There are {', '.join(SHIPPED)}\n"


def test_a_shipped_space_is_resumed_with_its_plugin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The name in the space finds the journal, which has the option that is missing."""
    nothing: dict[str, object] = {}
    begun = ExperimentCreated(
        format=1, version="0", spec=nothing, identity=nothing, data=nothing, numerics=nothing,
        hardware=nothing, versions=nothing,
        plugins={"own": {"option": "my code/own.py", "file": "/x/my code/own.py"}},
    )  # fmt: skip
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "journal.jsonl").write_bytes(encode_event(begun) + b"\n")
    assert main(["search", "--space", "digits", "--resume", "--results-dir", str(tmp_path)]) == 2
    assert capsys.readouterr().err.endswith("Add --plugin 'my code/own.py'\n")
