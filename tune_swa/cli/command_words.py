"""Find the words that started this program, for the commands that a person is told to run."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

SCRIPT = "tune-swa"
FROM_PYTHON = [sys.executable, "-m", "tune_swa"]


def find_program_words(proc: Path = Path("/proc")) -> list[str]:
    """Return what was typed before the arguments: `python run_search.py`, or `.venv/bin/tune-swa`.

    The interpreter and its options are those that run this, so that another Python of the same name, or none,
    does not matter. `tune-swa` stays as short as that where the shell finds the same one.
    """
    given = sys.argv[1:]
    if wrapper := _find_uv(proc, given):
        return wrapper
    if Path(sys.argv[0]).name == SCRIPT:
        return [SCRIPT if _is_first_found(sys.argv[0]) else sys.argv[0]]
    before = sys.orig_argv[: len(sys.orig_argv) - len(given)]
    if [*before, *given] == sys.orig_argv and _starts_program(before):
        return before
    return [sys.executable, sys.argv[0]]


def _is_first_found(script: str) -> bool:
    """Whether the shell finds this script by its name, which a program may have set `sys.argv` to."""
    found = shutil.which(SCRIPT)
    return found is not None and (script == SCRIPT or os.path.realpath(found) == os.path.realpath(script))


def _starts_program(words: list[str]) -> bool:
    if words[-2:-1] == ["-c"] or words[-2:] == ["-m", "tune_swa"]:
        return True
    return words[-1:] in ([sys.argv[0]], ["-mtune_swa"])


def _find_uv(proc: Path, given: list[str]) -> list[str]:
    """Return `uv run ...` if that is what started this process, and waits for it."""
    try:
        words = (proc / str(os.getppid()) / "cmdline").read_bytes().split(b"\0")[:-1]
    except OSError:
        return []
    typed = [os.fsdecode(word) for word in words]
    if not typed or Path(typed[0]).name not in ("uv", "uvx"):
        return []
    before = typed[: len(typed) - len(given)]
    return before if [*before, *given] == typed else []
