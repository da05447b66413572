"""Fixtures that several folders of tests share."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

# before torch or ray are imported anywhere: the tests run beside one another on few cores
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

from helpers.drawn_arrays import draw_dataset
from tune_swa.data.dataset import Dataset

# `make test` tries the same examples each time, so that its answer depends on the code alone;
# HYPOTHESIS_PROFILE=default draws new ones
settings.register_profile("same", derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

# until all test files are imported: looking through that again and again takes a quarter of the time
gc.disable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start programs or Ray come first: what is short fills the gaps that they leave at the end.

    Where several processes test, with `--no-loadscope-reorder`: pytest-xdist would begin with the files that
    have the most tests, which are the short ones, and end with whole searches, one process alone.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: _PROCESSES.isdisjoint(vars(getattr(item, "module", object))))


_PROCESSES = {"subprocess", "run_program", "run_search", "never_interrupted", "ray_trials", "ray_runtime"}
"""What a file imports that starts processes."""


def pytest_collection_finish() -> None:
    """What the test files have imported is not looked through any more."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """At the end it is: triton 3.9 reports what is left then as leaks."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the user's cache of decoded images."""
    monkeypatch.setenv("TUNE_SWA_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def module_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for what the tests of one file share, removed after the last of them.

    Those of `tmp_path_factory` stay until pytest ends, and a search's checkpoints take 134 MB each.
    """
    folder = tmp_path_factory.mktemp("module")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def narrow_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """ResNet-18 has an eighth of its channels: for tests to which the network does not matter."""
    import torchvision.models

    from helpers.narrow_resnet import build_narrow_resnet

    monkeypatch.setattr(torchvision.models, "resnet18", build_narrow_resnet)


@pytest.fixture
def tiny_data() -> Dataset:
    """48 drawn images of 16 pixels in three classes that a network can tell apart."""
    return draw_dataset(train=28, val=12, test=8)


@pytest.fixture
def worker(tiny_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, narrow_network: None) -> Any:
    """A `Worker` that trains here, on the drawn images."""
    from helpers.local_worker import Worker  # not above: it imports Ray

    return Worker(tiny_data, tmp_path, monkeypatch)


@pytest.fixture(scope="session")
def decoded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Decoded images that all searches of the session share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNE_SWA_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


@pytest.fixture(scope="session")
def short(tmp_path_factory: pytest.TempPathFactory, decoded: None) -> Path:
    """Results of the search with four SWA trials."""
    from helpers.serial_search import never_interrupted

    results: Path = never_interrupted(tmp_path_factory.mktemp("short"), 4)
    return results


@pytest.fixture(scope="session")
def long(tmp_path_factory: pytest.TempPathFactory, decoded: None) -> Path:
    """Results of the search with twelve SWA trials."""
    from helpers.serial_search import never_interrupted

    results: Path = never_interrupted(tmp_path_factory.mktemp("long"), 12)
    return results


@pytest.fixture(scope="module")
def one_ray() -> Iterator[None]:
    """Searches in the tests' own process use one Ray, which the first of the file starts.

    To start and to stop it takes longer than all trials of a search in which nothing is trained. Its workers
    have the narrow network.
    """
    from helpers.narrow_resnet import narrow_environment
    from tune_swa.execution import ray_runtime

    start = ray_runtime.start_local_ray
    started: list[Any] = []
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", narrow_environment()["PYTHONPATH"])

        @contextmanager
        def use_or_start(placement: Any, *given: Any) -> Iterator[None]:
            if not started:
                stack.enter_context(start(placement, *given))
                started.append(placement)
            assert (placement.gpus, placement.cpus) == (started[0].gpus, started[0].cpus)
            ray_runtime.set_environment(placement.slots)
            given[0]()  # what else is to be done before the search begins
            yield

        patch.setattr(ray_runtime, "start_local_ray", use_or_start)
        yield
