"""Runs on fresh seeds after the search: what is run, under which names, and in which order.

The winner of a search is the best of many noisy numbers on images that chose it. So its finalists
are trained again on seeds that no choice has seen, the same ones for all, beside the tuned baseline
and each finalist's own trunk trained to its end, which tells SWA's part from that of the rate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from tune_swa.journal import Event, ExperimentState, Kind, TrialState, params_of, ranking
from tune_swa.search.proposer import Accept, Later, Plan, Suggestion
from tune_swa.spec import Experiment, Params, is_swa_setting, params_key

FINALIST, TUNED, TRUNK = "finalist", "baseline", "trunk"
"""Roles of an arm: a configuration that the search put forward, the best baseline, and a finalist's
settings without SWA. One arm may have two of them."""


@dataclass(frozen=True)
class Arm:
    """A configuration that is run on every fresh seed."""

    name: str
    """That of the trial of the search which put it forward, or of a finalist with `-trunk`."""
    kind: Kind
    params: Params
    roles: tuple[str, ...]


@dataclass(frozen=True)
class Look:
    """What is run before the results on the test images are looked at, once more."""

    number: int
    """Counts from 1."""
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    searched: int
    """Trials of the search that had ended."""

    @classmethod
    def from_event(cls, event: Event) -> Look:
        """The look that a `confirm` event planned."""
        arms = (Arm(a["name"], a["kind"], params_of(a), tuple(a["roles"])) for a in event["arms"])
        return cls(event["look"], tuple(arms), tuple(event["seeds"]), event["searched"])

    def fields(self) -> dict[str, Any]:
        """Of the `confirm` event."""
        arms = [{**asdict(arm), "roles": list(arm.roles)} for arm in self.arms]
        return {"look": self.number, "arms": arms, "seeds": list(self.seeds), "searched": self.searched}

    @property
    def names(self) -> list[str]:
        """Of the trials."""
        return [suggestion.trial for suggestion in self.suggestions()]

    def suggestions(self) -> Iterator[Suggestion]:
        """Every run, seed by seed, and of each seed those first that others go on from."""
        arms = sorted(self.arms, key=lambda arm: arm.kind == "swa")
        numbers = enumerate((arm, seed) for seed in self.seeds for arm in arms)
        for number, (arm, seed) in numbers:
            name = f"{arm.name}-seed{seed}"
            yield Suggestion(arm.kind, number, arm.params, "confirm", stage="confirm", seed=seed, name=name)


def next_look(experiment: Experiment, state: ExperimentState) -> Look | None:
    """The look that is due after the search, begun already or not; None without a finalist.

    The seeds are the numbers after the search's own. More of them than at the last look come in
    addition, as long as the search has not gone on since; else its old ones have been seen, and new
    ones are taken.
    """
    searched = [t for t in state.trials.values() if t.stage == "search" and t.ended]
    arms = _arms(experiment, searched)
    if not any(FINALIST in arm.roles for arm in arms):
        return None
    last = Look.from_event(state.confirmations[-1]) if state.confirmations else None
    used = [seed for event in state.confirmations for seed in event["seeds"]]
    first = max(used, default=experiment.seed) + 1
    wanted = experiment.confirm.seeds
    if last is not None and last.searched == len(searched):
        names = {arm.name for arm in arms}
        if wanted <= len(last.seeds) and names <= {arm.name for arm in last.arms}:
            return last
        more = range(first, first + wanted - len(last.seeds))
        seeds = (*last.seeds, *more)
    else:
        seeds = tuple(range(first, first + wanted))
    return Look(len(state.confirmations) + 1, arms, seeds, len(searched))


def most_runs(experiment: Experiment) -> int:
    """Runs of a look at most: the finalists, the best baseline and the finalists' trunks, on every seed."""
    return (2 * min(experiment.confirm.top, experiment.swa_trials) + 1) * experiment.confirm.seeds


def _arms(experiment: Experiment, searched: list[TrialState]) -> tuple[Arm, ...]:
    completed = sorted((t for t in searched if t.status == "completed" and t.records), key=ranking)
    finalists: list[TrialState] = []
    for trial in completed:
        new = all(params_key(trial.params) != params_key(f.params) for f in finalists)
        if trial.kind == "swa" and new and len(finalists) < experiment.confirm.top:
            finalists.append(trial)
    baselines = {params_key(t.params): t for t in reversed(completed) if t.kind == "baseline"}
    tuned = next((t for t in completed if t.kind == "baseline"), None)
    found = [Arm(t.name, t.kind, t.params, (FINALIST,)) for t in finalists]
    plain: dict[object, Arm] = {}
    if tuned is not None:
        plain[params_key(tuned.params)] = Arm(tuned.name, tuned.kind, tuned.params, (TUNED,))
    for finalist in finalists:
        params = {name: value for name, value in finalist.params.items() if not is_swa_setting(name)}
        key = params_key(params)
        same = plain.get(key)
        if same is None:
            known = baselines.get(key)
            name = f"{finalist.name}-trunk" if known is None else known.name
            plain[key] = Arm(name, "baseline", params, (TRUNK,))
        elif TRUNK not in same.roles:
            plain[key] = Arm(same.name, same.kind, same.params, (*same.roles, TRUNK))
    return (*found, *plain.values())


class ConfirmPlanner:
    """The confirm stage's planner: a fixed list of runs."""

    def __init__(self, look: Look, state: ExperimentState) -> None:
        self._all = {suggestion.trial: suggestion for suggestion in look.suggestions()}
        self._left = {name: s for name, s in self._all.items() if name not in state.trials}

    def next(
        self, accept: Accept = lambda kind, params, seed: True, *, draw: bool = True
    ) -> Suggestion | Later | None:
        for suggestion in self._left.values():
            if accept(suggestion.kind, suggestion.params, suggestion.seed):
                return suggestion
        return Later.HELD_BACK if self._left else None

    def fixed(self) -> Iterator[Plan]:
        for suggestion in self._all.values():
            yield suggestion.kind, suggestion.params, suggestion.seed

    def fixed_left(self) -> Iterator[Plan]:
        for suggestion in self._left.values():
            yield suggestion.kind, suggestion.params, suggestion.seed

    def draws_more(self) -> bool:
        return False

    def report(self, trial: str, epoch: int, value: float) -> None:
        """Nothing to learn: the list is fixed."""

    def learn(self, event: Event) -> None:
        if event["event"] == "suggested":
            self._left.pop(event["trial"], None)
