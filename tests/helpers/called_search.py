"""Call a search in the process of the test, as the command line does."""

from __future__ import annotations

import pytest

from tune_swa.cli import run_search


def call_search(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run a search in this process; its exit code, and what it wrote to stdout and stderr."""
    try:
        code = run_search([str(argument) for argument in arguments])
    except SystemExit as error:  # argparse
        code = int(error.code or 0)
    return code, *capfd.readouterr()
