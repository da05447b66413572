"""A plan is refused for whatever its search would be refused for, in the same words."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_requests import DIGITS, ROOT, ROWS, Make, snapshot

from tune_swa.cli import run_search

DECODING = ("cannot be decoded", "the images are not those")
"""What is only found out by decoding the images, which a plan does not do."""
SAID = ("no folder is given", "there is a search of this name already")
"""What a plan says, and goes on: it may come before the images, and beside a search that is there."""
REFUSED = [row for row in ROWS if not any(words in row[1] for words in (*DECODING, *SAID))]


def call(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    try:
        code = run_search([str(argument) for argument in arguments])
    except SystemExit as error:  # argparse
        code = int(error.code or 0)
    out, err = capfd.readouterr()
    return code, out, err


@pytest.mark.parametrize(("make", "place", "remedy"), REFUSED, ids=[row[1][:60] for row in REFUSED])
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
    code, _, err = call(capfd, *arguments, *where, "--dry-run")
    assert snapshot(tmp_path) == before
    assert code == 2
    assert err.startswith("error: ")
    assert place in err
    assert remedy in err


@pytest.mark.parametrize(("make", "place", "remedy"), [row for row in ROWS if row[1] in SAID])
def test_what_a_plan_says_without_refusing(
    make: Make,
    place: str,
    remedy: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = make(tmp_path)
    monkeypatch.chdir(ROOT)
    code, out, err = call(capfd, *arguments, "--results-dir", tmp_path / "results", "--dry-run")
    assert (code, err) == (0, "")
    assert place in " ".join(out.split())


def test_weights_that_are_not_there_yet_are_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    given = ["--space", DIGITS, "--set", "model.weights=imagenet", "--results-dir", tmp_path, "--dry-run"]
    code, out, err = call(capfd, *given)
    assert (code, err) == (0, "")
    assert "not here yet: " in out
    assert not (tmp_path / "torch").exists()
