"""A distribution of weights, as a file can hold it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Posterior:
    """What the members of an average are drawn from, on the CPU."""

    formula: str
    """How a draw comes from the tensors, which it names."""
    numbers: Mapping[str, float]
    """Numbers of the formula by name."""
    weights: Mapping[str, Sequence[Tensor]]
    """By name: one tensor for each parameter of the model, of its shape or [K, *shape]."""
    samples: Tensor | None = None
    """Coordinates [S, r] of the members, where these are not drawn anew."""

    def name_tensors(self, parameters: Sequence[str]) -> dict[str, Tensor]:
        """Every tensor by a name such as `mean.conv1.weight`.

        Args:
            parameters: names of the model's parameters in their order.
        """
        named = {
            f"{what}.{parameter}": tensor.contiguous()
            for what, tensors in self.weights.items()
            for parameter, tensor in zip(parameters, tensors, strict=True)
        }
        return named if self.samples is None else {**named, "samples": self.samples.contiguous()}
