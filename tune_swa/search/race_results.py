"""What the runs of a race have reported: their scores, and how far single images differ."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

from tune_swa.experiment.events import EpochRecord, Kind
from tune_swa.experiment.layout import fresh_run_name
from tune_swa.experiment.state import ExperimentState
from tune_swa.search.arms import Arm


class RaceRuns(Protocol):
    """Runs of several arms on several seeds."""

    @property
    def arms(self) -> Sequence[Arm]: ...

    @property
    def seeds(self) -> Sequence[int]: ...


def collect_scores(
    state: ExperimentState, rounds: Sequence[RaceRuns], arms: Sequence[Arm], kind: Kind
) -> dict[str, dict[int, float]]:
    """Collect the objective of completed runs of a race, by arm and seed, in the order of `arms`."""
    scores: dict[str, dict[int, float]] = {arm.name: {} for arm in arms if arm.kind == kind}
    for name, seed, record in _completed_runs(state, rounds):
        if name in scores:
            scores[name][seed] = state.objective.score_record(record)
    return scores


def average_variances(state: ExperimentState, rounds: Sequence[RaceRuns]) -> dict[str, float] | None:
    """Return the variance of one validation image's nll, by arm: the mean over its completed runs.

    Returns:
        nan for an arm of which a run has not recorded it; None: the objective is accuracy, of which the
        mean has it.
    """
    if state.objective.metric == "accuracy":
        return None
    found: dict[str, list[float]] = {arm.name: [] for each in rounds for arm in each.arms}
    for name, _, record in _completed_runs(state, rounds):
        spread = record.get("nll_sd")
        found[name].append(math.nan if spread is None else spread**2)
    return {name: math.fsum(each) / len(each) if each else math.nan for name, each in found.items()}


def _completed_runs(
    state: ExperimentState, rounds: Sequence[RaceRuns]
) -> Iterator[tuple[str, int, EpochRecord]]:
    """Yield arm, seed and last record of each completed run, round by round."""
    for each in rounds:
        for arm in each.arms:
            for seed in each.seeds:
                run = state.trials.get(fresh_run_name(arm.name, "race", seed))
                if run is not None and run.status == "completed" and run.last:
                    yield arm.name, seed, run.last
