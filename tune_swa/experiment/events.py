"""The events of a journal: one class for each kind, and what its fields may hold.

One event is one line of `journal.jsonl`, as JSON: the key `event` names its kind, the other keys are the
fields below. A field that is `UNSET` or has its default is absent from the line, as in journals that were
written before there was such a field.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import msgspec
from msgspec import UNSET, UnsetType

from tune_swa.experiment.field_types import (
    Count,
    Epoch,
    EpochFields,
    Metrics,
    Number,
    ScoreFields,
    Seed,
    Share,
    Time,
)

FORMAT = 1
"""Version of the events' meaning. A journal of another version is refused, not guessed at."""

Kind = Literal["baseline", "swa"]
Stage = Literal["search", "swap", "race", "confirm"]
STAGES: tuple[Stage, ...] = ("search", "swap", "race", "confirm")
"""Stages in their order: the search, further members of its best configurations, then on fresh seeds the race
(validation images) and tested runs."""

Decision = Literal["continue", "stop"]
EndStatus = Literal["completed", "pruned", "failed", "interrupted"]
Stop = Literal["success", "futility", "seeds"]
"""Why a plan of looks trains no more seeds."""

EpochRecord = dict[str, Any]
"""Report of an epoch: numbers, `phase` and `shared_from`."""
if TYPE_CHECKING:
    CheckedRecord = EpochRecord
else:
    CheckedRecord = EpochFields
    """For msgspec, which checks the fields while it reads a line: a second pass would take as long again."""


class DamagedError(Exception):
    """An event that cannot have happened, or a value that it cannot have had; says why."""


