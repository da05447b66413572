"""The recipe of a merged model, which can be followed on any seed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from msgspec.structs import replace

from tune_swa.experiment.events import PlannedArm, PlannedMerge
from tune_swa.experiment.layout import fresh_merge_name, fresh_run_name

MEMBER = "member"
"""Role of an arm that is trained to be merged. It may have others beside it."""


@dataclass(frozen=True)
class MergeRecipe:
    """How a merged model is made: members of one trunk are trained, and their averages are averaged at equal
    parts, with batch-normalisation statistics of their own.

    Whatever rule chose the members in the search, on another seed they are these: nothing is chosen there.
    """

    merge: str
    """Its label, as in `merge` of the space file: `greedy soup`, for one."""
    members: tuple[PlannedArm, ...]
    """Settings of each one, in the order in which they are merged. They are equal up to the fork."""

    @classmethod
    def from_event(cls, planned: PlannedMerge) -> MergeRecipe:
        """Return a recipe of a `confirm` event."""
        return cls(planned.merge, tuple(planned.members))

    def to_event(self) -> PlannedMerge:
        """The recipe as events record it."""
        return PlannedMerge(merge=self.merge, members=list(self.members))

    def rename_members(self, taken: Collection[str]) -> MergeRecipe:
        """Return the recipe with other names in place of those that are taken: these are run again."""
        members = [
            replace(member, name=f"{member.name}-member") if member.name in taken else member
            for member in self.members
        ]
        return MergeRecipe(self.merge, tuple(members))

    def name_run(self, seed: int) -> str:
        """Name of the merged model of a fresh seed."""
        return fresh_merge_name(self.merge, seed)

    def name_members(self, seed: int) -> list[str]:
        """Names of the runs on a fresh seed that are merged."""
        return [fresh_run_name(member.name, "confirm", seed) for member in self.members]
