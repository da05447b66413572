"""What soups, and means of SWAP's members, reached on the validation images, step by step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tune_swa.config import Experiment
from tune_swa.experiment.merge_events import ModelsMerged
from tune_swa.experiment.objective import Objective
from tune_swa.experiment.state import ExperimentState
from tune_swa.results.metric_format import MetricFormat


@dataclass(frozen=True)
class FinishedSoup:
    """A soup or a mean of members, with the metrics of its first trial alone and of the mean that it is."""

    event: ModelsMerged
    recipe: tuple[str, ...]
    """Trials whose averages it is the mean of."""
    first: Mapping[str, Any]
    """Record of the first trial's last epoch."""
    metrics: Mapping[str, Any]
    """`accuracy`, `nll` and `ece` of the soup on the validation images."""

    @property
    def method(self) -> str:
        """`soup` or `swap`."""
        return self.event.merge.rpartition(" ")[2]


def list_soups(state: ExperimentState) -> list[FinishedSoup]:
    """Return the merges of the search, in the order in which they were first made."""
    soups = []
    for event in state.merges.values():
        kept = [step for step in event.tried if step.kept]
        first = state.trials[event.candidates[0]].last or {}
        recipe = (event.candidates[0], *(step.trial for step in kept))
        soups.append(FinishedSoup(event, recipe, first, _read_metrics(kept[-1] if kept else first)))
    return soups


def _read_metrics(record: Any) -> dict[str, Any]:
    return {metric: record.get(metric) for metric in ("accuracy", "nll", "ece")}


def choose_soup(soups: Sequence[FinishedSoup], objective: Objective) -> FinishedSoup:
    """Return the best of some soups by the objective, the first one of equals."""
    return max(soups, key=lambda soup: objective.score_record(soup.metrics))


def soup_records(state: ExperimentState, experiment: Experiment) -> list[dict[str, Any]]:
    """Rows of soups.parquet."""
    return [row for event in state.merges.values() for row in _list_steps(event, state, experiment)]


def _list_steps(
    event: ModelsMerged, state: ExperimentState, experiment: Experiment
) -> Iterator[dict[str, Any]]:
    size = 0
    for step, name in enumerate(event.candidates):
        trial, tried = state.trials[name], event.tried[step - 1] if step else None
        own = trial.last or {}
        measured: Any = own if tried is None else tried
        yield {
            "merge": event.merge,
            "trunk": event.trunk,
            "step": step,
            "trial": name,
            "configuration": experiment.format_label(trial.params, trial.chosen_average, swa=True),
            "kept": tried is None or tried.kept,
            "size": size + 1,
            **_read_metrics(measured),
            "own_accuracy": own.get("accuracy"),
            "own_nll": own.get("nll"),
        }
        size += tried is None or tried.kept


def describe_soups(state: ExperimentState) -> list[str]:
    """One sentence on the best soup of each kind, and what it says."""
    objective, lines = state.objective, []
    for label in dict.fromkeys(event.merge for event in state.merges.values()):
        best = choose_soup([soup for soup in list_soups(state) if soup.event.merge == label], objective)
        written = MetricFormat(objective.metric)
        gain = objective.score_record(best.metrics) - objective.score_record(best.first)
        first, recipe = best.recipe[0], len(best.recipe)
        value = f"{written.format_value(objective.read_value(best.metrics))}, {written.describe_gain(gain)}"
        if best.method == "swap":
            lines.append(
                f"Best SWAP: mean of {recipe} members, {value} against the first one alone, {first} of the "
                f"search. The same validation images chose it, and {_describe_tests(state, best)}."
            )
            continue
        lines.append(
            f"Best {label}: {recipe} of {len(best.event.candidates)} trials of one trunk, {value} against "
            f"its best trial, {first}. The same validation images chose it, and "
            f"{_describe_tests(state, best)}."
        )
    return lines


def _describe_tests(state: ExperimentState, best: FinishedSoup) -> str:
    """Say what fresh seeds do with the soups of a kind, as the end of a sentence."""
    look = state.confirmations[-1] if state.confirmations else None
    asked = state.header is not None and state.header.spec["confirm"].get("merges", False)
    if look is None or not (asked or look.merges):
        return "fresh seeds do not test it"
    if best.event.merge not in [planned.merge for planned in look.merges or ()]:
        return "no mean of two or more is there to be tested on fresh seeds"
    which = "its recipe" if len(best.recipe) > 1 else "the recipe of the best one of several trials"
    return f"{which} is followed on {len(look.seeds)} fresh seeds"
