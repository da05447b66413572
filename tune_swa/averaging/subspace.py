"""Subspace inference: the posterior of the weights in a few principal directions of a trajectory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tune_swa.averaging.elliptical_slice import sample_elliptical_slices
from tune_swa.averaging.mean_trajectory import MeanTrajectory, copy_to_cpu
from tune_swa.averaging.observers import Likelihood, Member, Observer, list_parameters
from tune_swa.averaging.posterior import Posterior
from tune_swa.averaging.snapshots import Snapshots
from tune_swa.averaging.subspace_basis import compute_principal_components, locate_weights
from tune_swa.config import SubspaceAverage
from tune_swa.seeds import derive_seed


class Subspace(Observer):
    """Samples of the weights' posterior in a subspace around SWA's mean (Izmailov et al. 2019).

    The subspace is spanned by the first principal components of the deviations from that mean at the ends of
    the last epochs. At the end of a run elliptical slice sampling draws coordinates, once; before, the
    average is the mean itself.

    Args:
        settings: of the average.
        model: live model.
        snapshots: of the run; they hold the model of an epoch before `after_epoch` is called. At least
            `settings.last` of them are looked back at.
        samples: number of them.
        seed: of the run. All that is drawn derives from it, on the CPU.
    """

    def __init__(
        self, settings: SubspaceAverage, model: nn.Module, snapshots: Snapshots, *, samples: int, seed: int
    ) -> None:
        super().__init__(settings.label)
        self._settings, self._samples, self._seed = settings, samples, seed
        self._mean = MeanTrajectory(model, snapshots, settings.last)
        self._basis: list[Tensor] | None = None
        self._chain: Tensor | None = None

    def after_epoch(self, model: nn.Module) -> None:
        self._mean.take_in(list_parameters(model))
        self.count = self._mean.count

    def finish(self, likelihood: Likelihood) -> None:
        """Draw the coordinates, once.

        Raises:
            FloatingPointError: the log-likelihood of the mean is not finite.
        """
        if self._chain is not None:
            return
        settings, mean, basis = self._settings, copy_to_cpu(self._mean.tensors), self._find_basis()
        temperature = settings.temperature
        if temperature == "auto":
            temperature = likelihood.images / 10

        def measure(point: Tensor) -> float:
            return likelihood(locate_weights(mean, basis, point), settings.fit_batches) / temperature

        shape = (self._samples, settings.rank)
        draws = torch.randn(shape, generator=self._seed_generator("prior"), dtype=torch.float64)
        uniforms = self._seed_generator("uniforms")
        self._chain = sample_elliptical_slices(
            measure,
            settings.prior * draws,
            lambda: float(torch.rand((), generator=uniforms, dtype=torch.float64)),
        )

    def members(self, *, final: bool) -> Iterator[Member]:
        if not final:
            yield Member(self._mean.tensors)
            return
        assert self._chain is not None  # `finish` comes first
        mean, basis = copy_to_cpu(self._mean.tensors), self._find_basis()
        for point in self._chain:
            yield Member(locate_weights(mean, basis, point))

    def describe_posterior(self) -> Posterior:
        weights = {"mean": copy_to_cpu(self._mean.tensors), "basis": copy_to_cpu(self._find_basis())}
        return Posterior("mean + sum_i samples[k, i] basis[i]", {}, weights, self._chain)

    def state_dict(self) -> dict[str, Any]:
        """State besides the snapshots: with them it gives the mean and the basis."""
        return {**self._mean.state_dict(), "chain": self._chain}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._mean.load_state_dict(state)
        self.count = self._mean.count
        self._basis = None
        self._chain = None if state["chain"] is None else state["chain"].to("cpu", copy=True)

    def _find_basis(self) -> list[Tensor]:
        """The basis of the subspace, which is computed when it is first wanted: at the end of a run."""
        if self._basis is None:
            self._basis = compute_principal_components(self._mean.compute_deviations(), self._settings.rank)
        return self._basis

    def _seed_generator(self, what: str) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(self._seed, "subspace", what))
