"""What several files of searches share: a worker, and the small serial search as it ends by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from one_worker import Worker  # type: ignore[import-not-found]
from serial_search import never_interrupted  # type: ignore[import-not-found]

from tune_swa.data.dataset import Dataset


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


@pytest.fixture
def worker(tiny_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Worker:
    """A worker that trains here, on 48 drawn images."""
    return Worker(tiny_data, tmp_path, monkeypatch)
