"""Plan the runs on fresh seeds after the search: a race, then looks at the test images.

The winner of a search is the best of many noisy numbers on images that chose it, and so is the best
baseline. So the best of both sides, and the own trunk of each SWA configuration among them, first race
on a few fresh seeds, judged by the validation images alone. What wins is trained on seeds after those
and tested: the finalists, the plain training to beat, and each finalist's own trunk trained to its end,
which tells SWA's part from that of the rate. The test images are looked at after planned numbers of
seeds, and the rule says whether more are worth it.

Every step is recorded before its runs begin, with what is planned after it, and depends on nothing but
the journal and the predictions: a kill between two of them changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import ClassVar

from msgspec import UNSET

from tune_swa.config import Experiment
from tune_swa.experiment.events import (
    Event,
    LookPlanned,
    PlannedRound,
    RacePlanned,
    Stage,
    Stop,
)
from tune_swa.experiment.layout import fresh_run_name
from tune_swa.experiment.merge_recipe import MergeRecipe
from tune_swa.experiment.state import ExperimentState
from tune_swa.inference.looks import plan_looks, spend_alpha
from tune_swa.inference.race import RaceRound, halve_race, keep_plain, plan_race
from tune_swa.search.arms import (
    BASELINE,
    CANDIDATE,
    FINALIST,
    Arm,
    add_trunks,
    choose_plain,
    choose_swa,
    max_baselines,
    rank_searched,
)
from tune_swa.search.confirm_cost import race_configurations
from tune_swa.search.merge_choice import choose_recipes
from tune_swa.search.planner import Suggestion
from tune_swa.search.race_results import average_variances, collect_scores

Judge = Callable[[LookPlanned], Stop | None]
"""Judges a recorded look whose runs have all ended: why no more seeds follow; None: they do."""


@dataclass(frozen=True)
class Step:
    """Runs of several arms on several seeds, after which something is decided."""

    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    """Every arm is run on each of them."""
    searched: int
    """Number of trials of the search that had ended."""

    stage: ClassVar[Stage]
    """Stage of its runs."""

    @property
    def trained_arms(self) -> tuple[Arm, ...]:
        """All that is run on each of the seeds."""
        return self.arms

    @property
    def names(self) -> list[str]:
        """Names of the trials."""
        return [suggestion.trial for suggestion in self.suggestions()]

    def suggestions(self) -> Iterator[Suggestion]:
        """Every run, seed by seed; within a seed, runs that others continue from come first."""
        arms = sorted(self.trained_arms, key=lambda arm: arm.kind == "swa")
        numbers = enumerate((arm, seed) for seed in self.seeds for arm in arms)
        for number, (arm, seed) in numbers:
            name = fresh_run_name(arm.name, self.stage, seed)
            yield Suggestion(
                arm.kind, number, arm.params, self.stage, self.stage, seed, name, arm.average, arm.member
            )

    def to_event(self) -> Event:
        """Return the event that records it."""
        raise NotImplementedError

    def has_ended(self, state: ExperimentState) -> bool:
        """Whether all of its runs have."""
        return all(name in state.trials and state.trials[name].ended for name in self.names)

    def is_recorded(self, state: ExperimentState) -> bool:
        """Whether its event is the last one of its kind."""
        raise NotImplementedError


@dataclass(frozen=True)
class Round(Step):
    """A round of the race: runs on validation images only, after which the worse half drops out."""

    number: int = 1
    """Counts from 1 within the race."""
    rounds: tuple[RaceRound, ...] = ()
    """All of the race, planned before the first one."""

    stage = "race"

    @classmethod
    def from_event(cls, event: RacePlanned) -> Round:
        """Return the round that a `race` event planned."""
        return cls(
            tuple(map(Arm.from_event, event.arms)),
            tuple(event.seeds),
            event.searched,
            event.round,
            tuple(RaceRound(p.seeds, p.swa, p.plain) for p in event.rounds),
        )

    def to_event(self) -> RacePlanned:
        return RacePlanned(
            round=self.number,
            rounds=[PlannedRound(**asdict(planned)) for planned in self.rounds],
            arms=[arm.to_event() for arm in self.arms],
            seeds=list(self.seeds),
            searched=self.searched,
        )

    def is_recorded(self, state: ExperimentState) -> bool:
        return bool(state.races) and Round.from_event(state.races[-1]) == self


@dataclass(frozen=True)
class Look(Step):
    """Runs that precede one more look at the results on the test images."""

    number: int = 1
    """Counts from 1 over the whole experiment."""
    plan: int | None = None
    """Counts plans from 1; the looks of one plan share one error level. None in journals from before there
    were plans."""
    looks: tuple[int, ...] = ()
    """Numbers of seeds at which the plan looks."""
    levels: tuple[float, ...] = ()
    """One-sided level of each of them."""
    merges: tuple[MergeRecipe, ...] = ()
    """What is followed on each of the seeds, too."""

    stage = "confirm"

    @classmethod
    def from_event(cls, event: LookPlanned) -> Look:
        """Return the look that a `confirm` event planned."""
        return cls(
            tuple(map(Arm.from_event, event.arms)),
            tuple(event.seeds),
            event.searched,
            event.look,
            event.plan,
            tuple(event.looks or ()),
            tuple(event.levels or ()),
            tuple(map(MergeRecipe.from_event, event.merges or ())),
        )

    @property
    def trained_arms(self) -> tuple[Arm, ...]:
        """The arms, and those members of the merges that are none of them."""
        arms = {arm.name: arm for arm in self.arms}
        for member in (member for recipe in self.merges for member in recipe.members):
            arms.setdefault(member.name, Arm.from_event(member))
        return tuple(arms.values())

    def to_event(self) -> LookPlanned:
        planned = self.plan is not None
        return LookPlanned(
            look=self.number,
            arms=[arm.to_event() for arm in self.arms],
            seeds=list(self.seeds),
            searched=self.searched,
            plan=self.plan,
            looks=list(self.looks) if planned else None,
            levels=list(self.levels) if planned else None,
            merges=[recipe.to_event() for recipe in self.merges] or UNSET,
        )

    def is_recorded(self, state: ExperimentState) -> bool:
        return self.number == len(state.confirmations)

    @property
    def finalists(self) -> tuple[Arm, ...]:
        """The finalists, in the order in which they are tested."""
        return tuple(arm for arm in self.arms if FINALIST in arm.roles)

    @property
    def plain(self) -> tuple[Arm, ...]:
        return tuple(arm for arm in self.arms if arm.kind == "baseline")


def next_step(experiment: Experiment, state: ExperimentState, judge: Judge) -> Step | None:
    """Plan what is run after the search, begun already or not; None where nothing is.

    Args:
        experiment: the settings. A race or a plan of looks that has begun goes on as it was recorded.
        state: the fold of the journal.
        judge: asked of a look of a plan when all of its runs have ended.
    """
    searched = sum(t.stage == "search" and t.ended for t in state.trials.values())
    if state.confirmations and state.confirmations[-1].searched == searched:
        return _after_look(experiment, state, judge)
    rounds = current_race(state, searched)
    if rounds:
        return _after_round(experiment, state, rounds)
    return _first_round(experiment, state, searched) or _first_look(experiment, state, searched)


def current_race(state: ExperimentState, searched: int) -> list[Round]:
    """Return the recorded rounds of the race for the current results of the search."""
    rounds: list[Round] = []
    for event in state.races:
        rounds = [*rounds, Round.from_event(event)] if event.round > 1 else [Round.from_event(event)]
    return rounds if rounds and rounds[-1].searched == searched else []


def last_step(state: ExperimentState) -> Step | None:
    """Return the step that was recorded last; None before the first."""
    races, looks = state.races, state.confirmations
    if races and (not looks or races[-1].searched > looks[-1].searched):
        return Round.from_event(races[-1])
    return Look.from_event(looks[-1]) if looks else None


def _fresh_seeds(experiment: Experiment, state: ExperimentState, number: int) -> tuple[int, ...]:
    """Return the next numbers after the search's own seed and all that were planned before."""
    planned: list[RacePlanned | LookPlanned] = [*state.races, *state.confirmations]
    used = [seed for event in planned for seed in event.seeds]
    first = max(used, default=experiment.seed) + 1
    return tuple(range(first, first + number))


