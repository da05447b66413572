"""What merges the models of several finished trials, as the space file has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

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


def check_merges(merges: Sequence[SoupSpec]) -> tuple[SoupSpec, ...]:
    """Refuse merges that tables could not tell apart.

    Raises:
        ValueError: two are the same.
    """
    labels = [merge.label for merge in merges]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)} is listed twice; leave one out")
    return tuple(merges)
