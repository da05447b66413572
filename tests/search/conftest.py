"""The small serial search as it ends by itself, which several files compare with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.serial_search import never_interrupted


@pytest.fixture(scope="session")
def decoded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Decoded images that all searches of the session share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNE_SWA_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


@pytest.fixture(scope="session")
def short(tmp_path_factory: pytest.TempPathFactory, decoded: None) -> Path:
    """Results of the search with four SWA trials."""
    results: Path = never_interrupted(tmp_path_factory.mktemp("short"), 4)
    return results


@pytest.fixture(scope="session")
def long(tmp_path_factory: pytest.TempPathFactory, decoded: None) -> Path:
    """Results of the search with twelve SWA trials."""
    results: Path = never_interrupted(tmp_path_factory.mktemp("long"), 12)
    return results
