"""What merges the models of several finished trials, as the space file has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field, PositiveInt

from tune_swa.config.settings_model import Settings


class SoupSpec(Settings):
    """The mean of the averages of several SWA trials of one trunk (Wortsman et al. 2022). There is one for
    each trunk of which two SWA trials or more have completed."""

    method: Literal["soup"]
    """Names the method."""
    rule: Literal["greedy", "uniform"] = "greedy"
    """`greedy` goes through the trials, the best first, and keeps each with which the mean is strictly better
    on the validation images; `uniform` keeps all. Greedy by default, as one poor trial spoils the other."""

    @property
    def label(self) -> str:
        """Name of the merge in tables."""
        return f"{self.rule} {self.method}"


class SwapSpec(Settings):
    """Stochastic weight averaging in parallel (Gupta et al. 2020, arXiv 2001.02312): the mean of members
    that go on from one trunk, each with an order and augmentation of the images of its own."""

    method: Literal["swap"]
    """Names the method."""
    members: Annotated[int, Field(ge=2, le=1000)] = 4
    """Members of each configuration. The first one is the search's own trial. Four by default: they take
    three quarters of what the mean of any number could take from the variance between members."""
    batch_size: Annotated[int, Field(ge=2)] | None = None
    """Images per optimizer step of SWA trials after the fork, at most `train.batch_size`, which is that of
    the trunk: the paper's trunk has larger batches than its members. Default: `train.batch_size`."""
    top: PositiveInt = 2
    """How many of the search's best SWA configurations get further members. Few by default, since each takes
    `members` - 1 branches; as many as are tested on fresh seeds."""
    rule: ClassVar[Literal["uniform"]] = "uniform"

    @property
    def label(self) -> str:
        """Name of the merge in tables."""
        return self.method


MergeSpec: TypeAlias = Annotated[SoupSpec | SwapSpec, Field(discriminator="method")]
"""Settings of a merge."""


def check_merges(merges: Sequence[MergeSpec]) -> tuple[MergeSpec, ...]:
    """Refuse merges that tables could not tell apart.

    Raises:
        ValueError: two are the same.
    """
    labels = [merge.label for merge in merges]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)} is listed twice; leave one out")
    return tuple(merges)
