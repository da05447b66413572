"""Count the runs and epochs that follow a search, before anything is known of its outcome: members of SWAP,
and fresh seeds."""

from __future__ import annotations

from dataclasses import dataclass

from tune_swa.config import Experiment, MergeSpec, count_space
from tune_swa.inference.looks import plan_looks
from tune_swa.inference.race import RaceRound, plan_race
from tune_swa.search.arms import max_baselines, max_plain_arms
from tune_swa.search.trunk_sharing import fork_points, planned_epochs

MAX_CONFIGURATIONS = 8
"""Maximum of `race.configurations: auto`, unless more finalists are asked for."""
SHARE_OF_RACE = 1 / 2
"""Largest share that `auto` spends on the race, of the epochs of the search and of a first look without a
race."""


@dataclass(frozen=True)
class Cost:
    """Runs and the epochs that they train by themselves, if all complete: at least and at most."""

    runs: tuple[int, int]
    epochs: tuple[int, int]

    def __add__(self, other: Cost) -> Cost:
        runs = self.runs[0] + other.runs[0], self.runs[1] + other.runs[1]
        return Cost(runs, (self.epochs[0] + other.epochs[0], self.epochs[1] + other.epochs[1]))


NOTHING = Cost((0, 0), (0, 0))


def race_configurations(experiment: Experiment) -> int:
    """Count the SWA configurations that enter the race; 0: there is none, since all would be finalists.

    It is counted as if trunks were shared: a search chooses the same where they are not.
    """
    race, top = experiment.confirm.race, experiment.confirm.top
    if not race:
        return 0
    if race.configurations != "auto":
        number = min(race.configurations, experiment.swa_trials)
        return number if number > top else 0
    if not experiment.search.share:
        search = experiment.search.model_copy(update={"share": True})
        experiment = experiment.model_copy(update={"search": search})
    searched = planned_epochs(experiment)
    if searched is None:
        searched = experiment.search.epochs or experiment.train.epochs * (
            experiment.swa_trials + experiment.baseline_trials
        )
    whole = searched + _cost_of_look(experiment, max_plain_arms(experiment, top)).epochs[1]
    for number in range(min(max(MAX_CONFIGURATIONS, top), experiment.swa_trials), top, -1):
        if _cost_of_race(experiment, number).epochs[1] <= SHARE_OF_RACE * whole:
            return number
    return 0


def max_tested_plain_arms(experiment: Experiment) -> int:
    """Count the plain arms of a look at most: the race's, or else the baselines and finalists' trunks."""
    return max_plain_arms(experiment, race_configurations(experiment) or experiment.confirm.top)


def planned_rounds(experiment: Experiment, configurations: int) -> tuple[RaceRound, ...]:
    """Plan the rounds of a race: all baselines that enter it, and as many own trunks as there can be."""
    return _plan_rounds(experiment, configurations, max_plain_arms(experiment, configurations))


def _plan_rounds(experiment: Experiment, configurations: int, plain: int) -> tuple[RaceRound, ...]:
    race, top = experiment.confirm.race, experiment.confirm.top
    if not race or not configurations:
        return ()
    return plan_race(configurations, plain, race.seeds, finalists=top)


def race_cost(experiment: Experiment) -> Cost:
    """Count the cost of the race. It takes fewer runs only if trials of the search fail or repeat."""
    return _cost_of_race(experiment, race_configurations(experiment))


def looks_cost(experiment: Experiment) -> Cost:
    """Count the cost of the looks: the first one at least, the last one at most."""
    looks = plan_looks(experiment.confirm.seeds, experiment.confirm.most_seeds)
    # the race may drop all but one, and does not have to drop any
    least = 1 if race_configurations(experiment) else max_baselines(experiment)
    first, last = (
        _cost_of_look(experiment, least, looks[0]),
        _cost_of_look(experiment, max_tested_plain_arms(experiment), looks[-1]),
    )
    return Cost((first.runs[0], last.runs[1]), (first.epochs[0], last.epochs[1]))


def count_members(experiment: Experiment) -> int:
    """Count the members of SWAP besides the trials of the search that they go with."""
    swap = experiment.swap
    return 0 if swap is None else min(swap.top, experiment.swa_trials) * (swap.members - 1)


def members_cost(experiment: Experiment) -> Cost:
    """Count the cost of the members of SWAP: each trains its branch, without sharing its trunk as well."""
    runs, (shortest, longest) = count_members(experiment), _branch_epochs(experiment)
    return Cost((runs, runs), (runs * shortest, runs * longest))


