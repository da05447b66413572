"""Stop weak trials early: asynchronous successive halving that never mixes raw and averaged models.

Plain ASHA ranks every trial at an epoch together. Here that would rank an averaged model against models
that are not averaged, and enter a late starter in rungs it never reached. So there are two ladders over
absolute epochs, the trunk's and the branch's, and a trial enters only a rung that it reports at exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from tune_swa.config import Experiment, Params, SchedulerSpec
from tune_swa.config.sections import DEFAULT_CYCLE
from tune_swa.experiment.trial_state import TrialState


@dataclass(frozen=True)
class RungDecision:
    """Decision of a rung about one report."""

    stop: bool
    rung: int | None
    """The rung (an epoch) at which it was judged; None where it was at no rung."""


CYCLE = "averaging.cycle_epochs"
NOT_JUDGED = RungDecision(stop=False, rung=None)


@dataclass
class PhaseAsha:
    """Asynchronous successive halving (Li et al. 2020, the stopping variant), one ladder per phase.

    At a rung a value goes on if it is not below the (1 - 1/reduction_factor) quantile of what the
    rung has seen before it; the first one always goes on. Ties go on.
    """

    spec: SchedulerSpec
    epochs: int
    """Length of a run."""
    every_trunk_has_a_baseline: bool = False
    """If so, the trunk's ladder is empty unless it is given."""
    cycle_epochs: int = 1
    """Epochs between the models of an average, of trials that do not search them."""
    _trunk_values: dict[int, dict[str, float]] = field(default_factory=dict)
    _trunk_verdicts: dict[tuple[int, str], bool] = field(default_factory=dict)
    _branch_values: dict[int, dict[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.trunk_rungs = frozenset(trunk_rungs(self.spec, self.epochs, self.every_trunk_has_a_baseline))
        self.branch_rungs = frozenset(branch_rungs(self.spec, self.epochs))

    @classmethod
    def of_experiment(cls, experiment: Experiment) -> PhaseAsha:
        """The stopping rule of an experiment's settings."""
        rule = cls(experiment.scheduler, experiment.train.epochs, experiment.every_trunk_has_a_baseline)
        if experiment.averaging.tail == "cyclic":
            rule.cycle_epochs = _cycle_of(experiment.constants, experiment.averaging.cycle_length)
            start = experiment.constants.get("swa_start")
            searched = any(parameter.name == CYCLE for parameter in experiment.parameters)
            if isinstance(start, int) and not searched and experiment.scheduler.branch_rungs == "auto":
                rule.branch_rungs = move_rungs(rule.branch_rungs, start + 1, rule.cycle_epochs)
        return rule

    def judge_epoch(self, trial: TrialState, epoch: int, value: float) -> RungDecision:
        """Judge the report of `value` (higher is better) at `epoch`, and record it where it is at a rung.

        Trunk rungs see models before their trial's first average. A trunk is recorded once under
        its hash, however many trials run it, and its verdict holds for all its SWA trials. Branch
        rungs see averages of at least two models: the first average is still a copy of a raw one. Within
        a cycle a trial's value is that of the average as of the last cycle's end.
        Baselines are recorded in trunk rungs and never stopped. Runs that confirm are not judged.
        """
        if not self.spec.asha or trial.stage != "search":
            return NOT_JUDGED
        fork_epoch = trial.fork_epoch
        if fork_epoch is None or epoch < fork_epoch:
            return self._judge_trunk(trial, epoch, value)
        if epoch >= fork_epoch + _cycle_of(trial.params, self.cycle_epochs) and epoch in self.branch_rungs:
            seen = self._branch_values.setdefault(epoch, {})
            stop = self._below_cutoff(seen, value)
            seen[trial.name] = value
            return RungDecision(stop, epoch)
        return NOT_JUDGED

    def _judge_trunk(self, trial: TrialState, epoch: int, value: float) -> RungDecision:
        if epoch not in self.trunk_rungs:
            return NOT_JUDGED
        key = (epoch, trial.trunk)
        if key not in self._trunk_verdicts:
            seen = self._trunk_values.setdefault(epoch, {})
            self._trunk_verdicts[key] = self._below_cutoff(seen, value)
            seen[trial.trunk] = value
        return RungDecision(self._trunk_verdicts[key] and trial.kind != "baseline", epoch)

    def _below_cutoff(self, seen: dict[str, float], value: float) -> bool:
        if not seen:
            return False
        quantile = 1 - 1 / self.spec.reduction_factor
        return value < float(np.quantile(list(seen.values()), quantile))

    def stopped_at(self, trunk: str, before: int) -> int | None:
        """The first rung below epoch `before` at which a trunk was found too low; None: at none."""
        return min(
            (rung for rung in self.trunk_rungs if rung < before and self._trunk_verdicts.get((rung, trunk))),
            default=None,
        )

    def rung_values(self, phase: str, rung: int) -> dict[str, float]:
        """Return the values of a rung: by trunk hash (`trunk`) or by trial (`branch`)."""
        values = self._trunk_values if phase == "trunk" else self._branch_values
        return dict(values.get(rung, {}))


def trunk_rungs(spec: SchedulerSpec, epochs: int, every_trunk_has_a_baseline: bool) -> list[int]:
    """Epochs (from 0) of the trunk's ladder: one rung, after half of the run or after grace.

    Raw models early in a run say little of what their averages will be worth, so there is no rung before.
    Where every trunk has a baseline, which trains it to the end in any case, the ladder is empty: it
    would only take away the trials that show what SWA adds to that baseline.
    """
    if spec.trunk_rungs != "auto":
        return list(spec.trunk_rungs)
    rung = max(epochs // 2, spec.grace_epochs) - 1
    return [] if every_trunk_has_a_baseline or rung >= epochs - 1 else [rung]


def branch_rungs(spec: SchedulerSpec, epochs: int) -> list[int]:
    """Epochs (from 0) of the branch's ladder: with 1/factor, 1/factor^2, ... of the run to go.

    Averaging begins late and at different epochs, so a ladder that is geometric from the start
    would have hardly a rung that it reaches; one that is geometric towards the end has.
    """
    if spec.branch_rungs != "auto":
        return list(spec.branch_rungs)
    rungs, left = [], epochs / spec.reduction_factor
    while left >= 2:
        rungs.append(epochs - math.ceil(left) - 1)
        left /= spec.reduction_factor
    return sorted({r for r in rungs if r >= 0})


def move_rungs(rungs: Iterable[int], fork_epoch: int, cycle: int) -> frozenset[int]:
    """Move rungs to the newest end of a cycle at or before them: later in the cycle a trial would report
    nothing else. Those before the end of the first cycle after the fork are left out."""
    moved = {fork_epoch + (rung - fork_epoch) // cycle * cycle for rung in rungs}
    return frozenset(rung for rung in moved if rung > fork_epoch)


def _cycle_of(params: Params, default: int) -> int:
    """Epochs of a configuration's cycles."""
    cycle = params.get(CYCLE, default)
    return cycle if isinstance(cycle, int) else DEFAULT_CYCLE  # listed as null
