"""Choose the configurations that are trained again on fresh seeds, and their roles."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tune_swa.config import Experiment, Params, count_space, is_swa_setting, params_key
from tune_swa.experiment.events import Kind, PlannedArm, params_of
from tune_swa.experiment.state import ExperimentState
from tune_swa.experiment.trial_state import TrialState

CANDIDATE, FINALIST, BASELINE, TRUNK = "candidate", "finalist", "baseline", "trunk"
"""Roles of an arm: an SWA configuration in the race and one that is confirmed, plain training that the search
or the race put forward, and the settings of an SWA configuration without SWA. Plain training may have both
of the last two."""

SHARED_BASELINES, OTHER_BASELINES = 8, 3
"""Values of `confirm.baselines: auto`: with a baseline for every trunk, and without."""


@dataclass(frozen=True)
class Arm:
    """A configuration that is run on fresh seeds, with its average where that was chosen among several."""

    name: str
    """Name of the search's trial that put it forward, or of an SWA trial followed by `-trunk`."""
    kind: Kind
    params: Params
    roles: tuple[str, ...]
    average: str | None = None
    """Label of the average that the search chose for it; None: it chose none."""
    member: int = 0
    """Number among the members of SWAP."""

    @classmethod
    def from_event(cls, planned: PlannedArm) -> Arm:
        """An arm of a `race` or `confirm` event."""
        roles, params = tuple(planned.roles), params_of(planned)
        return cls(planned.name, planned.kind, params, roles, planned.average, planned.member)

    def to_event(self) -> PlannedArm:
        """The arm as events record it."""
        return PlannedArm(
            name=self.name,
            kind=self.kind,
            params=dict(self.params),
            roles=list(self.roles),
            average=self.average,
            member=self.member,
        )


def max_baselines(experiment: Experiment) -> int:
    """Baselines in the race and a look at most, besides the own trunks of SWA configurations."""
    wanted = experiment.confirm.baselines
    if wanted == "auto":
        wanted = SHARED_BASELINES if experiment.every_trunk_has_a_baseline else OTHER_BASELINES
    return min(wanted, experiment.baseline_trials)


def max_plain_arms(experiment: Experiment, configurations: int) -> int:
    """Plain arms at most: the baselines, and the own trunk of each of so many SWA configurations."""
    trunks = count_space(experiment.baseline_parameters)
    plain = max_baselines(experiment) + min(configurations, experiment.swa_trials)
    return plain if trunks is None else min(plain, trunks)


def rank_searched(state: ExperimentState) -> list[TrialState]:
    """Return the completed trials of the search, best first, one per configuration."""
    trials = [
        t for t in state.trials.values() if t.stage == "search" and t.status == "completed" and t.records
    ]
    first: dict[object, TrialState] = {}
    for trial in sorted(trials, key=state.objective.rank_trial):
        first.setdefault((trial.kind, params_key(trial.params)), trial)
    return list(first.values())


def choose_swa(ranked: Iterable[TrialState], number: int, role: str = FINALIST) -> tuple[Arm, ...]:
    """Return the best SWA configurations of the search, each with its average where that is chosen, too."""
    chosen = [t for t in ranked if t.kind == "swa"][:number]
    return tuple(Arm(t.name, t.kind, t.params, (role,), t.chosen_average) for t in chosen)


def choose_plain(ranked: Sequence[TrialState], number: int) -> tuple[Arm, ...]:
    """Return the best baselines of the search."""
    chosen = [t for t in ranked if t.kind == "baseline"][:number]
    return tuple(Arm(t.name, t.kind, t.params, (BASELINE,)) for t in chosen)


def add_trunks(
    plain: Iterable[Arm], swa: Iterable[Arm], ranked: Iterable[TrialState] = ()
) -> tuple[Arm, ...]:
    """Plain arms with the own trunk of each SWA arm among them, in the role `trunk`.

    Args:
        plain: the baselines.
        swa: SWA arms.
        ranked: trials of the search; an own trunk gets the name of the baseline that it is.
    """
    found = {params_key(a.params): a for a in plain}
    names = {params_key(t.params): t.name for t in ranked if t.kind == "baseline"}
    for arm in swa:
        params = without_swa(arm.params)
        key = params_key(params)
        known = found.get(key)
        if known is None:
            found[key] = Arm(names.get(key, f"{arm.name}-trunk"), "baseline", params, (TRUNK,))
        elif TRUNK not in known.roles:
            found[key] = Arm(known.name, known.kind, known.params, (*known.roles, TRUNK))
    return tuple(found.values())


def without_swa(params: Params) -> Params:
    """Return the same settings without those of SWA."""
    return {name: value for name, value in params.items() if not is_swa_setting(name)}
