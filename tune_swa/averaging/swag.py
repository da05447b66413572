"""SWAG: a Gaussian around SWA's mean, fitted to the models at the ends of epochs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tune_swa.averaging.mean_trajectory import MeanTrajectory, copy_to_cpu
from tune_swa.averaging.observers import Member, Observer, list_parameters
from tune_swa.averaging.posterior import Posterior
from tune_swa.averaging.snapshots import Snapshots
from tune_swa.seeds import derive_seed

LEAST_VARIANCE = 1e-30
"""Variances are at least this, as in the authors' code: it only keeps roots from the rounding of a zero."""


@dataclass(frozen=True)
class Moments:
    """Moments of weights, tensor by tensor in the order of `model.parameters()`, on the CPU."""

    mean: list[Tensor]
    variance: list[Tensor]
    deviations: list[list[Tensor]]
    """Of the last models, the oldest first: each less the mean of all models up to itself."""


@dataclass(frozen=True)
class Noise:
    """Standard normal numbers of one draw."""

    diagonal: Sequence[Tensor]
    """As the mean."""
    low_rank: Sequence[float]
    """A number for each deviation."""


class Swag(Observer):
    """Draws weights from a Gaussian whose mean is SWA's (Maddox et al. 2019, arXiv 1902.02476).

    Its covariance adds the variances of the models at the ends of the epochs, entry by entry, and the
    covariance of the last `rank` of them. A draw is `mean + sqrt(scale) (sqrt(variance) z1 + low)` with
    `low = sum_k deviation_k z2_k / sqrt(rank - 1)` and standard normal z1 and z2.

    The mean is torch's `AveragedModel`, on the device, with SWA's own bits. The variance is the mean squared
    deviation, summed as in Welford (1962): the published difference, the mean of squares less the squared
    mean, loses most digits where weights move little.

    Args:
        label: name of the average in tables.
        model: live model.
        snapshots: of the run; they hold the model of an epoch before `after_epoch` is called. At least
            `rank` of them are looked back at.
        rank: models whose deviations are kept; 0: the covariance is diagonal.
        samples: draws at the end of a run.
        scale: of the covariance; 0 draws nothing but the mean.
        seed: of the run. Draw k depends on it and on k, and on nothing else.
    """

    def __init__(
        self,
        label: str,
        model: nn.Module,
        snapshots: Snapshots,
        *,
        rank: int,
        samples: int,
        scale: float,
        seed: int,
    ) -> None:
        super().__init__(label)
        self._rank, self._samples, self._scale, self._seed = rank, samples, scale, seed
        self._mean = MeanTrajectory(model, snapshots, rank)
        self._squares = [torch.zeros_like(tensor, device="cpu") for tensor in self._mean.tensors]
        """Sums of squared deviations from the mean."""

    def after_epoch(self, model: nn.Module) -> None:
        live = list_parameters(model)
        before = copy_to_cpu(self._mean.tensors)
        self._mean.take_in(live)
        self.count = self._mean.count
        if self.count == 1:
            return
        for square, old, new, tensor in zip(
            self._squares, before, copy_to_cpu(self._mean.tensors), copy_to_cpu(live), strict=True
        ):
            square.add_((tensor - old) * (tensor - new))

    def compute_moments(self, least_variance: float = LEAST_VARIANCE) -> Moments:
        """Moments of the models taken in so far.

        Args:
            least_variance: of every weight.
        """
        mean = copy_to_cpu(self._mean.tensors)
        variance = [(square / self.count).clamp_(min=least_variance) for square in self._squares]
        return Moments(mean, variance, self._mean.compute_deviations())

    def members(self, *, final: bool) -> Iterator[Member]:
        if not final or self._scale == 0:
            yield Member(self._mean.tensors)
            return
        moments = self.compute_moments()
        for draw in range(self._samples):
            noise = draw_noise(moments.mean, self._rank, derive_seed(self._seed, "swag", draw))
            yield Member(draw_weights(moments, noise, self._scale, divisor=self._rank - 1))

    def describe_posterior(self) -> Posterior:
        moments = self.compute_moments()
        weights = {"mean": moments.mean, "variance": moments.variance}
        drawn, numbers = "sqrt(variance) z1", {"scale": self._scale}
        if self._rank:
            weights["deviations"] = [torch.stack(rows) for rows in zip(*moments.deviations, strict=True)]
            drawn += " + sum_k deviations[k] z2[k] / sqrt(rank - 1)"
            numbers["rank"] = self._rank
        return Posterior(f"mean + sqrt(scale) ({drawn}), z standard normal", numbers, weights)

    def state_dict(self) -> dict[str, Any]:
        """State besides the snapshots: with them it gives the mean and the deviations."""
        return {**self._mean.state_dict(), "squares": self._squares}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._mean.load_state_dict(state)
        self.count = self._mean.count
        self._squares = copy_to_cpu(state["squares"])


def draw_noise(like: Sequence[Tensor], rank: int, seed: int) -> Noise:
    """Draw standard normal numbers on the CPU, the same for every device that weights are on.

    Args:
        like: tensors of the shapes wanted.
        rank: numbers for the low-rank part.
        seed: of a generator of their own.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    diagonal = [torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype) for tensor in like]
    return Noise(diagonal, torch.randn(rank, generator=generator).tolist())


def draw_weights(moments: Moments, noise: Noise, scale: float, divisor: int) -> list[Tensor]:
    """Weights of a draw.

    Args:
        moments: of the Gaussian. Without deviations it is diagonal, and `scale` 1 gives the variance.
        noise: of the draw. Of its low-rank numbers as many count as there are deviations.
        scale: of the covariance; the paper's 1/2 where both parts are added.
        divisor: of the low-rank part: `rank - 1`, also while there are fewer deviations.
    """
    drawn = []
    for index, (mean, variance) in enumerate(zip(moments.mean, moments.variance, strict=True)):
        step = variance.sqrt() * noise.diagonal[index]
        for deviation, number in zip(moments.deviations, noise.low_rank, strict=False):
            step.add_(deviation[index], alpha=number / math.sqrt(divisor))
        drawn.append(mean + math.sqrt(scale) * step)
    return drawn
