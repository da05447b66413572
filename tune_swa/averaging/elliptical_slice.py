"""Elliptical slice sampling: a Markov chain for a Gaussian prior and any likelihood, without a step size."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

MAX_SHRINKS = 100
"""Of a bracket. It has fallen below rounding by then, and the proposal is the present point."""


def sample_elliptical_slices(
    log_likelihood: Callable[[Tensor], float], prior_draws: Tensor, draw_uniform: Callable[[], float]
) -> Tensor:
    """Sample from the product of a likelihood and a Gaussian prior of mean 0 (Murray, Adams and MacKay 2010).

    The chain begins at 0. Each sample takes one prior draw, one uniform number for the height of the slice,
    one for the first angle and one more for each rejected proposal.

    Args:
        log_likelihood: of a point [r]; the same value each time for the same point.
        prior_draws: one for each sample, [S, r] float64.
        draw_uniform: next number in [0, 1).

    Returns:
        The chain, [S, r] float64.

    Raises:
        FloatingPointError: the log-likelihood at 0 is not finite.
    """
    point = torch.zeros_like(prior_draws[0])
    likelihood = log_likelihood(point)
    if not math.isfinite(likelihood):
        raise FloatingPointError(f"the log-likelihood at the chain's first point is {likelihood}")
    chain = []
    for draw in prior_draws:
        point, likelihood = _draw_sample(log_likelihood, point, likelihood, draw, draw_uniform)
        chain.append(point)
    return torch.stack(chain)


def _draw_sample(
    log_likelihood: Callable[[Tensor], float],
    point: Tensor,
    likelihood: float,
    draw: Tensor,
    draw_uniform: Callable[[], float],
) -> tuple[Tensor, float]:
    """The next point of a chain, and its log-likelihood."""
    height = draw_uniform()
    threshold = likelihood + (math.log(height) if height > 0 else -math.inf)
    angle = 2 * math.pi * draw_uniform()
    low, high = angle - 2 * math.pi, angle
    for _ in range(MAX_SHRINKS):
        proposal = point * math.cos(angle) + draw * math.sin(angle)
        proposed = log_likelihood(proposal)
        if proposed > threshold:  # not where it is NaN
            return proposal, proposed
        if angle > 0:
            high = angle
        else:
            low = angle
        angle = low + draw_uniform() * (high - low)
    return point, likelihood
