"""Propose the trials of the search: baselines, then the points of the space file, then the sampler's."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from msgspec import UNSET

from tune_swa.config import Experiment, drop_repeated, enumerate_space, params_key
from tune_swa.experiment.events import (
    EpochRecord,
    EpochReported,
    Event,
    Kind,
    TrialEnded,
    TrialReopened,
    TrialSuggested,
    params_of,
)
from tune_swa.experiment.objective import Objective
from tune_swa.search.epoch_budget import EpochBudget
from tune_swa.search.planner import Accept, Later, PlannedTrial, Suggestion, accept_any
from tune_swa.search.samplers import OUTCOMES, FixedSource, Move, SampledSource
from tune_swa.search.trunk_reuse import TrunkReuse


class Proposer:
    """The planner of the search stage.

    Suggestion k of a kind depends only on the seed, on k and on what was known when it was made, so a
    search that is resumed from its journal proposes what it would have proposed.
    """

    def __init__(self, experiment: Experiment) -> None:
        self._objective = Objective.of_experiment(experiment)
        self._limits: dict[Kind, int] = {
            "baseline": experiment.baseline_trials,
            "swa": experiment.swa_trials,
        }
        self._sources: dict[Kind, FixedSource | SampledSource] = {
            "baseline": _baseline_source(experiment),
            "swa": _swa_source(experiment),
        }
        self._reuse = TrunkReuse.of_experiment(experiment)
        self._budget = EpochBudget(experiment.search.epochs, experiment.train.epochs)
        self._next: dict[Kind, int] = {"baseline": 0, "swa": 0}
        self._trials: dict[str, tuple[Kind, int]] = {}
        self._taken: set[tuple[Kind, int]] = set()
        self._pending: Suggestion | None = None

    def next_suggestion(self, accept: Accept = accept_any, *, draw: bool = True) -> Suggestion | Later | None:
        held_back = False
        for kind, source in self._sources.items():
            if kind == "swa" and not self._budget.has_room:
                # a running trial that is stopped early leaves room for another one
                held_back = held_back or not self._budget.is_spent
                continue
            if isinstance(source, FixedSource):
                found = source.first_accepted(lambda params, kind=kind: accept(kind, params, None))  # type: ignore[misc]
                if found is not None:
                    self._pending = Suggestion(kind, *found)
                    return self._pending
                held_back = held_back or bool(source.left)
                continue
            index = self._next[kind]
            if index >= self._limits[kind]:
                continue
            if not draw:
                held_back = True
                continue
            proposal = source.propose_params(index, self._choose_move(kind))
            if proposal is None:  # a finite space is used up
                self._limits[kind] = index
                continue
            self._pending = Suggestion(kind, index, *proposal)
            return self._pending
        return Later.HELD_BACK if held_back else None

    def planned_trials(self) -> Iterator[PlannedTrial]:
        for kind, source in self._sources.items():
            for params in source.known:
                yield kind, params, None

    def _choose_move(self, kind: Kind) -> Move | None:
        """Return what moves the next suggestion to a known trunk; None: it opens one of its own."""
        reuse = self._reuse
        if reuse is None or not reuse.wants_branch():
            return None
        return lambda params: reuse.move_params(kind, params)

    def unsuggested_trials(self) -> Iterator[PlannedTrial]:
        for kind, source in self._sources.items():
            if kind == "swa" and self._budget.is_spent:
                continue
            if isinstance(source, FixedSource):
                left = list(source.left.values())
            else:
                left = source.known[self._next[kind] : self._limits[kind]]
            for params in left:
                yield kind, params, None

    def draws_more(self, trunk: str | None = None) -> bool:
        if trunk is not None and self._reuse is not None and not self._reuse.may_return_to(trunk):
            return False
        return any(
            isinstance(source, SampledSource)
            and self._next[kind] < self._limits[kind]
            and not (kind == "swa" and self._budget.is_spent)
            for kind, source in self._sources.items()
        )

    def report_epoch(self, trial: str, record: EpochRecord) -> None:
        if trial in self._trials:
            kind, index = self._trials[trial]
            self._sources[kind].report_value(index, record["epoch"], self._objective.read_value(record))
            self._budget.report_epoch(trial, record)
            if self._reuse is not None:
                self._reuse.report_epoch(trial, record["epoch"])

    def apply_event(self, event: Event) -> None:
        if isinstance(event, EpochReported):
            self.report_epoch(event.trial, event.record)
        elif isinstance(event, TrialSuggested):
            if event.stage == "search":
                self._apply_suggestion(event)
        elif isinstance(event, TrialEnded):
            if event.trial in self._trials and event.status in OUTCOMES:
                self._count_event(event)
                kind, index = self._trials[event.trial]
                value = None if event.value is UNSET else event.value
                self._sources[kind].finish_trial(index, event.status, value)
        elif isinstance(event, TrialReopened) and event.trial in self._trials:
            self._count_event(event)
            kind, index = self._trials[event.trial]
            self._sources[kind].reopen_trial(index)

    def _count_event(self, event: Event) -> None:
        """Pass an event on to what counts epochs."""
        self._budget.apply_event(event)
        if self._reuse is not None:
            self._reuse.apply_event(event)

    def _apply_suggestion(self, event: TrialSuggested) -> None:
        kind, index = event.kind, event.index
        if (kind, index) in self._taken:
            raise ValueError(f"{kind} trial number {index} is listed twice")
        self._taken.add((kind, index))
        self._trials[event.trial] = (kind, index)
        self._next[kind] = max(self._next[kind], index + 1)
        if self._pending is not None and self._pending.trial == event.trial:
            self._sources[kind].confirm_suggestion(index)
        else:
            self._sources[kind].restore_suggestion(index, params_of(event))
        self._pending = None
        self._count_event(event)


def _baseline_source(experiment: Experiment) -> FixedSource | SampledSource:
    fixed = experiment.baseline_points
    if fixed is not None:
        return FixedSource(fixed, "baseline")
    search = experiment.search
    direction = Objective.of_experiment(experiment).direction
    parameters = experiment.baseline_parameters
    return SampledSource(search.sampler, parameters, [], search.seed, "baseline", direction)


def _swa_source(experiment: Experiment) -> FixedSource | SampledSource:
    points, search = drop_repeated(experiment.swa_points), experiment.search
    if search.sampler != "grid" and experiment.parameters:
        direction = Objective.of_experiment(experiment).direction
        return SampledSource(search.sampler, experiment.parameters, points, search.seed, "swa", direction)
    first = {params_key(p) for p in points}
    rest = (p for p in enumerate_space(experiment.parameters) if params_key(p) not in first)
    return FixedSource(itertools.islice(itertools.chain(points, rest), experiment.swa_trials), "grid")