class Fields(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Fields that can be read by their names in the journal as well."""

    def __getitem__(self, name: str) -> Any:
        try:
            value = getattr(self, name)
        except AttributeError:
            raise KeyError(name) from None
        if value is UNSET:
            raise KeyError(name)
        return value

    def get(self, name: str, default: Any = None) -> Any:
        value = getattr(self, name, UNSET)
        return default if value is UNSET else value


class Event(Fields, tag_field="event"):
    """One line of the journal."""

    time: Time = msgspec.field(default_factory=time.time)

    @property
    def event(self) -> str:
        """The kind of the event, as the journal names it."""
        return str(self.__struct_config__.tag)


class ImageFacts(msgspec.Struct):
    """Keys that `ExperimentCreated.data` has to hold."""

    fingerprint: str
    """Hash of the decoded images."""
    num_classes: Count
    class_names: Sequence[str]
    train: Count
    val: Count
    test: Count


class ExperimentCreated(Event, tag="created", kw_only=True):
    """The first line: everything that the results depend on."""

    format: int
    version: str
    spec: dict[str, Any]
    """The space file with its defaults."""
    identity: dict[str, Any]
    """The settings that cannot change on a resume."""
    data: dict[str, Any]
    """The images: fingerprint, classes, sizes of the parts, and what was noticed."""
    weights: str | UnsetType | None = UNSET
    """Hash of the weights that the network starts from."""
    numerics: dict[str, Any]
    loop: Count | None = None
    """Version of the training loop."""
    hardware: dict[str, Any]
    versions: dict[str, Any]
    seed: Seed | None = None
    plugins: dict[str, dict[str, Any]] | UnsetType = UNSET
    """Modules of `--plugin`: by name their file, its hash, and what they registered."""


class SessionStarted(Event, tag="session", kw_only=True):
    """A process begins or continues the search."""

    number: Count
    slots: int | None = None
    gpus: int | float | None = None
    cpus: int | float | None = None
    resumed: bool | None = None
    storage: str | UnsetType | None = UNSET
    """Folder or URI of the checkpoints."""
    gpu_share: dict[str, Any] | UnsetType | None = UNSET
    """Division of GPUs among trials."""
    spec: dict[str, Any] | None = None
    """The present one: --trials, resources and confirm may differ from those it was created with."""


class TrialSuggested(Event, tag="suggested", kw_only=True):
    """A configuration becomes a trial."""

    trial: str
    kind: Kind
    stage: Stage
    params: dict[str, Any]
    seed: Seed
    source: str
    """Source of the suggestion."""
    index: Count
    """Counts suggestions of this kind, from 0."""
    trunk: str
    """Hash of everything that influences its epochs before averaging."""
    first_average: Epoch | None
    """The fork epoch; None for a baseline."""
    average: str | None = None
    """Label of the average that was chosen before, of a run on a fresh seed."""
    member: Count = 0
    """Number among the members of SWAP, from 2 on; 0: a first one, or none."""


class TrialStarted(Event, tag="started", kw_only=True):
    """A worker begins to train a trial, or goes on with it."""

    trial: str
    device: str
    node: str | None = None
    attempt: Count
    from_epoch: Epoch | None = None
    damaged: Sequence[str] | None = None
    """Why each newer checkpoint was not used."""
    retried: str | None = None
    """The error of GPU memory after which the same process begins it again with streamed images."""


class TrunkShared(Event, tag="shared", kw_only=True):
    """A trial takes over epochs of its trunk."""

    trial: str
    epochs: Epoch
    rungs: Mapping[int, Decision]
    """Rung and decision, in their order."""


class EpochReported(Event, tag="epoch", kw_only=True):
    """A trial has finished an epoch, and the scheduler has decided."""

    trial: str
    record: CheckedRecord
    decision: Decision
    rung: Epoch | None
    checkpoint: str | None
    published: CheckedRecord | UnsetType | None = UNSET
    """The epoch's record before any average, where the trunk's state was published with it."""
    scores: Mapping[str, ScoreFields] | UnsetType = UNSET
    """Of all averages by their labels, where they were scored."""

    @property
    def epoch(self) -> int:
        return cast(int, self.record["epoch"])


class WorkerLost(Event, tag="lost", kw_only=True):
    """A process that could not use its GPU any more has ended itself."""

    trial: str | None
    """None where a worker was warmed up."""
    device: str
    node: str
    reason: str


class TrialEnded(Event, tag="ended", kw_only=True):
    """A trial has one of its final statuses, or is interrupted."""

    trial: str
    status: EndStatus
    value: Number | UnsetType | None = UNSET
    """The objective's metric at the last epoch, if it completed: accuracy, 0 to 1, or nll in nats."""
    error: str | None
    trunk_epoch: Epoch | UnsetType | None = UNSET
    """The epoch in which its trunk diverged."""
    exhausted: Share | None = None
    """Of a GPU, whose memory was too small; 0: the memory of the machine was."""


class TrialReopened(Event, tag="reopened", kw_only=True):
    """A trial that failed for GPU memory is to be tried again with a larger share."""

    trial: str


class CheckpointsRemoved(Event, tag="checkpoints", kw_only=True):
    """Checkpoints of a trial are about to be removed."""

    trial: str
    removed: Sequence[str]


class PlannedArm(Fields, kw_only=True):
    """A configuration that is run on fresh seeds."""

    name: str
    kind: Kind
    params: dict[str, Any]
    roles: Sequence[str]
    average: str | None = None
    """Label of the average that was chosen for it; None: none was."""
    member: Count = 0
    """Number among the members of SWAP, as of a trial."""


class PlannedRound(Fields, kw_only=True):
    """A round of a race."""

    seeds: Count
    """Seeds of each arm by the end of the round."""
    swa: Count
    plain: Count
    """Number of arms of each side."""


class MembersPlanned(Event, tag="swap", kw_only=True):
    """The search's best SWA configurations get further members, which are merged with them."""

    arms: Sequence[PlannedArm]
    members: Count
    """Of each configuration, with the trial of the search."""
    searched: Count
    """Trials of the search that had ended."""


class RacePlanned(Event, tag="race", kw_only=True):
    """A round of the race: every arm is trained on every seed."""

    round: Count
    rounds: Sequence[PlannedRound]
    """All of the race, planned beforehand."""
    arms: Sequence[PlannedArm]
    seeds: Sequence[Seed]
    searched: Count
    """Trials of the search that had ended."""


class PlannedMerge(Fields, kw_only=True):
    """The recipe of a merged model (`tune_swa.experiment.merge_recipe`)."""

    merge: str
    members: Sequence[PlannedArm]


class LookPlanned(Event, tag="confirm", kw_only=True):
    """A look: every arm is trained on every seed, and tested."""

    look: Count
    arms: Sequence[PlannedArm]
    seeds: Sequence[Seed]
    searched: Count
    plan: Count | None = None
    """Counts plans of looks. Absent in older journals, whose looks were judged by another rule."""
    looks: Sequence[Count] | None = None
    """Numbers of seeds at which the plan looks."""
    levels: Sequence[Share] | None = None
    """One-sided level of each look."""
    merges: Sequence[PlannedMerge] | UnsetType = UNSET
    """Recipes that are followed on every seed, too."""


class LookJudged(Event, tag="judged", kw_only=True):
    """A look has ended."""

    look: Count
    stop: Stop | None
    """Why no more seeds follow; None: the next look does."""


class TrialTested(Event, tag="tested", kw_only=True):
    """A run was evaluated on the test images; its predictions are in `predictions/TRIAL.npz`."""

    trial: str
    images: Count
    shipped: dict[str, float]
    refreshed: dict[str, float] | None
    """Metrics of a baseline with its batch-normalisation statistics refreshed."""
    averages: Mapping[str, Metrics] | UnsetType = UNSET
    """Metrics of the averages that the run observed, by their labels."""


class TrialUntested(Event, tag="untested", kw_only=True):
    """The predictions of a run are lost, so it does not count as tested any more."""

    trial: str
    reason: str | None = None


class TrunkCollected(Event, tag="collected", kw_only=True):
    """Published states of a trunk are about to be removed."""

    trunk: str
    epochs: Sequence[Epoch]


class SearchFinished(Event, tag="finished", kw_only=True):
    """The search is over."""

    reason: str | None = None


class UnknownEvent(Event, tag="", kw_only=True):
    """An event of a newer version. The state does not change by it."""

    name: str
    fields: dict[str, Any]

    @property
    def event(self) -> str:
        return self.name

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self.fields.get(name, default)


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


def check_name(field: str, name: str) -> None:
    """Refuse a name of a trial or trunk that is no plain file name: it becomes a part of paths."""
    if not NAME.fullmatch(name):
        raise DamagedError(f"{field} is {name!r}"[:100])


def params_of(event: Any) -> dict[str, Any]:
    """Parameters of a suggestion or an arm. JSON has no tuples, parameters have no lists.

    Raises:
        DamagedError: a parameter cannot have this value.
    """
    for parameter, value in event["params"].items():
        if isinstance(value, dict) or (isinstance(value, list) and not all(map(_is_word, value))):
            raise DamagedError(f"{parameter} is {value!r}"[:100])
    return {n: tuple(v) if isinstance(v, list) else v for n, v in event["params"].items()}


def _is_word(value: Any) -> bool:
    return isinstance(value, str)
