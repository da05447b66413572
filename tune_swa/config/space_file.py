"""The space file as it is written, before its sections are checked against one another."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from tune_swa.config.averages import AverageSpec, check_averages
from tune_swa.config.confirm_sections import ConfirmSpec
from tune_swa.config.domains import Domain
from tune_swa.config.merging import MergeSpec, check_merges
from tune_swa.config.objective import ObjectiveSpec
from tune_swa.config.sections import (
    SCHEDULE_FREE,
    AveragingSpec,
    BaselineSpec,
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
    objective: ObjectiveSpec = ObjectiveSpec()
    scheduler: SchedulerSpec = SchedulerSpec()
    resources: ResourcesSpec = ResourcesSpec()
    confirm: ConfirmSpec = ConfirmSpec()
    merge: Annotated[tuple[MergeSpec, ...], AfterValidator(check_merges)] = ()
    """What merges the averages of several trials into one model, after the search. Default: nothing."""

    @model_validator(mode="before")
    @classmethod
    def _default_to_constant(cls, data: Any) -> Any:
        """Let a schedule-free optimizer have its constant rate without a word about a schedule."""
        train = data.get("train") if isinstance(data, dict) else None
        if not isinstance(train, dict) or str(train.get("optimizer")) not in SCHEDULE_FREE:
            return data
        space = data.get("space")
        if "schedule" in train or (isinstance(space, dict) and "train.optimizer" in space):
            return data
        return {**data, "train": {**train, "schedule": "constant"}}

    @model_serializer(mode="wrap")
    def _leave_out_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the objective and merges where they are the default, so that journals, identities and
        result files are those of versions that knew no other."""
        dumped: dict[str, Any] = handler(self)
        if self.objective == ObjectiveSpec():
            dumped.pop("objective", None)
        if not self.merge:
            dumped.pop("merge", None)
        if not self.confirm.merges and "confirm" in dumped:
            dumped["confirm"].pop("merges", None)
        return dumped
