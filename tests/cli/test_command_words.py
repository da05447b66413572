"""The command that a person is told to run is the one that ran, whatever way the program was started."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.other_pythons import copy_checkout, make_environment
from tune_swa.cli import run_search
from tune_swa.cli.command_words import find_program_words

INSTALLED = """#!/bin/sh
'''exec' '{python}' "$0" "$@"
' '''
import sys
from tune_swa.cli import main
sys.exit(main())
"""
"""As pip writes it where the path has a space."""
UV_RUN = """
import signal, subprocess, sys
process = subprocess.Popen(sys.argv[1:])
signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.exit(process.wait())
"""
"""In uv's place: started as `uv run ...` it waits for the program, as uv does."""


@pytest.fixture(scope="module")
def checkout(module_path: Path) -> Path:
    """A checkout with an environment in it, and a space file that is being read until somebody writes it."""
    checkout = copy_checkout(module_path / "my code").parent
    python = make_environment(checkout / "my venv")
    (python.parent / "tune-swa").write_text(INSTALLED.format(python=python))
    (python.parent / "tune-swa").chmod(0o755)
    (checkout / "uv").symlink_to(sys.executable)
    (checkout / "run").write_text(UV_RUN)
    os.mkfifo(checkout / "a space.yaml")
    return checkout


@pytest.mark.parametrize(
    "typed",
    [
        "python run_search.py",
        "'my venv/bin/python' run_search.py",
        "'{here}/my venv/bin/python' -W ignore '{here}/run_search.py'",
        "python -m tune_swa search",
        "'my venv/bin/python' -mtune_swa search",
        "tune-swa search",
        "'my venv/bin/tune-swa' search",
        "'{here}/my venv/bin/tune-swa' search",
        "./uv run python run_search.py",
    ],
)
def test_the_command_that_is_printed(typed: str, checkout: Path) -> None:
    """`python` and `tune-swa` alone are those of an environment that is active."""
    active = not typed.startswith("'")
    path = f"{checkout}/my venv/bin:{os.environ['PATH']}" if active else os.environ["PATH"]
    words = shlex.split(typed.format(here=checkout)) + ["--space", "a space.yaml", "--trials", "3"]
    process = subprocess.Popen(
        ["bash", "-c", f"exec {shlex.join(words)}"], cwd=checkout, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(checkout)}, start_new_session=True,
    )  # fmt: skip
    with (checkout / "a space.yaml").open("w"):  # waits until it is being read
        os.killpg(process.pid, signal.SIGINT)
        assert process.stderr is not None
        lines = process.stderr.read().splitlines()
    assert process.wait() == 130
    assert lines[:-1] == ["Interrupted. Nothing had begun. Start again with:"]
    printed = shlex.split(lines[-1])
    if words[0].startswith("my"):  # some kernels give a script its whole path
        printed[0], words[0] = (str(checkout / path) for path in (printed[0], words[0]))
    assert printed == words


def test_a_program_that_sets_its_arguments(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`sys.argv = ["tune-swa", ...]; main()`: there is no file of that name in the current folder."""
    (tmp_path / "tune-swa").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["tune-swa", "doctor"])
    assert find_program_words() == ["tune-swa"]


def test_code_on_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from tune_swa.cli import run_search; run_search()"
    monkeypatch.setattr(sys, "argv", ["-c", "--space", "x.yaml"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-c", code, "--space", "x.yaml"])
    assert find_program_words() == ["python", "-c", code]


def test_a_search_from_python_names_a_command_that_works_anywhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tune_swa.config import yaml_file

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(yaml_file, "load_experiment", interrupt)
    assert run_search(["--space", "x.yaml"]) == 130
    command = shlex.split(capsys.readouterr().err.splitlines()[-1])
    assert command == [sys.executable, "-m", "tune_swa", "search", "--space", "x.yaml"]
