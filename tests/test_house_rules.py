"""Files and functions stay short. Complexity, imports and style are held by ruff and import-linter."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(f for folder in ("tune_swa", "tests", "benchmarks") for f in (ROOT / folder).rglob("*.py"))
FILE_LINES, FUNCTION_LINES = 400, 60
LONG_FILES = {
    "tests/config/test_spec.py",
    "tests/doctor/test_doctor.py",
    "tests/execution/test_runs.py",
    "tests/monitoring/test_progress.py",
    "tests/search/test_confirmation.py",
    "tests/search/test_recorder.py",
    "tests/tracking/test_trackers.py",
    "tests/training/test_parts.py",
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    text = path.read_text()
    assert text.count("\n") <= FILE_LINES or name in LONG_FILES
    if name.startswith("tune_swa/"):
        long = {
            f"{name} {node.name}"
            for node in ast.walk(ast.parse(text))
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            and (node.end_lineno or 0) - node.lineno + 1 > FUNCTION_LINES
        }
        assert not long


def test_names_of_test_files_are_unique() -> None:
    """Without packages, pytest imports each by its bare name."""
    names = [path.name for path in FILES if path.name.startswith("test_")]
    assert len(names) == len(set(names))
