"""The fixture with which a test gets made-up GPUs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from made_up_gpus import Card, MadeUpGpus  # type: ignore[import-not-found]


@pytest.fixture
def make_up_gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[..., MadeUpGpus]:
    """Call it with cards: this process has those GPUs until the test ends."""

    def install_gpus(*cards: Card, **options: Any) -> MadeUpGpus:
        gpus = MadeUpGpus(*cards, **options)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        gpus.install(partial(monkeypatch.setattr, raising=False))
        return gpus

    return install_gpus
