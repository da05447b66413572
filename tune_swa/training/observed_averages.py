"""The averages that a run's settings list: they observe its live model and are scored side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from tune_swa.averaging.build_observers import build_observers
from tune_swa.averaging.observers import Member, list_parameters, list_statistics
from tune_swa.averaging.posterior import Posterior
from tune_swa.averaging.snapshots import Snapshots
from tune_swa.averaging.swa import Averaging
from tune_swa.config import RunSettings, count_snapshots
from tune_swa.training.average_choice import AverageChoice
from tune_swa.training.likelihood import TrainingLikelihood
from tune_swa.training.metrics import NonFiniteError, Predictions, evaluate_logits
from tune_swa.training.records import AverageScore, EpochRecord
from tune_swa.training.run_images import RunImages
from tune_swa.training.scoring import Batches, MemberEvaluator
from tune_swa.training.temperature import predict_calibrated

DRAWING = ("swag", "subspace")
"""Methods that draw members at the end of a run; before, and as what is shipped, they are SWA's mean."""


class ObservedAverages:
    """Averages besides SWA's own, from the fork on, or of a baseline from its first step on.

    Args:
        settings: of the run, which lists them. The first one is what it ships, but of a baseline.
        model: live model.
        images: of the run.
        refresh: recomputes the batch-normalisation statistics of a model.
        autocast: makes the context of a forward pass.
        all_draws: whether methods that draw do so as often as for the test images, or as in the search.
    """

    def __init__(
        self,
        settings: RunSettings,
        model: nn.Module,
        images: RunImages,
        refresh: Callable[[nn.Module], None],
        autocast: Callable[[], AbstractContextManager[Any]],
        *,
        all_draws: bool,
    ) -> None:
        averages = settings.averages
        self.labels = [average.label for average in averages]
        self._snapshots = Snapshots(count_snapshots(averages))
        steps = images.count_steps(settings.train.epochs - 1)  # after a fork they see no others
        observers = build_observers(
            averages, model, self._snapshots, steps=steps, seed=settings.seed, all_draws=all_draws
        )
        self._observers = {observer.label: observer for observer in observers}
        self._evaluator = MemberEvaluator(model, refresh, autocast)
        self._likelihood = TrainingLikelihood(self._evaluator.scratch, images, autocast)
        self._refreshed: dict[str, list[list[torch.Tensor]]] = {}
        leads = settings.leader is not None and settings.leader.method not in DRAWING
        self._point_leader = self.labels[0] if leads else None
        self._leading: MemberEvaluator | None = None
        if settings.leader is not None and settings.leader.method != "swa":
            self._leading = MemberEvaluator(model, refresh, autocast)
        self._choice: AverageChoice | None = None
        if settings.chosen_by is not None:
            self._choice = AverageChoice(settings, settings.chosen_by, model)

    @property
    def shipped_model(self) -> nn.Module | None:
        """The leading average with its statistics, after an epoch, or the one that was chosen; None: SWA or
        the live model is shipped."""
        if self._choice is not None and self._choice.model is not None:
            return self._choice.model
        return None if self._leading is None else self._leading.scratch

    @property
    def _shipped_label(self) -> str | None:
        return self._point_leader if self._choice is None else self._choice.label

    def report_choice(self, record: EpochRecord) -> EpochRecord:
        """Return what an epoch of the branch reports: its record, or that of the average that was chosen."""
        return record if self._choice is None else self._choice.report_epoch(record)

    @torch.no_grad()
    def after_step(self, model: nn.Module) -> None:
        """Observe the live model after an optimizer step."""
        for observer in self._observers.values():
            observer.after_step(model)

    @torch.no_grad()
    def after_epoch(self, model: nn.Module, epoch: int, validation_loss: float) -> None:
        """Observe the live model at the end of an epoch, and its loss on the validation images."""
        self._snapshots.add_model(model, epoch)
        for observer in self._observers.values():
            observer.after_epoch(model)
            observer.after_validation(validation_loss)

    @torch.no_grad()
    def prepare_leader(self) -> None:
        """Load the leading average into `shipped_model` and refresh its statistics; it is shipped until
        another one is chosen."""
        if self._choice is not None:
            self._choice.begin_epoch()
        if self._leading is not None:
            leader = self._observers[self.labels[0]]
            self._leading.load_refreshed(next(leader.members(final=False)))

    @torch.no_grad()
    def compute_outputs(
        self, label: str, swa: Averaging | None, batches: Callable[[], Batches], *, final: bool
    ) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Outputs [N, C] of an average, labels [N], and how many members it has; see `MemberEvaluator`."""
        members = self._list_members(label, swa, final=final)
        if final:
            members = self._refresh_once(label, members)
        return self._evaluator.compute_outputs(members, batches)

    def score_averages(
        self, swa: Averaging | None, batches: Callable[[], Batches], leader: AverageScore, *, final: bool
    ) -> dict[str, AverageScore]:
        """Score every average, by its label, in the order of the settings, and choose one if one is chosen.

        Args:
            swa: SWA's own average; None: a baseline.
            batches: begins a pass over the validation images.
            leader: score of what the run ships, which is known; it counts where an average leads, unless that
                one draws its members.
            final: at the end of the run.

        Raises:
            NonFiniteError: an output is NaN or infinite.
        """
        scores = {}
        for label in self.labels:
            leads = label == self._point_leader
            scores[label] = leader if leads else self._score_average(label, swa, batches, final=final)
            if self._choice is not None:
                self._choice.offer_average(label, scores[label], self._evaluator.scratch)
        return scores

    def _score_average(
        self, label: str, swa: Averaging | None, batches: Callable[[], Batches], *, final: bool
    ) -> AverageScore:
        begun = time.perf_counter()
        if final:
            self._finish_observer(label)
        outputs, labels, members = self.compute_outputs(label, swa, batches, final=final)
        found = evaluate_logits(outputs, labels)  # reads the device, so the clock is right
        return AverageScore(members, found.accuracy, found.nll, found.ece, time.perf_counter() - begun)

    def _finish_observer(self, label: str) -> None:
        if label not in self._observers:
            return
        try:
            self._observers[label].finish(self._likelihood)
        except FloatingPointError as error:
            raise NonFiniteError(f"{label}: {error}") from None

    def predict_images(
        self, swa: Averaging | None, batches: Callable[[], Batches], shipped: Predictions, *, validation: int
    ) -> dict[str, Predictions]:
        """Predict labelled images with every average of a finished run, by its label.

        Args:
            swa: SWA's own average; None: a baseline.
            batches: begins a pass over the images.
            shipped: of the model to ship, which an average that leads, or was chosen, is.
            validation: the first so many of them are for the temperature, and are not predicted.

        Raises:
            NonFiniteError: an output is NaN or infinite.
        """
        return {
            label: shipped
            if label == self._shipped_label
            else predict_calibrated(*self.compute_outputs(label, swa, batches, final=True)[:2], validation)
            for label in self.labels
        }

    @torch.no_grad()
    def load_members(self, label: str, swa: Averaging | None) -> Iterator[nn.Module]:
        """Load the members of a finished run's average into one model, one after the other, with statistics
        that fit their weights."""
        for member in self._list_members(label, swa, final=True):
            yield self._evaluator.load_refreshed(member)

    def describe_posterior(self, label: str) -> Posterior | None:
        """What the members of a finished run's average are drawn from; None: it draws none."""
        return self._observers[label].describe_posterior() if label in self._observers else None

    def state_dict(self) -> dict[str, Any]:
        """State of the observers, what they look back at, and the shipped model, if that is one of theirs."""
        shipped = self.shipped_model
        return {
            "observers": {label: observer.state_dict() for label, observer in self._observers.items()},
            "snapshots": self._snapshots.state_dict(),
            "shipped": None if shipped is None else shipped.state_dict(),
            **({} if self._choice is None else {"chosen": self._choice.label}),
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._snapshots.load_state_dict(state["snapshots"])
        for label, observer in self._observers.items():
            observer.load_state_dict(state["observers"][label])
        if self._choice is not None:
            self._choice.label = state["chosen"]
        if self.shipped_model is not None:
            self.shipped_model.load_state_dict(state["shipped"])

    def _refresh_once(self, label: str, members: Iterator[Member]) -> Iterator[Member]:
        """Keep the statistics of a finished run's members: the test images follow the validation images."""
        kept = self._refreshed.setdefault(label, [])
        for number, member in enumerate(members):
            if member.statistics is not None or number < len(kept):
                yield member if member.statistics is not None else Member(member.parameters, kept[number])
            else:
                yield member
                # until the next one is asked for, this one is in the scratch model
                kept.append([statistic.clone() for statistic in list_statistics(self._evaluator.scratch)])

    def _list_members(self, label: str, swa: Averaging | None, *, final: bool) -> Iterator[Member]:
        if label not in self._observers:
            assert swa is not None
            return iter([Member(list_parameters(swa.average.module))])
        return self._observers[label].members(final=final)
