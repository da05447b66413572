"""Evaluate a model on labelled images: accuracy, negative log-likelihood, calibration error."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tune_swa.averaging.frozen_statistics import set_training

ECE_BINS = 15


class NonFiniteError(ArithmeticError):
    """A loss or an output is NaN or infinite; the run has no result."""

    trunk_epoch: int | None = None
    """The epoch that was trained last, where no average is to blame: every run that trains this epoch of
    the trunk fails the same way."""


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one model on one set of images."""

    accuracy: float
    """Share of images whose largest output is the label's, in [0, 1]."""
    nll: float
    """Mean negative log-likelihood of the labels, in nats."""
    ece: float
    """Expected calibration error, in [0, 1]."""
    nll_sd: float | None = None
    """Standard deviation of the images' negative log-likelihoods, in nats; None: not asked for, or of one
    image."""

    def as_dict(self) -> dict[str, Any]:
        """Return what is known."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class CalibratedScores:
    """Scores of softmax(logits / temperature) for N images. The predicted classes are the same."""

    temperature: float
    """Fitted on other images than these (`tune_swa.training.temperature`)."""
    confidence: Tensor
    """[N] float32, as are the others."""
    nll: Tensor
    brier: Tensor


@dataclass(frozen=True)
class Predictions:
    """Predictions of a model for N images."""

    label: Tensor
    """The image's class, [N] int64."""
    predicted: Tensor
    """Class of the largest output, [N] int64."""
    probability: Tensor
    """Probability of the label, [N] float32."""
    confidence: Tensor
    """Probability of the predicted class, [N] float32."""
    nll: Tensor
    """Negative log-likelihood of the label in nats, [N] float32."""
    brier: Tensor
    """Squared distance of the probabilities from the truth (Brier 1950), [N] float32, 0 to 2."""
    probabilities: Tensor
    """Of every class, [N, C] float32."""
    calibrated: CalibratedScores | None = None
    """The scores at a temperature; None: none was fitted."""

    @property
    def correct(self) -> Tensor:
        """[N] bool."""
        return self.predicted == self.label

    def compute_metrics(self) -> dict[str, float]:
        """Means over the images, and the calibration error; with a temperature, these at it as well."""
        count = len(self.label)
        models: dict[str, Predictions | CalibratedScores] = {"": self}
        if self.calibrated is not None:
            models["_calibrated"] = self.calibrated
        scalars = {"accuracy": self.correct.sum()}
        for suffix, scores in models.items():
            scalars[f"nll{suffix}"] = scores.nll.double().mean()
            scalars[f"ece{suffix}"] = _calibration_gap(scores.confidence, self.correct)
            scalars[f"brier{suffix}"] = scores.brier.double().mean()
        metrics = dict(zip(scalars, _read_numbers(*scalars.values()), strict=True))
        for total in ("accuracy", *(f"ece{suffix}" for suffix in models)):
            metrics[total] /= count
        if self.calibrated is not None:
            metrics["temperature"] = self.calibrated.temperature
        return metrics


def predict_images(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    autocast: AbstractContextManager[Any],
) -> Predictions:
    """Predict the class of each image; arguments and errors as of `evaluate_model`."""
    return predict_logits(*compute_logits(model, batches, autocast))


def predict_logits(logits: Tensor, labels: Tensor, temperature: float | None = None) -> Predictions:
    """Predictions of logits [N, C] for images whose labels [N] int64 are known.

    Args:
        temperature: the probabilities are scored at this one as well.

    Raises:
        NonFiniteError: an output is NaN or infinite.
    """
    log_probability = torch.log_softmax(logits, dim=1)
    log_confidence, predicted = log_probability.max(dim=1)
    of_label = log_probability.gather(1, labels[:, None])[:, 0]
    if not bool(torch.isfinite(of_label).all()):
        raise NonFiniteError("the model's outputs on the test images are not finite")
    return Predictions(
        label=labels,
        predicted=predicted,
        probability=of_label.exp().float(),
        confidence=log_confidence.exp().float(),
        nll=-of_label.float(),
        brier=_brier_scores(log_probability, labels),
        probabilities=log_probability.exp().float(),
        calibrated=None if temperature is None else _score_calibrated(logits, labels, predicted, temperature),
    )


