"""One run, epoch by epoch: train, average, refresh batch normalisation, evaluate, report."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn

from tune_swa.averaging.frozen_statistics import list_refreshed, set_training
from tune_swa.averaging.swa import Averaging, refresh_bn
from tune_swa.config import RunSettings
from tune_swa.data.dataset import Dataset
from tune_swa.data.gather import resolve_device
from tune_swa.seeds import derive_seed
from tune_swa.training.arithmetic import Arithmetic
from tune_swa.training.device_clock import read_clock, seed_layers
from tune_swa.training.frozen_layers import freeze_layers
from tune_swa.training.metrics import Evaluation, NonFiniteError, Predictions, compute_logits, evaluate_model
from tune_swa.training.model import StateDict, build_model
from tune_swa.training.numerics import Numerics, decide_numerics
from tune_swa.training.observed_averages import ObservedAverages
from tune_swa.training.optimizers import (
    build_optimizer,
    keep_rates,
    move_to_average,
    move_to_gradient_point,
    read_base_rate,
    set_rates,
)
from tune_swa.training.records import AverageScore, EpochRecord, score_leader
from tune_swa.training.run_images import RunImages
from tune_swa.training.temperature import predict_calibrated

LOOP_VERSION = 1
"""Part of a trunk's name. Goes up whenever the same settings would give other bits."""


