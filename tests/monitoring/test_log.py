"""The log tells people what happens; it decides nothing."""

from __future__ import annotations

import logging
from pathlib import Path

from tune_swa.monitoring.log_file import LOG, log_file

logger = logging.getLogger("tune_swa.made_up")


def test_lines_are_written_once_there_is_a_search(tmp_path: Path) -> None:
    with log_file(tmp_path) as log:
        logger.warning("before")
        assert not (tmp_path / LOG).exists()
        log.begin()
        logger.info("after")
        assert [line.split()[-1] for line in (tmp_path / LOG).read_text().splitlines()] == ["before", "after"]


def test_a_log_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    """It is opened at its first line, which may come when the folder has turned read-only."""
    folder = tmp_path / "gone"
    with log_file(folder) as log:
        log.begin()
        logger.warning("nobody reads this")
        folder.mkdir()
        logger.warning("access is back")
        assert "access is back" in (folder / LOG).read_text()