def _score_calibrated(
    logits: Tensor, labels: Tensor, predicted: Tensor, temperature: float
) -> CalibratedScores:
    log_probability = torch.log_softmax(logits / temperature, dim=1)
    return CalibratedScores(
        temperature=temperature,
        # not of the largest: the division may round two logits to one number
        confidence=log_probability.gather(1, predicted[:, None])[:, 0].exp().float(),
        nll=-log_probability.gather(1, labels[:, None])[:, 0].float(),
        brier=_brier_scores(log_probability, labels),
    )


def _brier_scores(log_probability: Tensor, labels: Tensor) -> Tensor:
    truth = nn.functional.one_hot(labels, log_probability.shape[1])
    return (log_probability.exp() - truth).square().sum(dim=1).float()


def evaluate_model(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    autocast: AbstractContextManager[Any],
    *,
    spread: bool = False,
) -> Evaluation:
    """Evaluate `model` in eval mode and put it back into the mode it was in.

    Args:
        model: maps [B, 3, H, W] to logits [B, C].
        batches: pairs of images [B, 3, H, W] float32 and labels [B] int64, on the model's device.
        autocast: context of the forward pass. Everything after the logits is fp32.
        spread: whether the deviation between images is wanted.

    Raises:
        NonFiniteError: an output is NaN or infinite.
    """
    return evaluate_logits(*compute_logits(model, batches, autocast), spread=spread)


def compute_logits(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    autocast: AbstractContextManager[Any],
) -> tuple[Tensor, Tensor]:
    """Logits [N, C] float32 in eval mode, and labels [N]; arguments as of `evaluate_model`."""
    was_training = model.training
    model.eval()
    logits, labels = [], []
    try:
        with torch.no_grad(), autocast:
            for images, targets in batches:
                logits.append(model(images).float())
                labels.append(targets)
    finally:
        set_training(model, was_training)
    return torch.cat(logits), torch.cat(labels)


def evaluate_logits(logits: Tensor, labels: Tensor, *, spread: bool = False) -> Evaluation:
    """Metrics of logits [N, C] against labels [N] int64; with `spread` the deviation between images, too.

    Raises:
        NonFiniteError: an output is NaN or infinite.
    """
    log_probability = torch.log_softmax(logits, dim=1)
    losses = -log_probability.gather(1, labels[:, None])[:, 0].double()
    log_confidence, predicted = log_probability.max(dim=1)
    correct = predicted == labels
    scalars = [correct.sum(), losses.mean(), _calibration_gap(log_confidence.exp(), correct)]
    if spread and len(labels) > 1:
        scalars.append(losses.std())
    right, loss, gap, *deviation = _read_numbers(*scalars)
    if not math.isfinite(loss):
        raise NonFiniteError("the model's outputs on the validation images are not finite")
    return Evaluation(right / len(labels), loss, gap / len(labels), *deviation)


def expected_calibration_error(confidence: Tensor, correct: Tensor, bins: int = ECE_BINS) -> float:
    """Mean gap between confidence and accuracy over equal-width bins (Guo et al. 2017).

    Args:
        confidence: probability of the predicted class, [N] in [0, 1].
        correct: whether the prediction is right, [N] bool.
        bins: number of bins. Each is open above, but the last holds 1 too, so that every image is
            in exactly one bin.
    """
    return _read_numbers(_calibration_gap(confidence, correct, bins))[0] / len(confidence)


def _calibration_gap(confidence: Tensor, correct: Tensor, bins: int = ECE_BINS) -> Tensor:
    """`expected_calibration_error` times N, as a scalar float64 on the device."""
    confidence = confidence.double()
    index = (confidence * bins).long().clamp(0, bins - 1)
    gap = torch.zeros(bins, dtype=torch.float64, device=confidence.device)
    gap.scatter_add_(0, index, confidence - correct.double())
    return gap.abs().sum()


def _read_numbers(*scalars: Tensor) -> list[float]:
    """Scalars of one device in one copy, so that the host waits for it once.

    What is a plain division is left to the host: on a GPU torch multiplies by the reciprocal.
    """
    numbers: list[float] = torch.stack([scalar.double() for scalar in scalars]).tolist()
    return numbers
