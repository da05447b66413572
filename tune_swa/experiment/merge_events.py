"""Events of models that are merged: of trials of the search, and of runs on fresh seeds."""

from __future__ import annotations

from collections.abc import Sequence

from tune_swa.experiment.events import Event, Fields
from tune_swa.experiment.field_types import Count, Metrics, Number, Seed, Share
from tune_swa.experiment.layout import fresh_merge_name


class TriedSoup(Fields, kw_only=True):
    """A mean of what was kept before and one model more, evaluated on the validation images."""

    trial: str
    """Of the one more."""
    accuracy: Share
    nll: Number
    ece: Number
    kept: bool


class ModelsMerged(Event, tag="merged", kw_only=True):
    """The averages of several trials of one trunk were merged; the weights are in `file` of the store."""

    merge: str
    """Its label: `greedy soup`, `uniform soup` or `swap`."""
    trunk: str
    candidates: Sequence[str]
    """Completed trials of the trunk, in the order in which they were tried; members of SWAP in theirs."""
    tried: Sequence[TriedSoup]
    """From the second candidate on: the first one alone is its trial."""
    file: str


class MergeTested(Event, tag="merge_tested", kw_only=True):
    """A recipe was followed on a fresh seed: the runs of its members were merged, and the model was tested.
    Its predictions of the test images are in `predictions/RUN.npz`."""

    merge: str
    """Its label."""
    seed: Seed
    members: Sequence[str]
    """Completed runs, in the order in which they were merged."""
    images: Count
    validation: Metrics
    """On the validation images."""
    shipped: Metrics
    """On the test images."""

    @property
    def run(self) -> str:
        """Name of the merged model."""
        return fresh_merge_name(self.merge, self.seed)


class MergeUntested(Event, tag="merge_untested", kw_only=True):
    """The predictions of a merged model are lost, so it does not count as tested any more."""

    run: str
    reason: str | None = None
