"""Rank the configurations of a search, and measure each against the baselines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tune_swa.config import (
    Experiment,
    Metric,
    Params,
    Value,
    format_label,
    is_swa_setting,
    params_key,
)
from tune_swa.experiment.events import DamagedError, RacePlanned, Stage, params_of
from tune_swa.experiment.layout import fresh_run_name
from tune_swa.experiment.objective import Objective
from tune_swa.experiment.state import ExperimentState
from tune_swa.experiment.trial_state import TrialState
from tune_swa.results.provenance import restore_experiment, validation_images

_UNFINISHED = ("running", "interrupted", "pruned", "failed")
"""Order in which the rows without a rank are listed: what may still complete comes first."""


@dataclass(frozen=True)
class Entry:
    """A trial, and its distance from the baselines."""

    trial: TrialState
    params: Params
    """Its configuration: `lr` always, `swa_start` and `swa_lr` for SWA, and what else is searched."""
    label: str
    delta_vs_baseline: float | None
    """Gain in the objective over the best baseline: of accuracy (0 to 1), or by how much nll is lower."""
    delta_vs_same_lr: float | None
    """The same over the baseline with the same non-SWA settings."""

    @property
    def completed(self) -> bool:
        return is_completed(self.trial)

    @property
    def accuracy(self) -> float | None:
        """Accuracy at the last reported epoch, 0 to 1."""
        return None if self.trial.last is None else self.trial.last["accuracy"]

    @property
    def nll(self) -> float | None:
        """Negative log-likelihood at the last reported epoch, nats per image."""
        return (self.trial.last or {}).get("nll")

    def read_metric(self, metric: Metric) -> float | None:
        return self.nll if metric == "nll" else self.accuracy


@dataclass(frozen=True)
class Comparison:
    """All trials of an experiment, and the ranking of its configurations."""

    experiment: Experiment
    images: int
    """Validation images behind every accuracy."""
    trials: tuple[Entry, ...]
    """Every trial of every stage, in the order they were suggested."""
    ranked: tuple[Entry, ...]
    """Completed configurations of the search, best first."""
    unfinished: tuple[Entry, ...]
    """The other configurations of the search."""
    baseline: Entry | None
    """The best completed baseline of the search."""

    @property
    def objective(self) -> Objective:
        return Objective.of_experiment(self.experiment)

    @property
    def best(self) -> Entry | None:
        """The finally chosen configuration, of any kind."""
        return self.ranked[0] if self.ranked else None

    @property
    def best_swa(self) -> Entry | None:
        return next((e for e in self.ranked if e.trial.kind == "swa"), None)


def is_completed(trial: TrialState) -> bool:
    """Whether its last epoch has the value of the objective."""
    return trial.status == "completed" and bool(trial.records)


def best_trial(state: ExperimentState) -> TrialState | None:
    """The trial whose model is handed over, or None without a completed one.

    With fresh seeds, the configuration (with its average, where that was chosen) with the best mean over
    them, baselines included, and of its runs the best one: test images choose nothing. Without, the best
    completed trial of the search. Best is the highest validation accuracy at the last epoch (not the best
    over the epochs, which would be a second selection), then the lowest nll, then the first name; with nll as
    the objective the lowest nll first.
    """
    return _best_confirmed(state) or _best_of(
        state, (t for t in state.trials.values() if t.stage == "search")
    )


def best_baseline(state: ExperimentState) -> TrialState | None:
    """The baseline of the search that all are measured against; None without a completed one."""
    searched = (t for t in state.trials.values() if t.stage == "search" and t.kind == "baseline")
    return _best_of(state, searched)


def _best_confirmed(state: ExperimentState) -> TrialState | None:
    """The best run of the arm that did best on fresh seeds.

    None while a run of the last look is missing, or if the search has gone on since.
    """
    searched = sum(t.stage == "search" and t.ended for t in state.trials.values())
    if not state.confirmations or state.confirmations[-1].searched != searched:
        return None
    look = state.confirmations[-1]
    runs = {arm.name: find_runs(state, arm.name, "confirm", look.seeds) for arm in look.arms}
    if not all(len(found) == len(look.seeds) and all(t.ended for t in found) for found in runs.values()):
        return None
    complete = [arm for arm in look.arms if all(map(is_completed, runs[arm.name]))]
    if not complete:
        return None
    chosen = min(complete, key=lambda arm: _mean_ranking(state.objective, arm.name, runs[arm.name]))
    configuration = (chosen.kind, params_key(params_of(chosen)), chosen.average)
    trials = state.trials.values()
    same = [t for t in trials if (t.kind, params_key(t.params), t.chosen_average) == configuration]
    # a member of SWAP is no run of plain SWA
    return _best_of(state, (t for t in same if t.checkpoints and not t.member))


def _mean_ranking(objective: Objective, name: str, runs: Sequence[TrialState]) -> tuple[float, float, str]:
    """Sorts arms by their mean over the runs, as `Objective.rank_trial` sorts trials."""
    keys = [objective.rank_trial(t) for t in runs]
    return sum(key[0] for key in keys) / len(runs), sum(key[1] for key in keys) / len(runs), name


def find_runs(state: ExperimentState, arm: str, stage: Stage, seeds: Iterable[int]) -> list[TrialState]:
    """The runs of an arm on fresh seeds, as far as the journal has them."""
    names = [fresh_run_name(arm, stage, seed) for seed in seeds]
    return [state.trials[name] for name in names if name in state.trials]


def race_values(state: ExperimentState, metric: Metric) -> dict[str, list[float]]:
    """A validation metric of each completed run of the last race, by the arm's name; empty without one."""
    found: dict[str, list[float]] = {}
    for event in last_race(state):
        for arm in event.arms:
            runs = find_runs(state, arm.name, "race", event.seeds)
            values = [run.records[-1].get(metric) for run in runs if is_completed(run)]
            found.setdefault(arm.name, []).extend(value for value in values if value is not None)
    return found