def _branch_epochs(experiment: Experiment) -> tuple[int, int]:
    """Return the fewest and the most epochs that an SWA trial trains where its trunk's states are there."""
    epochs = experiment.train.epochs
    if not experiment.search.share:
        return epochs, epochs
    points = fork_points(experiment)
    return epochs - 1 - points[-1], epochs - 1 - points[0]


def max_members(experiment: Experiment, spec: MergeSpec) -> int:
    """Count the members of a merge on fresh seeds at most: of a soup the SWA configurations of one trunk."""
    if spec.method == "swap":
        return spec.members
    of_trunk = count_space(tuple(p for p in experiment.parameters if p.swa))
    return experiment.swa_trials if of_trunk is None else min(of_trunk, experiment.swa_trials)


def merges_cost(experiment: Experiment) -> Cost:
    """Count what merges add to the last look: at most, where no member is a finalist and no other arm trains
    their trunk. A merge may need nothing more, or turn out to be one trial."""
    if not experiment.confirm.merges:
        return NOTHING
    seeds, longest = experiment.confirm.most_seeds, _branch_epochs(experiment)[1]
    members = [max_members(experiment, spec) for spec in experiment.merge]
    epochs = sum(experiment.train.epochs + (number - 1) * longest for number in members)
    return Cost((0, seeds * sum(members)), (0, seeds * epochs))


def max_runs_per_step(experiment: Experiment) -> int:
    """Count the runs of a round or a look at most: so many can be run side by side."""
    rounds = planned_rounds(experiment, race_configurations(experiment))
    runs = [
        (r.swa + r.plain) * (r.seeds - before)
        for r, before in zip(rounds, _seeds_before(rounds), strict=True)
    ]
    return max(*runs, looks_cost(experiment).runs[1] + merges_cost(experiment).runs[1], 0)


def max_fresh_states(experiment: Experiment) -> int:
    """Count the published states that there can be at one time: each SWA run of a step goes on from one."""
    rounds = planned_rounds(experiment, race_configurations(experiment))
    races = [r.swa * (r.seeds - before) for r, before in zip(rounds, _seeds_before(rounds), strict=True)]
    looks = plan_looks(experiment.confirm.seeds, experiment.confirm.most_seeds)
    seeds = max(number - before for number, before in zip(looks, (0, *looks), strict=False))
    members = merges_cost(experiment).runs[1] // experiment.confirm.most_seeds
    return max(*races, (min(experiment.confirm.top, experiment.swa_trials) + members) * seeds, 0)


def _cost_of_race(experiment: Experiment, configurations: int) -> Cost:
    """Count the cost of a race: at least where every trunk is one of the baselines, at most where none is."""
    least = _cost_of_rounds(experiment, configurations, max_baselines(experiment))
    most = _cost_of_rounds(experiment, configurations, max_plain_arms(experiment, configurations))
    return Cost((least.runs[0], most.runs[1]), (least.epochs[0], most.epochs[1]))


def _cost_of_rounds(experiment: Experiment, configurations: int, plain: int) -> Cost:
    rounds = _plan_rounds(experiment, configurations, plain)
    cost = NOTHING
    for planned, before in zip(rounds, _seeds_before(rounds), strict=True):
        # whoever is dropped by count may have been the trunk of a configuration that stays
        covered = None if planned.plain == plain else planned.plain
        cost += _cost_of_arms(experiment, planned.swa, planned.plain, covered, planned.seeds - before)
    return cost


def _cost_of_look(experiment: Experiment, plain: int, seeds: int | None = None) -> Cost:
    """Count the cost of a look with so many plain arms, among them the finalists' own trunks."""
    top = min(experiment.confirm.top, experiment.swa_trials)
    return _cost_of_arms(experiment, top, plain, None, seeds or experiment.confirm.seeds)


def _cost_of_arms(experiment: Experiment, swa: int, plain: int, covered: int | None, seeds: int) -> Cost:
    """Count the cost of so many arms on each of the seeds.

    Args:
        experiment: the settings.
        swa: SWA arms.
        plain: plain arms.
        covered: trunks of the space that the plain arms train; None: all that the SWA arms have.
        seeds: of every arm.
    """
    epochs, (shortest, longest) = experiment.train.epochs, _branch_epochs(experiment)
    trunks = count_space(experiment.baseline_parameters)
    alone = 0
    if covered is not None:
        alone = swa if trunks is None else min(swa, max(0, trunks - covered))
    low = plain * epochs + swa * shortest
    high = (plain + alone) * epochs + (swa - alone) * longest
    runs = seeds * (swa + plain)
    return Cost((runs, runs), (seeds * low, seeds * high))


def _seeds_before(rounds: tuple[RaceRound, ...]) -> list[int]:
    """Return the seeds that arms had before each round."""
    return [0, *(planned.seeds for planned in rounds)][: len(rounds)]
