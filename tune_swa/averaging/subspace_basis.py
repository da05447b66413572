"""The affine subspace around a mean of models that their principal components span."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_COLUMNS = 1 << 18
"""Weights that are converted to fp64 at once."""


def compute_principal_components(deviations: Sequence[Sequence[Tensor]], rank: int) -> list[Tensor]:
    """Compute the first principal components of deviations, each as long as its standard deviation.

    With all K deviations as the rows of D, and D / sqrt(K - 1) = U diag(s) V', component i is s_i v_i. It
    comes from the K x K matrix D D' (fp64), since s_i v_i = u_i' D / sqrt(K - 1). The sign of a component,
    which is arbitrary, makes the largest entry of u_i positive.

    Args:
        deviations: for each of K >= 2 models its deviation from a mean, one tensor per parameter.
        rank: number of components, 1 to K.

    Returns:
        One tensor [rank, *shape of the parameter] per parameter, in its dtype and on its device.
    """
    count = len(deviations)
    parameters = list(zip(*deviations, strict=True))
    gram = torch.zeros(count, count, dtype=torch.float64)
    for rows in parameters:
        flat = [row.flatten() for row in rows]
        for start in range(0, flat[0].numel(), _COLUMNS):
            block = torch.stack([row[start : start + _COLUMNS] for row in flat]).double()
            gram += (block @ block.T).cpu()
    vectors = torch.linalg.eigh(gram).eigenvectors.T.flip(0)[:rank]  # by descending eigenvalue
    largest = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
    vectors = vectors * largest.sign() / math.sqrt(count - 1)
    return [_combine_rows(vectors, rows) for rows in parameters]


def locate_weights(mean: Sequence[Tensor], basis: Sequence[Tensor], coordinates: Tensor) -> list[Tensor]:
    """Compute the weights at a point of the subspace: mean + basis' coordinates.

    Args:
        mean: one tensor per parameter.
        basis: one tensor [r, *shape] per parameter, as `compute_principal_components` gives it.
        coordinates: [r].
    """
    return [
        centre + torch.tensordot(coordinates.to(axes), axes, dims=1)
        for centre, axes in zip(mean, basis, strict=True)
    ]


def _combine_rows(weights: Tensor, rows: Sequence[Tensor]) -> Tensor:
    """Sums of K tensors with weights [r, K], as [r, *shape], added in fp64."""
    found = rows[0].new_empty(len(weights), rows[0].numel())
    flat = [row.flatten() for row in rows]
    for start in range(0, found.shape[1], _COLUMNS):
        block = torch.stack([row[start : start + _COLUMNS] for row in flat]).double()
        found[:, start : start + _COLUMNS] = weights.to(block.device) @ block
    return found.view(len(weights), *rows[0].shape)
