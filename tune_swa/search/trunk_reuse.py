"""Let suggestions go along trunks that are trained: as many epochs for branches as for trunks.

With a base rate from a continuous range every suggestion would open a trunk of its own, although a further
branch of a known one costs a third of a trial. So suggestions take turns by what was spent. While branches
have taken fewer epochs than trunks, what the sampler draws is moved to the nearest known trunk and keeps its
SWA settings. By that it is the sampler that chooses the trunk, and no model of gains and costs is needed, as
it is for expected improvement per unit of cost (Lee et al. 2020, arXiv 2003.10870; Essofi et al. 2024, arXiv
2411.03731). `benchmarks/reuse.py` compares such rules.

All of it is a function of the events of the search, and of nothing that sharing does: a search proposes the
same with and without.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from tune_swa.config import Choices, Experiment, Parameter, Params, Value
from tune_swa.experiment.events import Event, Kind, TrialEnded, TrialReopened, TrialSuggested, params_of
from tune_swa.experiment.objective import Objective

KNOWN_TRUNKS = 4
"""Trunks that suggestions can be moved to, the best ones. Their states stay on the disk."""
MOVED_IN_A_ROW = 5
"""Suggestions that go along known trunks one after the other at most: where averaging begins late, a branch
takes so few epochs that trunks would hardly be opened."""


@dataclass
class _Trial:
    """What a trial has trained, or will if it has not ended."""

    kind: Kind
    trunk: str
    fork_epoch: int | None
    length: int
    """Epochs of it that are counted: all of them until it ends, then those that it came to."""
    reached: int = 0
    ended: bool = False
    value: float | None = None
    """The objective, higher is better, if it completed."""


@dataclass
class TrunkReuse:
    """Decides which suggestions go along a known trunk, and along which.

    Args:
        parameters: what a baseline has of the space; a trunk is a choice of them.
        epochs: of a run.
        objective: what trials are compared by.
    """

    parameters: tuple[Parameter, ...]
    epochs: int
    objective: Objective
    _trials: dict[str, _Trial] = field(default_factory=dict)
    _settings: dict[str, Params] = field(default_factory=dict)
    """Of each trunk, by its name."""
    _in_a_row: int = 0
    """Last suggestions that opened no trunk."""

    @classmethod
    def of_experiment(cls, experiment: Experiment) -> TrunkReuse | None:
        """The rule of an experiment; None: each suggestion stays where the sampler has it."""
        if not experiment.reuses_trunks:
            return None
        objective = Objective.of_experiment(experiment)
        return cls(experiment.baseline_parameters, experiment.train.epochs, objective)

    def wants_branch(self) -> bool:
        """Whether the next suggestion should go along a known trunk: trunks have taken more epochs so far."""
        trunks, branches = self.count_epochs()
        return branches < trunks and self._in_a_row < MOVED_IN_A_ROW

    def count_epochs(self) -> tuple[int, int]:
        """Count the epochs of trunks, each once, and of branches; trials that run count to their end."""
        trunks: dict[str, int] = {}
        branches = 0
        for trial in self._trials.values():
            along = trial.length if trial.fork_epoch is None else min(trial.length, trial.fork_epoch + 1)
            trunks[trial.trunk] = max(trunks.get(trial.trunk, 0), along)
            branches += trial.length - along
        return sum(trunks.values()), branches

    def move_params(self, kind: Kind, params: Params) -> Params | None:
        """Move a configuration to the nearest known trunk; it keeps its SWA settings.

        Returns:
            The configuration; None: there is no trunk to move it to. A baseline is not moved to a trunk that
            one was suggested on.
        """
        names = self.known_trunks()
        if kind == "baseline":
            taken = {trial.trunk for trial in self._trials.values() if trial.kind == "baseline"}
            names = [name for name in names if name not in taken]
        if not names:
            return None
        nearest = min(names, key=lambda name: self._measure_distance(params, self._settings[name]))
        return {**params, **self._settings[nearest]}

    def known_trunks(self) -> list[str]:
        """Name the trunks that suggestions can be moved to."""
        return self.rank_trunks()[:KNOWN_TRUNKS]

    def rank_trunks(self) -> list[str]:
        """Name the trunks on which a trial completed, the one of the best trial first."""
        best: dict[str, float] = {}
        for trial in self._trials.values():
            if trial.value is not None:
                best[trial.trunk] = max(best.get(trial.trunk, -math.inf), trial.value)
        return sorted(best, key=lambda trunk: -best[trunk])

    def may_return_to(self, trunk: str) -> bool:
        """Whether a suggestion to come may be moved to a trunk, as far as is known."""
        runs = any(trial.trunk == trunk and not trial.ended for trial in self._trials.values())
        return runs or trunk in self.known_trunks()

    def report_epoch(self, trial: str, epoch: int) -> None:
        """Take in that a trial has come to the end of an epoch."""
        self._trials[trial].reached = epoch + 1

    def apply_event(self, event: Event) -> None:
        """Take in one event of the search; epochs come through `report_epoch`, also those taken over."""
        if isinstance(event, TrialSuggested):
            params = params_of(event)
            settings = {p.name: params[p.name] for p in self.parameters}
            # a schedule-free optimizer's trunk has SWA's refresh in its name: a moved one may be another
            known = event.trunk in self._settings or settings in self._settings.values()
            self._in_a_row = self._in_a_row + 1 if known else 0
            self._settings[event.trunk] = settings
            self._trials[event.trial] = _Trial(event.kind, event.trunk, event.first_average, self.epochs)
        elif isinstance(event, TrialReopened):
            trial = self._trials[event.trial]
            trial.ended, trial.length = False, self.epochs
        elif isinstance(event, TrialEnded) and event.status != "interrupted":
            trial = self._trials[event.trial]
            trial.ended, trial.length = True, trial.reached
            if event.status == "completed" and isinstance(event.value, float | int):
                trial.value = self.objective.orient_value(event.value)

    def _measure_distance(self, params: Params, trunk: Params) -> float:
        """Return the squared distance of a configuration to a trunk, in the unit cube of trunks."""
        return sum(
            _measure_gap(parameter, params[parameter.name], trunk[parameter.name]) ** 2
            for parameter in self.parameters
        )


def _measure_gap(parameter: Parameter, one: Value, other: Value) -> float:
    """Return how far two values are from each other, as a part of the range; 1 between two choices."""
    domain = parameter.domain
    if isinstance(domain, Choices):
        return float(one != other)
    assert isinstance(one, int | float)
    assert isinstance(other, int | float)
    if domain.log:
        return abs(math.log(one / other)) / math.log(domain.high / domain.low)
    return abs(one - other) / (domain.high - domain.low)
