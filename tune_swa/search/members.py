"""Plan the members of SWAP: further runs of the search's best SWA configurations, which are merged with them.

A member differs from the trial of the search, which is the first member, in the order and augmentation of the
images after the fork alone. Early stopping decides about the first one, and so about all: only configurations
whose trial has completed get members, and these run to their ends. The sampler and the ranking of the search
see the first member alone. All of this depends on nothing but the journal, so a kill changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tune_swa.config import Experiment
from tune_swa.experiment.events import MembersPlanned
from tune_swa.experiment.layout import member_name
from tune_swa.experiment.state import ExperimentState
from tune_swa.experiment.trial_state import TrialState
from tune_swa.search.arms import Arm, choose_swa, rank_searched
from tune_swa.search.confirmation import Judge, Step, last_step, next_step
from tune_swa.search.planner import Suggestion

MEMBER = "member"
"""Role of an arm whose configuration gets members."""


@dataclass(frozen=True)
class MemberRuns(Step):
    """The members besides the first one of several configurations, on the seed of the search."""

    members: int = 2
    """Of each configuration, with the first one."""

    stage = "swap"

    @classmethod
    def from_event(cls, event: MembersPlanned) -> MemberRuns:
        """Return the step that a `swap` event planned."""
        return cls(tuple(map(Arm.from_event, event.arms)), (), event.searched, event.members)

    def suggestions(self) -> Iterator[Suggestion]:
        """Every run, the best configuration first: each is merged as soon as its members have ended."""
        for number, arm in enumerate(self.arms):
            for member in range(2, self.members + 1):
                index = number * (self.members - 1) + member - 2
                name = member_name(arm.name, member)
                yield Suggestion(
                    "swa", index, arm.params, self.stage, self.stage, None, name, arm.average, member
                )

    def to_event(self) -> MembersPlanned:
        return MembersPlanned(
            arms=[arm.to_event() for arm in self.arms], members=self.members, searched=self.searched
        )

    def is_recorded(self, state: ExperimentState) -> bool:
        return bool(state.member_plans) and MemberRuns.from_event(state.member_plans[-1]) == self


def plan_step(experiment: Experiment, state: ExperimentState, judge: Judge, *, confirm: bool) -> Step | None:
    """Plan what is run after the search, begun already or not: members first, then fresh seeds.

    Args:
        experiment: the settings.
        state: the fold of the journal. The search has ended.
        judge: see `next_step`.
        confirm: whether fresh seeds follow.
    """
    members = plan_members(experiment, state)
    if members is not None and not members.has_ended(state):
        return members
    return next_step(experiment, state, judge) if confirm else None


def plan_members(experiment: Experiment, state: ExperimentState) -> MemberRuns | None:
    """Plan the members of the search's best SWA configurations; None: there are none, or none are wanted."""
    swap = experiment.swap
    if swap is None:
        return None
    searched = sum(t.stage == "search" and t.ended for t in state.trials.values())
    arms = choose_swa(rank_searched(state), swap.top, MEMBER)
    return MemberRuns(arms, (), searched, swap.members) if arms else None


def find_last_step(state: ExperimentState) -> Step | None:
    """Return the step that was recorded last, members or runs on fresh seeds; None before the first."""
    fresh = last_step(state)
    if state.member_plans and (fresh is None or state.member_plans[-1].searched > fresh.searched):
        return MemberRuns.from_event(state.member_plans[-1])
    return fresh


def list_members(state: ExperimentState, first: str, members: int) -> list[TrialState] | None:
    """Return the completed members of a configuration in their order; None while one has not ended.

    Args:
        state: the fold of the journal.
        first: name of the trial of the search.
        members: how many there are to be, with that one.
    """
    names = [first, *(member_name(first, member) for member in range(2, members + 1))]
    trials = [state.trials[name] for name in names if name in state.trials]
    if len(trials) < members or not all(trial.ended for trial in trials):
        return None
    return [trial for trial in trials if trial.status == "completed" and trial.checkpoints]
