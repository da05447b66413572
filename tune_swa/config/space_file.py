"""The space file as it is written, before its sections are checked against one another."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from tune_swa.config.averages import AverageSpec, check_averages
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
    TrainSpec,
)
from tune_swa.config.settings_model import Settings


class SpaceFile(Settings):
    """The sections of a space file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    """Name of its folder under `results/`."""
    data: DataSpec = DataSpec()
    model: ModelSpec = ModelSpec()
    train: TrainSpec = TrainSpec()
    averaging: AveragingSpec = AveragingSpec()
    averages: Annotated[tuple[AverageSpec, ...], AfterValidator(check_averages)] = ()
    """Averages of one trajectory, scored side by side. The first one leads: it is what early stopping and
    the sampler see, and what is shipped. Default: SWA alone."""
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
