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
        ({}, "its search makes no soups. The section merge of a space file asks for them, in a new search"),
        (
            {"merge": [{"method": "soup"}]},
            "there is no soup yet. They are made when the search has ended, of two completed trials of one "
            "trunk or more: let it end (--resume)",
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
