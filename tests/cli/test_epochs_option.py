"""`--epochs N` on the command line: what the plan says, what the experiment is called, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.called_search import call_search

SPACES = Path(__file__).parent.parent.parent / "search_spaces"


def test_the_plan_says_what_became_of_each_setting(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = ["--space", SPACES / "digits.yaml", "--results-dir", tmp_path, "--gpus", 0, "--dry-run"]
    code, out, err = call_search(capfd, *given, "--epochs", 6)
    assert (code, err) == (0, "")
    assert "Plan of digits-6-epochs" in out
    lines = [line.strip() for line in out.splitlines()]
    assert "--epochs        train.epochs: 12 -> 6" in lines
    assert "space.swa_start: from 4 to 9 -> from 2 to 4" in lines
    assert "averaging.anneal_epochs: 3 -> 2" in lines
    assert "(6 per trial)" in out
    _, named, _ = call_search(capfd, *given, "--epochs", 6, "--name", "short")
    assert "Plan of short" in named
    _, same, _ = call_search(capfd, *given, "--epochs", 12)
    _, whole, _ = call_search(capfd, *given)
    assert same == whole


def test_both_options_change_first_the_space_and_then_its_epochs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = ["--space", SPACES / "digits.yaml", "--results-dir", tmp_path, "--gpus", 0, "--dry-run"]
    _, out, _ = call_search(capfd, *given, "--set", "train.epochs=24", "--epochs", 12)
    assert "train.epochs: 24 -> 12" in out
    assert "space.swa_start: from 4 to 9 -> from 2 to 4" in out


def test_too_few_epochs_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, _, err = call_search(
        capfd, "--space", SPACES / "digits.yaml", "--results-dir", tmp_path, "--epochs", 1
    )
    assert code == 2
    assert err == "error: --epochs 1: expected 2 to 100,000\n"
    assert not list(tmp_path.iterdir())
