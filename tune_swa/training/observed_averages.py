"""The averages that a run's settings list: they observe its live model and are scored side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from tune_swa.averaging.build_observers import build_observers
from tune_swa.averaging.observers import Member, list_parameters
from tune_swa.averaging.swa import Averaging
from tune_swa.config import AverageSpec
from tune_swa.training.metrics import Predictions, evaluate_logits
from tune_swa.training.records import AverageScore
from tune_swa.training.scoring import Batches, MemberEvaluator
from tune_swa.training.temperature import predict_calibrated


class ObservedAverages:
    """Averages besides SWA's own, from the fork on, or of a baseline from its first step on.

    Args:
        averages: settings, in their order.
        leads: whether the first of them is what the run ships.
        model: live model.
        steps: optimizer steps of an epoch.
        refresh: recomputes the batch-normalisation statistics of a model.
        autocast: makes the context of a forward pass.
    """

    def __init__(
        self,
        averages: Sequence[AverageSpec],
        model: nn.Module,
        steps: int,
        refresh: Callable[[nn.Module], None],
        autocast: Callable[[], AbstractContextManager[Any]],
        *,
        leads: bool,
    ) -> None:
        self.labels = [average.label for average in averages]
        self._observers = {observer.label: observer for observer in build_observers(averages, steps)}
        self._evaluator = MemberEvaluator(model, refresh, autocast)
        self._leading: MemberEvaluator | None = None
        if leads and averages[0].method != "swa":
            self._leading = MemberEvaluator(model, refresh, autocast)

    @property
    def shipped_model(self) -> nn.Module | None:
        """The leading average with its statistics, after an epoch; None: SWA or the live model leads."""
        return None if self._leading is None else self._leading.scratch

    @torch.no_grad()
    def after_step(self, model: nn.Module) -> None:
        """Observe the live model after an optimizer step."""
        for observer in self._observers.values():
            observer.after_step(model)

    @torch.no_grad()
    def after_epoch(self, model: nn.Module) -> None:
        """Observe the live model at the end of an epoch."""
        for observer in self._observers.values():
            observer.after_epoch(model)

    @torch.no_grad()
    def prepare_leader(self) -> None:
        """Load the leading average into `shipped_model` and refresh its statistics."""
        if self._leading is not None:
            leader = self._observers[self.labels[0]]
            self._leading.load_refreshed(next(leader.members(final=False)))

    @torch.no_grad()
    def compute_outputs(
        self, label: str, swa: Averaging | None, batches: Callable[[], Batches], *, final: bool
    ) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Outputs [N, C] of an average, labels [N], and how many members it has; see `MemberEvaluator`."""
        members = self._list_members(label, swa, final=final)
        return self._evaluator.compute_outputs(members, batches)

    def score_averages(
        self, swa: Averaging | None, batches: Callable[[], Batches], *, final: bool
    ) -> dict[str, AverageScore]:
        """Score every average, by its label, in the order of the settings.

        Args:
            swa: SWA's own average; None: a baseline.
            batches: begins a pass over the validation images.
            final: at the end of the run.

        Raises:
            NonFiniteError: an output is NaN or infinite.
        """
        scores = {}
        for label in self.labels:
            begun = time.perf_counter()
            outputs, labels, members = self.compute_outputs(label, swa, batches, final=final)
            found = evaluate_logits(outputs, labels)  # reads the device, so the clock is right
            seconds = time.perf_counter() - begun
            scores[label] = AverageScore(members, found.accuracy, found.nll, found.ece, seconds)
        return scores

    def predict_images(
        self, swa: Averaging | None, batches: Callable[[], Batches], *, validation: int
    ) -> dict[str, Predictions]:
        """Predict labelled images with every average of a finished run, by its label.

        Args:
            swa: SWA's own average; None: a baseline.
            batches: begins a pass over the images.
            validation: the first so many of them are for the temperature, and are not predicted.

        Raises:
            NonFiniteError: an output is NaN or infinite.
        """
        return {
            label: predict_calibrated(*self.compute_outputs(label, swa, batches, final=True)[:2], validation)
            for label in self.labels
        }

    def state_dict(self) -> dict[str, Any]:
        """State of the observers and of the shipped model, if that is one of theirs."""
        return {
            "observers": {label: observer.state_dict() for label, observer in self._observers.items()},
            "shipped": None if self._leading is None else self._leading.scratch.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for label, observer in self._observers.items():
            observer.load_state_dict(state["observers"][label])
        if self._leading is not None:
            self._leading.scratch.load_state_dict(state["shipped"])

    def _list_members(self, label: str, swa: Averaging | None, *, final: bool) -> Iterator[Member]:
        if label not in self._observers:
            assert swa is not None
            return iter([Member(list_parameters(swa.average.module))])
        return self._observers[label].members(final=final)