# ---------------------------------------------------------------------------------------- the race


def _first_round(experiment: Experiment, state: ExperimentState, searched: int) -> Round | None:
    """Plan the race's first round; None if no race is wanted, or there is nothing to choose.

    The own trunk of every candidate takes part: with a continuous rate the best plain training may be that
    of another candidate than the finalist.
    """
    race, top = experiment.confirm.race, experiment.confirm.top
    if not race:
        return None
    ranked = rank_searched(state)
    swa = choose_swa(ranked, race_configurations(experiment), CANDIDATE)
    plain = add_trunks(choose_plain(ranked, max_baselines(experiment)), swa, ranked)
    if len(swa) <= top:
        return None
    rounds = plan_race(len(swa), len(plain), race.seeds, finalists=top)
    return Round((*swa, *plain), _fresh_seeds(experiment, state, rounds[0].seeds), searched, 1, rounds)


def _after_round(experiment: Experiment, state: ExperimentState, rounds: Sequence[Round]) -> Step | None:
    """The last round if it has not ended, the next one, or the first look; None if no SWA arm is left."""
    last = rounds[-1]
    if not last.has_ended(state):
        return last
    if last.number == len(last.rounds):
        return _first_look(experiment, state, last.searched)
    planned = last.rounds[last.number]
    stay = [
        *halve_race(collect_scores(state, rounds, last.arms, "swa"), planned.swa),
        *halve_race(collect_scores(state, rounds, last.arms, "baseline"), planned.plain),
    ]
    arms = {arm.name: arm for arm in last.arms}
    if not any(arms[name].kind == "swa" for name in stay):
        return None
    more = planned.seeds - last.rounds[last.number - 1].seeds
    seeds = _fresh_seeds(experiment, state, more)
    return Round(tuple(arms[name] for name in stay), seeds, last.searched, last.number + 1, last.rounds)


# --------------------------------------------------------------------------------------- the looks


