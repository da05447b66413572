"""All checks in their order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tune_swa.child_process import Child, ChildError
from tune_swa.doctor import folders, machine, packages
from tune_swa.doctor.finding import Check, Finding, findings_of, problem
from tune_swa.hardware.gpu_survey import SURVEY_SECONDS, Surveyor

SECONDS = 20.0
"""For one check; most take milliseconds."""
TORCH_SECONDS = 120.0
"""torch on a slow file system takes its time."""


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    results_dir: Path = Path("results")
    data_dir: Path | None = None
    storage: str | None = None
    address: str | None = None
    ray: bool = False
    """Whether a Ray is started, which takes seconds."""


def examine(request: Request) -> Iterator[Finding]:
    """Look at everything, the findings one after another as they come."""
    with ExitStack() as stack:
        torch = stack.enter_context(
            Child("tune_swa.hardware.torch_probe:probe_torch")
        )  # the slowest go first
        surveyor = stack.enter_context(Surveyor())
        for area, check, seconds in _quick(request):
            yield from findings_of(area, check, seconds)
        yield from findings_of("torch", lambda: _torch(torch, surveyor), TORCH_SECONDS + SURVEY_SECONDS)
        for area, check, seconds in _ray(request):
            yield from findings_of(area, check, seconds)


def _quick(request: Request) -> Iterator[tuple[str, Check, float]]:
    def decoded() -> Iterator[Finding]:
        from tune_swa.data.cache import cache_folder
        from tune_swa.doctor.images import cached

        yield from folders.check_place(folders.image_cache(cache_folder()))
        yield from cached()

    def images() -> Iterator[Finding]:
        from tune_swa.doctor.images import given

        assert request.data_dir is not None
        yield from given(request.data_dir)

    def searches() -> Iterator[Finding]:
        from tune_swa.doctor.searches import searches

        yield from searches(request.results_dir)

    yield "Python", packages.python, SECONDS
    yield "packages", packages.packages, SECONDS
    yield "CPU", machine.cores, SECONDS
    yield "memory", machine.memory, SECONDS
    yield "shared memory", machine.shared_memory, SECONDS
    yield "results", lambda: folders.check_place(folders.results(request.results_dir)), SECONDS
    yield "searches", searches, SECONDS
    yield "image cache", decoded, SECONDS
    yield "temporary", lambda: folders.check_place(folders.temporary()), SECONDS
    if request.data_dir is not None:
        yield "images", images, SECONDS
    if request.storage is not None:
        storage = request.storage
        yield "storage", lambda: folders.check_storage(storage), 2 * SECONDS


def _torch(child: Child, surveyor: Surveyor) -> Iterator[Finding]:
    from tune_swa.doctor import gpus, network
    from tune_swa.hardware.torch_probe import TorchFacts

    try:
        facts = TorchFacts(**child.result(TORCH_SECONDS))
    except ChildError as error:
        yield problem("torch", f"cannot be used: {error}", "Install torch for this kind of machine again")
        return
    yield from gpus.cpu(facts)
    yield from gpus.gpus(surveyor.result())
    yield from network.network(facts)


def _ray(request: Request) -> Iterator[tuple[str, Check, float]]:
    from tune_swa.doctor import ray_check

    yield "Ray", ray_check.processes, SECONDS
    yield "Ray", ray_check.sessions, SECONDS
    if request.ray:
        yield "Ray", ray_check.starts, ray_check.START_SECONDS + SECONDS
    if request.address is not None:
        address = request.address
        yield "cluster", lambda: ray_check.joins(address), ray_check.START_SECONDS + SECONDS
