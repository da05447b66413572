"""A plan is refused for whatever its search would be refused for, in the same words."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_requests import ROOT, ROWS, Make, snapshot

from tune_swa.cli import run_search

DECODING = ("cannot be decoded", "can be decoded", "images occur more than once")
"""Places of what is only found out by decoding the images, which a plan does not do."""
IMAGES_MAY_COME_LATER = "no folder is given"
"""A plan for a folder of images that is not named yet."""


def call(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    try:
        code = run_search([str(argument) for argument in arguments])
    except SystemExit as error:  # argparse
        code = int(error.code or 0)
    out, err = capfd.readouterr()
    return code, out, err


@pytest.mark.parametrize(("make", "place", "remedy"), ROWS, ids=[row[1][:60] for row in ROWS])
def test_what_a_search_refuses_its_plan_refuses(
    make: Make,
    place: str,
    remedy: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = make(tmp_path)
    before = snapshot(tmp_path)
    monkeypatch.chdir(ROOT)
    where = ["--results-dir", tmp_path / "results"] if arguments else []
    code, out, err = call(capfd, *arguments, *where, "--dry-run")
    assert snapshot(tmp_path) == before
    print(out, err)
    assert code == 2
    assert err.startswith("error: ")
    assert place in err
    assert remedy in err
