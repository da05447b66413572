"""The space file as it is written, before its sections are checked against one another."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tune_swa.config.domains import Domain
from tune_swa.config.sections import (
    AveragingSpec,
    BaselineSpec,
    ConfirmSpec,
    DataSpec,
    ModelSpec,
    Point,
    ResourcesSpec,
    SchedulerSpec,
    SearchSpec,
    Settings,
    TrainSpec,
)


class SpaceFile(Settings):
    """The sections of a space file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    """Name of its folder under `results/`."""
    data: DataSpec = DataSpec()
    model: ModelSpec = ModelSpec()
    train: TrainSpec = TrainSpec()
    averaging: AveragingSpec = AveragingSpec()
    space: dict[str, Domain]
    """`lr`, `swa_start`, `swa_lr` and any `train.*` or `averaging.*` field: a domain, or a value."""
    points: tuple[Point, ...] = ()
    """Configurations that are tried first. A `train.*` or `averaging.*` parameter that a point
    leaves out keeps the value of its section."""
    baseline: BaselineSpec = BaselineSpec()
    search: SearchSpec = SearchSpec()
    scheduler: SchedulerSpec = SchedulerSpec()
    resources: ResourcesSpec = ResourcesSpec()
    confirm: ConfirmSpec = ConfirmSpec()