def last_race(state: ExperimentState) -> list[RacePlanned]:
    """The rounds of the last race."""
    first = max((k for k, event in enumerate(state.races) if event.round == 1), default=0)
    return state.races[first:]


def compare_configurations(state: ExperimentState) -> Comparison:
    """Measure every trial against the baselines, and rank the configurations of the search.

    A difference is taken between trials of one stage and one seed, so that both sides saw the same
    initial weights and the same order of images.

    Raises:
        RequestError: the journal is empty, or lacks parameters of a trial.
    """
    experiment = restore_experiment(state)
    search = [t for t in state.trials.values() if t.stage == "search"]
    baseline = best_baseline(state)
    references = _baseline_scores(state)
    try:
        entries = {t.name: _build_entry(experiment, t, baseline, references) for t in state.trials.values()}
    except DamagedError as error:
        raise state.damaged(error) from None
    completed = sorted((t for t in search if is_completed(t)), key=state.objective.rank_trial)
    others = sorted((t for t in search if not is_completed(t)), key=_unfinished_order)
    rows = _one_per_configuration(entries[t.name] for t in (*completed, *others))
    return Comparison(
        experiment=experiment,
        images=validation_images(state),
        trials=tuple(entries.values()),
        ranked=tuple(e for e in rows if e.completed),
        unfinished=tuple(e for e in rows if not e.completed),
        baseline=None if baseline is None else entries[baseline.name],
    )


# ------------------------------------------------------------------------------------- ordering


def _best_of(state: ExperimentState, trials: Iterable[TrialState]) -> TrialState | None:
    return min((t for t in trials if is_completed(t)), key=state.objective.rank_trial, default=None)


def _unfinished_order(trial: TrialState) -> tuple[int, int, str]:
    """Sorts trials that have not completed. Not by accuracy: theirs are of different epochs."""
    status = _UNFINISHED.index(trial.status) if trial.status in _UNFINISHED else len(_UNFINISHED)
    return status, -len(trial.records), trial.name


def _one_per_configuration(entries: Iterable[Entry]) -> list[Entry]:
    """The first of each configuration; samplers may suggest one twice."""
    first: dict[Any, Entry] = {}
    for entry in entries:
        first.setdefault((entry.trial.kind, params_key(entry.params)), entry)
    return list(first.values())


# ---------------------------------------------------------------------------------- differences

_Key = tuple[str, int, tuple[tuple[str, Value], ...]]


def _reference_key(trial: TrialState, like: TrialState) -> _Key:
    """Stage and seed of `trial`, with the non-SWA settings of `like`."""
    settings = {n: v for n, v in like.params.items() if not is_swa_setting(n)}
    return trial.stage, trial.seed, params_key(settings)


def _baseline_scores(state: ExperimentState) -> dict[_Key, float]:
    """Objective of the best completed baseline at each stage, seed and setting."""
    completed = [t for t in state.trials.values() if t.kind == "baseline" and is_completed(t)]
    best_last = sorted(completed, key=state.objective.rank_trial, reverse=True)
    return {_reference_key(t, t): state.objective.score_record(t.records[-1]) for t in best_last}


def _build_entry(
    experiment: Experiment, trial: TrialState, baseline: TrialState | None, references: dict[_Key, float]
) -> Entry:
    swa = trial.kind == "swa"
    try:
        experiment.check_configuration(trial.params, swa=swa)
    except ValueError as error:
        raise DamagedError(f"{trial.name}: {error}") from None
    params = experiment.complete_configuration(trial.params, swa=swa)
    tuned = same = None
    if is_completed(trial):
        score = Objective.of_experiment(experiment).score_record(trial.records[-1])
        if baseline is not None:
            tuned = _subtract(score, references.get(_reference_key(trial, baseline)))
        same = _subtract(score, references.get(_reference_key(trial, trial)))
    return Entry(trial, params, format_label(params, trial.chosen_average), tuned, same)


def _subtract(score: float, reference: float | None) -> float | None:
    return None if reference is None else score - reference
