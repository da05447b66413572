"""A dry run refuses the results folder that the search would refuse, and writes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tune_swa.cli import run_search

SPACE = """
name: planned
data: {dataset: digits, image_size: 8}
model: {weights: none}
train: {epochs: 4}
space: {lr: 1e-3, swa_start: 2, swa_lr: 1e-3}
"""


@pytest.mark.parametrize(
    ("make", "below", "reason"),
    [
        (Path.touch, "", "Not a directory"),
        (Path.touch, "deeper/still", "Not a directory"),
        (Path.mkdir, "x" * 300, "File name too long"),
    ],
)
def test_a_place_that_cannot_hold_results(
    make: Callable[[Path], None],
    below: str,
    reason: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "s.yaml").write_text(SPACE)
    make(tmp_path / "my results")
    arguments = ["--space", str(tmp_path / "s.yaml"), "--gpus", "0"]
    place = ["--results-dir", str(tmp_path / "my results" / below)]
    for more in (["--dry-run"], []):
        assert run_search([*arguments, *place, *more]) == 2
        message = capsys.readouterr().err
        assert f"cannot be written to ({reason}). Choose another place with --results-dir" in message
    assert run_search([*arguments, "--results-dir", str(tmp_path / "new/er"), "--dry-run"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"s.yaml", "my results"}
