"""State of one trial, and of a trunk that trials share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tune_swa.experiment.events import STAGES, EpochRecord, Kind, Stage, TrialTested
from tune_swa.experiment.field_types import ScoreFields

Status = Literal["running", "completed", "pruned", "failed", "interrupted"]

ENDED: frozenset[str] = frozenset({"completed", "pruned", "failed"})
"""Statuses that a trial does not leave again, unless it failed for GPU memory and gets more. An interrupted
one goes on after a resume."""


@dataclass
class TrialState:
    """State of one trial."""

    name: str
    kind: Kind
    stage: Stage
    params: dict[str, Any]
    seed: int
    source: str
    index: int
    """Counts suggestions of this kind, from 0."""
    trunk: str
    """Hash of everything that influences its epochs before averaging."""
    fork_epoch: int | None
    """Epoch of the first average (swa_start + 1; `first_average` in the journal), None for a baseline."""
    status: Status = "running"
    records: list[EpochRecord] = field(default_factory=list)
    """Epoch records in the order of epochs; `records[i]["epoch"] == i`."""
    scores: dict[int, Mapping[str, ScoreFields]] = field(default_factory=dict)
    """Scores of its averages by label, after the epochs where they were due."""
    rungs: dict[int, str] = field(default_factory=dict)
    """Rungs this trial was judged at, with the decision."""
    checkpoints: list[str] = field(default_factory=list)
    """Existing checkpoint files, relative to the experiment's folder, oldest first."""
    device: str | None = None
    attempts: int = 0
    error: str | None = None
    started: float | None = None
    tested: TrialTested | None = None
    """Its metrics on the test images; runs of the search have none."""
    suggested: float | None = None
    """When it was suggested, in seconds since 1970, like the times below."""
    reported: list[float] = field(default_factory=list)
    """When each of `records` became known."""
    finished: float | None = None
    """When it ended; None until it has one of the statuses that it does not leave again."""
    session: int = 0
    """The last one in which it was suggested or started."""
    member: int = 0
    """Number among the members of SWAP, from 2 on; 0: a first one, or none."""
    exhausted: float | None = None
    """The share of a GPU, in [0, 1], with which it failed for want of memory; 0: of the machine's memory."""
    average: str | None = None
    """Label of the average that was chosen before, of a run on a fresh seed; None: none was."""

    @property
    def next_epoch(self) -> int:
        return len(self.records)

    @property
    def last(self) -> EpochRecord | None:
        return self.records[-1] if self.records else None

    @property
    def chosen_average(self) -> str | None:
        """Label of the average that its last epoch reports, where one is chosen among several; else None."""
        return self.average or (self.last or {}).get("average")

    def read_average(self, record: EpochRecord) -> str | None:
        """Return the label of the average that a record of its reports, where one is chosen; else None."""
        found: str | None = record.get("average")
        return found or (self.average if record.get("phase") == "branch" else None)

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    def may_reopen(self, stage: Stage) -> bool:
        """Whether it failed for GPU memory and can be tried again with more.

        Args:
            stage: the present one. What the stages before it chose stands.
        """
        return self.exhausted is not None and STAGES.index(self.stage) >= STAGES.index(stage)

    @property
    def told_to_stop(self) -> bool:
        """Whether its last report was answered with stop."""
        return bool(self.records) and self.rungs.get(self.records[-1]["epoch"]) == "stop"


@dataclass
class TrunkState:
    """State of the epochs that trials have in common before they average."""

    trials: list[str] = field(default_factory=list)
    """Trials with this trunk, in the order they were suggested."""
    records: list[tuple[str, EpochRecord]] = field(default_factory=list)
    """Which trial trained each epoch first, and its record of the live model; from epoch 0 on."""
    published: set[int] = field(default_factory=set)
    """Epochs after which there is a state to continue from."""
    diverged: tuple[int, str, str] | None = None
    """The epoch whose loss or outputs were not finite, the trial that trained it, and its error."""

    def name_origin(self, trial: str, epoch: int, *, taken_over: bool) -> dict[str, Any]:
        """Fields of a trial's record that name who trained an epoch, without the cost that it then did not
        have itself."""
        if not taken_over or epoch >= len(self.records) or self.records[epoch][0] == trial:
            return {"shared_from": None}
        return {"shared_from": self.records[epoch][0], "train_seconds": None, "images_per_second": None}


OWN_COST = ("train_seconds", "bn_seconds", "eval_seconds", "images_per_second")
"""Fields of a record that are null where another trial spent the time."""