def _first_look(experiment: Experiment, state: ExperimentState, searched: int) -> Look | None:
    """Plan the first look at the current results of the search; None without a finalist."""
    arms = _arms_to_test(experiment, state, searched)
    if not any(FINALIST in arm.roles for arm in arms):
        return None
    looks = plan_looks(experiment.confirm.seeds, experiment.confirm.most_seeds)
    seeds, merges = _fresh_seeds(experiment, state, looks[0]), choose_recipes(experiment, state)
    return _first_of_plan(state, arms, seeds, searched, looks, merges)


def _first_of_plan(
    state: ExperimentState,
    arms: tuple[Arm, ...],
    seeds: tuple[int, ...],
    searched: int,
    looks: tuple[int, ...],
    merges: tuple[MergeRecipe, ...],
) -> Look:
    """Plan the first look of a new plan."""
    plan = len({event.plan or f"look {event.look}" for event in state.confirmations}) + 1
    levels = spend_alpha(looks, plan)
    return Look(arms, seeds, searched, len(state.confirmations) + 1, plan, looks, levels, merges)


def _after_look(experiment: Experiment, state: ExperimentState, judge: Judge) -> Look | None:
    """The last look if it has not ended, the next one of its plan, or the first one of a further plan."""
    event = state.confirmations[-1]
    look = Look.from_event(event)
    if not look.has_ended(state):
        return look
    if look.plan is not None:
        stop = judge(event)
        to_come = [number for number in look.looks if number > len(look.seeds)]
        if stop is None and to_come:
            more = _fresh_seeds(experiment, state, to_come[0] - len(look.seeds))
            return replace(look, number=look.number + 1, seeds=(*look.seeds, *more))
    return _further_plan(experiment, state, look)


def _further_plan(experiment: Experiment, state: ExperimentState, last: Look) -> Look | None:
    """Plan a further look if more seeds, finalists or merges are asked for than were planned; else None.

    Its seeds come in addition to the old ones, and so do its arms and merges. Where merges alone are new it
    is a look of the same plan: of the arms nothing more is seen.
    """
    wanted, most = experiment.confirm.seeds, experiment.confirm.most_seeds
    known = last.finalists
    have = {arm.name for arm in known}
    found = [
        a
        for a in _arms_to_test(experiment, state, last.searched)
        if FINALIST in a.roles and a.name not in have
    ]
    finalists = (*known, *found[: max(0, experiment.confirm.top - len(known))])
    followed = {recipe.merge for recipe in last.merges}
    trained = {arm.name for arm in last.trained_arms}  # most of whose weights have gone
    chosen = [recipe for recipe in choose_recipes(experiment, state) if recipe.merge not in followed]
    new = [recipe.rename_members(trained) for recipe in chosen]
    planned = _most_planned(state, last.searched)
    merges = (*last.merges, *new)
    if wanted <= len(last.seeds) and most <= planned and len(finalists) == len(known):
        return replace(last, number=last.number + 1, merges=merges) if new else None
    looks = tuple(n for n in plan_looks(wanted, most) if n > len(last.seeds)) or (len(last.seeds),)
    ranked = rank_searched(state)
    plain: tuple[Arm, ...] = last.plain
    if last.plan is None:  # only the best baseline of the search was tested, where others may be better
        names = {arm.name for arm in plain}
        others = choose_plain(ranked, max_baselines(experiment))
        plain = (*plain, *(arm for arm in others if arm.name not in names))
    arms = (*finalists, *add_trunks(plain, finalists, ranked))
    seeds = (*last.seeds, *_fresh_seeds(experiment, state, looks[0] - len(last.seeds)))
    return _first_of_plan(state, arms, seeds, last.searched, looks, merges)


def _most_planned(state: ExperimentState, searched: int) -> int:
    """Largest number of seeds in any plan for the current results of the search: a plan that ended early
    stays ended, also where a shorter one was asked for after it."""
    looks = [event for event in state.confirmations if event.searched == searched]
    return max(int(n) for event in looks for n in (len(event.seeds), *(event.looks or ())))


def _arms_to_test(experiment: Experiment, state: ExperimentState, searched: int) -> tuple[Arm, ...]:
    """Finalists, the baselines to beat and the finalists' own trunks: what won the race, or the search."""
    ranked = rank_searched(state)
    rounds, top = current_race(state, searched), experiment.confirm.top
    if not rounds:
        swa = choose_swa(ranked, top)
        return (*swa, *add_trunks(choose_plain(ranked, max_baselines(experiment)), swa, ranked))
    everyone = rounds[0].arms
    arms = {arm.name: arm for arm in everyone}
    won = [arms[name] for name in halve_race(collect_scores(state, rounds, everyone, "swa"), top)]
    swa = tuple(replace(arm, roles=(FINALIST,)) for arm in won)
    images = state.header.data["val"] if state.header else None
    scores = collect_scores(state, rounds, everyone, "baseline")
    # only what is clearly worse is not tested
    best = keep_plain(scores, len(everyone), images, average_variances(state, rounds))
    plain = [replace(arms[name], roles=(BASELINE,)) for name in best]
    return (*swa, *add_trunks(plain, swa, ranked))
