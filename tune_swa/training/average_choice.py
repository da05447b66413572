"""Choose the average that a run reports and ships: the best one on the validation images."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import nn

from tune_swa.config import Metric, RunSettings, list_choosable
from tune_swa.experiment.objective import Objective
from tune_swa.training.records import AverageScore, EpochRecord


class AverageChoice:
    """Keeps the best average of an epoch in a model that is ready to ship.

    Averages are compared as trials are: by the metric, then by the other one; of equals the first listed
    one is chosen.

    Args:
        settings: of the run.
        metric: of the objective.
        model: live model, which is copied once and not touched.
    """

    def __init__(self, settings: RunSettings, metric: Metric, model: nn.Module) -> None:
        self._objective = Objective(metric)
        self._choosable = frozenset(list_choosable(settings.averages))
        self._first = settings.averages[0].label
        self._best: AverageScore | None = None
        self.label = self._first
        """Of the average that was chosen; the first one, until all have scores."""
        self._scratch = copy.deepcopy(model)

    @property
    def model(self) -> nn.Module | None:
        """The chosen average with its statistics; None: the first one, which is kept elsewhere."""
        return None if self.label == self._first else self._scratch

    def begin_epoch(self) -> None:
        """Forget the choice of the epoch before."""
        self.label, self._best = self._first, None

    @torch.no_grad()
    def offer_average(self, label: str, score: AverageScore, model: nn.Module) -> None:
        """Choose an average if none before it is as good.

        Args:
            label: of the average; some cannot be chosen.
            score: on the validation images.
            model: in which it was evaluated; of the first one, any.
        """
        if label not in self._choosable:
            return
        if self._best is not None and self._rank_score(score) >= self._rank_score(self._best):
            return
        self.label, self._best = label, score
        if self.model is not None:
            self.model.load_state_dict(model.state_dict())

    def report_epoch(self, record: EpochRecord) -> EpochRecord:
        """Return the record of an epoch with the chosen average's scores, if there are any, and its label."""
        if self._best is None:
            return replace(record, average=self.label)
        best = self._best
        return replace(
            record, average=self.label, accuracy=best.accuracy, nll=best.nll, ece=best.ece, nll_sd=None
        )

    def _rank_score(self, score: AverageScore) -> tuple[float, float]:
        return self._objective.rank_record(score.as_dict())
