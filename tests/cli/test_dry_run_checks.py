"""A plan is refused for whatever its search would be refused for, in the same words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_requests import DIGITS, ROOT, ROWS, Make, snapshot

from helpers.called_search import call_search
from tune_swa.data import cache

DECODING = ("cannot be decoded", "the images are not those")
"""What is only found out by decoding the images, which a plan does not do."""
SAID = ("no folder is given", "there is a search of this name already")
"""What a plan says, and goes on: it may come before the images, and beside a search that is there."""
REFUSED = [row for row in ROWS if not any(words in row[1] for words in (*DECODING, *SAID))]


@pytest.fixture
def plan(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[Make], tuple[int, str, str]]:
    """Calls a search with a row's arguments and `--dry-run`, which must change nothing."""

    def call_dry(make: Make) -> tuple[int, str, str]:
        arguments = make(tmp_path)
        before = snapshot(tmp_path)
        monkeypatch.chdir(ROOT)
        where = ["--results-dir", tmp_path / "results"] if arguments else []
        result = call_search(capfd, *arguments, *where, "--dry-run")
        assert snapshot(tmp_path) == before
        return result

    return call_dry


@pytest.mark.parametrize(("make", "place", "remedy"), REFUSED, ids=[row[1][:60] for row in REFUSED])
def test_what_a_search_refuses_its_plan_refuses(
    make: Make, place: str, remedy: str, plan: Callable[[Make], tuple[int, str, str]]
) -> None:
    code, _, err = plan(make)
    assert code == 2
    assert err.startswith("error: ")
    assert place in err
    assert remedy in err


@pytest.mark.parametrize(("make", "place"), [row[:2] for row in ROWS if row[1] in SAID])
def test_what_a_plan_says_without_refusing(
    make: Make, place: str, plan: Callable[[Make], tuple[int, str, str]]
) -> None:
    code, out, err = plan(make)
    assert (code, err) == (0, "")
    assert place in " ".join(out.split())


def test_a_cache_without_room_or_access_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    given = ["--space", DIGITS, "--results-dir", tmp_path, "--dry-run"]
    for where, reason in ((tmp_path / "file", "Not a directory"), (tmp_path / "new", "are free")):
        monkeypatch.setenv("TUNE_SWA_CACHE", str(where))
        if reason == "are free":
            monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
        code, _, err = call_search(capfd, *given)
        assert code == 2
        assert reason in err
        assert not (tmp_path / "new").exists()


def test_weights_that_are_not_there_yet_are_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    given = ["--space", DIGITS, "--set", "model.weights=imagenet", "--results-dir", tmp_path, "--dry-run"]
    code, out, err = call_search(capfd, *given)
    assert (code, err) == (0, "")
    assert "not here yet: " in out
    assert not (tmp_path / "torch").exists()