class Run:
    """One training run of one configuration. Iterate over it for its `EpochRecord`s.

    With the same batches and base schedule, weights, batch-normalisation statistics and accuracies
    are on the CPU bit for bit those of the loop in torch's documentation of
    `torch.optim.swa_utils`, evaluated after every epoch.

    Args:
        settings: learning rates, start of averaging, seed and the rest.
        data: images and their division. Only `predict_test_images` reads the test images.
        numerics: device and number formats; default: decided for this machine.
        weights: starting weights from `resolve_weights`; default: random by the seed.
        stream_images: keep no images on a GPU, and let go of those that earlier runs of this process left
            there; changes no result.
        score_epochs: after these epochs and the last one, all averages are scored.
        all_draws: whether averages that draw do so as often as for the test images, or as in the search.
        record_spread: whether records have the deviation of the nll between images.
    """

    def __init__(
        self,
        settings: RunSettings,
        data: Dataset,
        numerics: Numerics | None = None,
        weights: StateDict | None = None,
        *,
        stream_images: bool = False,
        score_epochs: Collection[int] = (),
        all_draws: bool = False,
        record_spread: bool = False,
    ) -> None:
        self.settings = settings
        self.numerics = numerics or decide_numerics(settings.train, data.images.shape[1])
        self.numerics.set_backends()
        self.device = resolve_device(self.numerics.device)
        about = {"arch": settings.model.arch, "image_size": data.images.shape[1]}
        model = build_model(data.num_classes, settings.seed, weights, **about)
        freeze_layers(model, settings.train)
        self.model = model.to(self.device, memory_format=self.numerics.memory_format)  # type: ignore[call-overload]
        self.refreshes = bool(list_refreshed(self.model))
        """Whether there are statistics to refresh; else nothing is, and that takes 0 seconds."""
        self.optimizer = build_optimizer(self.model, settings.lr, settings.train, self.numerics)
        self.arithmetic = Arithmetic(settings.train.arithmetic, settings.seed, self.optimizer, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.numerics.precision == "fp16")
        self.averaging: Averaging | None = None
        self.averages: ObservedAverages | None = None
        """The averages that the settings list: of a baseline from its first step, else from the fork."""
        self.scores: dict[str, AverageScore] = {}
        """Their scores after the last finished epoch; empty where none were due."""
        self.epoch = 0
        """The next epoch to train."""
        self.record: EpochRecord | None = None
        """Report of the last finished epoch."""
        self.live_record: EpochRecord | None = None
        """Epoch `self.epoch` of the live model alone, between `begin_epoch` and `finish_epoch`."""
        self._forward = self.numerics.compile_forward(self.model)
        self._loss = nn.CrossEntropyLoss(label_smoothing=settings.train.label_smoothing)
        self.images = RunImages(
            settings, data, self.device, channels_last=self.numerics.channels_last, stream=stream_images
        )
        self._score_epochs, self._all_draws = frozenset(score_epochs), all_draws
        self._record_spread = record_spread
        if settings.leader is None:
            self._begin_observing()

    @property
    def done(self) -> bool:
        return self.epoch >= self.settings.train.epochs

    @property
    def shipped_model(self) -> nn.Module:
        """The model one would ship now: the average once there is one, else the live model."""
        observed = self.averages.shipped_model if self.averages else None
        if observed is not None:
            return observed
        return self.averaging.average.module if self.averaging else self.model

    def __iter__(self) -> Iterator[EpochRecord]:
        while not self.done:
            yield self.run_epoch()

    def run_epoch(self) -> EpochRecord:
        """Train, average and evaluate the next epoch.

        Raises:
            NonFiniteError: a loss or an output is NaN or infinite.
        """
        self.begin_epoch()
        return self.finish_epoch()

    def begin_epoch(self) -> None:
        """Train epoch `self.epoch` and evaluate the live model. An epoch that a trunk's state brought
        along is trained already.

        Raises:
            NonFiniteError: a loss or an output is NaN or infinite.
        """
        if self.live_record is not None:
            return
        start = read_clock(self.device)
        try:
            loss = self.train_epoch()
            trained_at = read_clock(self.device)
            if self.settings.train.is_schedule_free:  # its average has statistics of its own
                self._refresh_observed(self.model)
            refreshed_at = read_clock(self.device) if self.refreshes else trained_at
            with self.arithmetic.round_outputs(self.model, (self.epoch, "validation")):
                live = self._evaluate_on_validation(self.model)
        except NonFiniteError as error:
            error.trunk_epoch = self.epoch if self.averaging is None else None
            raise
        evaluated_at = read_clock(self.device)
        self.live_record = EpochRecord(
            epoch=self.epoch,
            phase="trunk",
            learning_rate=read_base_rate(self.optimizer),
            train_loss=loss,
            live_accuracy=live.accuracy,
            **live.as_dict(),
            n_averaged=0,
            train_seconds=trained_at - start,
            bn_seconds=refreshed_at - trained_at,
            eval_seconds=evaluated_at - refreshed_at,
            images_per_second=len(self.images.train) / (trained_at - start),
        )

    def finish_epoch(self) -> EpochRecord:
        """Average, refresh and evaluate after `begin_epoch`; returns what the epoch reports.

        Raises:
            NonFiniteError: an output of the average is NaN or infinite.
        """
        assert self.live_record is not None
        start = read_clock(self.device)
        self.average_epoch()
        refreshed_at = read_clock(self.device) if self.refreshes else start
        self.record = self.live_record
        if self.averaging is not None:
            shipped = self._evaluate_on_validation(self.shipped_model)
            self.record = replace(
                self.live_record,
                phase="branch",
                **shipped.as_dict(),
                n_averaged=self.averaging.n_averaged,
                bn_seconds=self.live_record.bn_seconds + refreshed_at - start,
                eval_seconds=self.live_record.eval_seconds + read_clock(self.device) - refreshed_at,
            )
        self._score_averages(self.record)
        self.live_record = None
        self.epoch += 1
        return self.record

    def train_epoch(self) -> float:
        """Train epoch `self.epoch` and return the mean loss over its images.

        Raises:
            NonFiniteError: the loss is NaN or infinite.
        """
        epoch = self.epoch
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        images_seen, steps = 0, self.images.count_steps(epoch)
        set_training(self.model)
        self.arithmetic.seed_noise(epoch, "train")
        with seed_layers(derive_seed(self.settings.choose_seed(epoch), epoch, "layers"), self.device):
            for step, (images, labels) in enumerate(self.draw_batches("train")):
                set_rates(self.optimizer, self.settings, epoch, step, steps)
                total += self.train_batch(images, labels).double() * len(labels)
                images_seen += len(labels)
                if self.averages is not None:
                    self.averages.after_step(self.model)
        move_to_average(self.optimizer)
        mean = total.item() / images_seen
        if not torch.isfinite(torch.tensor(mean)):
            raise NonFiniteError(f"the training loss is {mean} in epoch {epoch}")
        return mean

    def train_batch(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Take one optimizer step, at the rate that is set. Returns the mean loss without its graph, a scalar
        on the device: nothing here waits for that.

        Args:
            images: [B, 3, H, W] float32 on the run's device, in the memory format of its numerics.
            labels: [B] int64 on the same.
        """
        move_to_gradient_point(self.optimizer)
        self.optimizer.zero_grad(set_to_none=True)
        with self.arithmetic.round_outputs(self.model), self.numerics.autocast():
            loss: torch.Tensor = self._loss(self._forward(images), labels)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach()

    def average_epoch(self) -> None:
        """Take the model into the averages and refresh the leading one's statistics, after an epoch
        > swa_start; of a baseline, into those that observe it. Within a cycle the averages of epoch ends,
        SWA's too, stay as they are."""
        start, collects = self.settings.swa_start, self.settings.is_collecting(self.epoch)
        if start is not None and self.epoch <= start:
            return
        if start is not None:
            if self.averaging is None:
                self.averaging = self._build_averaging()
                self._begin_observing()
            if collects:
                self.averaging.update_average(self.model)
        if self.averages is not None:
            if collects:
                assert self.live_record is not None
                self.averages.after_epoch(self.model, self.epoch, self.live_record.nll)
            self.averages.prepare_leader()
        if collects and self.averaging and self.shipped_model is self.averaging.average.module:
            self.refresh_model(self.averaging.average, self.epoch)

    def _build_averaging(self) -> Averaging:
        return Averaging(self.model, self.optimizer, self.settings.swa_lr, self.settings.averaging)

    def _begin_observing(self) -> None:
        if self.settings.averages:
            self.averages = ObservedAverages(
                self.settings,
                self.model,
                self.images,
                self._refresh_observed,
                self.numerics.autocast,
                all_draws=self._all_draws,
            )

    def _refresh_observed(self, model: nn.Module) -> None:
        """Refresh over the batches of the last trained epoch, as SWA's own statistics."""
        self.refresh_model(model, min(self.epoch, self.settings.train.epochs - 1))

    def refresh_model(self, model: nn.Module, epoch: int) -> None:
        """Recompute a model's batch-normalisation statistics over training images, as after an epoch."""
        seed = derive_seed(self.settings.seed, epoch, "layers", "bn")
        with seed_layers(seed, self.device), self.numerics.autocast():
            refresh_bn(model, (images for images, _ in self.images.draw_batches("bn", epoch)))

    def _score_averages(self, record: EpochRecord) -> None:
        """Score all averages, if that is due after this epoch, and report the best where one is chosen."""
        self.scores = {}
        if self.averages is None or self.live_record is None:
            return
        last = self.epoch == self.settings.train.epochs - 1
        if last or self.epoch in self._score_epochs or self.settings.averaging.score == "every":
            leader, read = score_leader(record, self.live_record), self.images.read_validation
            self.scores = self.averages.score_averages(self.averaging, read, leader, final=last)
        self.record = self.averages.report_choice(record)

    def predict_test_images(self, *, refresh: bool = False) -> Predictions:
        """Predict the test images with the finished run's model; the temperature is fitted to the same model
        on the validation images.

        Args:
            refresh: recompute a baseline's batch-normalisation statistics first, as an average's are,
                in a copy: part of what averaging brings may come from that alone.

        Raises:
            NonFiniteError: an output is NaN or infinite.
        """
        model = copy.deepcopy(self.model) if refresh else self.shipped_model
        live = model if refresh else self.model  # an average is another model, and fp32
        with self.arithmetic.round_outputs(live, (self.epoch, "test")):
            if refresh:
                self.refresh_model(model, self.epoch)
            outputs, labels = compute_logits(model, self.images.read_held_out(), self.numerics.autocast())
        return predict_calibrated(outputs, labels, len(self.images.val))

    def predict_with_averages(self, shipped: Predictions | None = None) -> dict[str, Predictions]:
        """Predict the test images with each of the finished run's averages, by label, each at a temperature
        of its own as well; `shipped` are the predictions of the model to ship, if they are known.

        Raises:
            NonFiniteError: an output is NaN or infinite.
        """
        if self.averages is None:
            return {}
        shipped = shipped or self.predict_test_images()
        return self.averages.predict_images(
            self.averaging, self.images.read_held_out, shipped, validation=len(self.images.val)
        )

    def state_dict(self) -> dict[str, Any]:
        """State after the last finished epoch: tensors, numbers, strings, dicts and lists.

        A finished run leaves out what only further training would need.
        """
        state: dict[str, Any] = {
            "epoch": self.epoch,
            "record": self.record.as_dict() if self.record else None,
            "model": self.model.state_dict(),
            "averaging": self.averaging.state_dict() if self.averaging else None,
        }
        if self.averages is not None:
            state["averages"] = self.averages.state_dict()
            state["scores"] = {label: score.as_dict() for label, score in self.scores.items()}
        if not self.done:
            state.update(self._training_state())
        return state

    def trunk_state(self) -> dict[str, Any]:
        """State between `begin_epoch` and `finish_epoch` of an epoch before any average.

        It depends on no SWA setting, so every run with the same trunk can go on from it.
        """
        assert self.live_record is not None
        assert self.averaging is None
        return {
            "epoch": self.epoch + 1,
            "record": self.live_record.as_dict(),
            "model": self.model.state_dict(),
            "averaging": None,
            **self._training_state(),
        }

    def _training_state(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state of the same settings, or of a trunk in common.

        The next epoch is the one after it; where a trunk's last epoch is the first to be averaged, it
        is that epoch, trained already.

        Raises:
            ValueError: it is a trunk's, and of an epoch that should have been averaged.
        """
        self.epoch = state["epoch"]
        self.record = EpochRecord(**state["record"]) if state["record"] else None
        self.live_record = None
        fork = self.settings.fork_epoch
        if fork is not None and state["averaging"] is None and self.epoch > fork:
            if self.epoch != fork + 1 or self.record is None:
                raise ValueError(f"state after epoch {self.epoch - 1} of a trunk that was left at {fork}")
            self.epoch = fork
            self.live_record, self.record = replace(self.record, bn_seconds=0.0, eval_seconds=0.0), None
        self.model.load_state_dict(state["model"])
        if "optimizer" in state:
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
        if state["averaging"] is not None:
            with keep_rates(self.optimizer):  # building SWALR may move them
                self.averaging = self._build_averaging()
                self.averaging.load_state_dict(state["averaging"])
            self._begin_observing()
        if self.averages is not None:
            self.averages.load_state_dict(state["averages"])
            self.scores = {label: AverageScore(**score) for label, score in state["scores"].items()}

    def draw_batches(self, purpose: Literal["train", "bn"]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Batches of the present epoch; the BN refresh draws its own order and augmentation."""
        return self.images.draw_batches(purpose, self.epoch)

    def _evaluate_on_validation(self, model: nn.Module) -> Evaluation:
        batches, autocast = self.images.read_validation(), self.numerics.autocast()
        return evaluate_model(model, batches, autocast, spread=self._record_spread)
