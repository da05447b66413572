"""What `export-model --soup` answers where there is no soup."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.journals import experiment, usual
from tune_swa.cli import main


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "its search has no soup in its section merge. A new search whose space file asks for it"),
        (
            {"merge": [{"method": "soup"}]},
            "there is no soup yet. It is made of two completed trials of one trunk or more when the search "
            "has ended: let it end (--resume)",
        ),
    ],
)
def test_a_soup_that_is_not_there_is_refused(
    settings: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual(tmp_path, spec=experiment(name=tmp_path.name, **settings))
    assert main(["export-model", str(tmp_path), "--soup"]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "export-soup").exists()
