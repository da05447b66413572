"""Elliptical slice sampling: the posterior it converges to, and likelihoods that leave it nowhere to go."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tune_swa.averaging.elliptical_slice import MAX_SHRINKS, sample_elliptical_slices


def draw_chain(log_likelihood: Callable[[Tensor], float], samples: int, rank: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(samples, rank, generator=generator, dtype=torch.float64)

    def draw_uniform() -> float:
        return float(torch.rand((), generator=generator, dtype=torch.float64))

    return sample_elliptical_slices(log_likelihood, draws, draw_uniform)


def test_the_posterior_of_a_gaussian_likelihood() -> None:
    """Prior N(0, 1) and likelihood N(2, 1/3) give N(1.5, 1/4)."""
    chain = draw_chain(lambda point: float(-1.5 * (point - 2).square().sum()), samples=6000)[100:]
    torch.testing.assert_close(chain.mean(dim=0), torch.full((2,), 1.5).double(), rtol=0, atol=0.05)
    torch.testing.assert_close(chain.var(dim=0), torch.full((2,), 0.25).double(), rtol=0, atol=0.03)


def test_a_constant_likelihood_gives_the_prior() -> None:
    chain = draw_chain(lambda point: 0.0, samples=4000)
    torch.testing.assert_close(chain.std(dim=0), torch.ones(2).double(), rtol=0, atol=0.05)


def test_where_nothing_else_is_likely_the_chain_stays() -> None:
    """Where rounding hides the slice, no proposal is above it, and the present point is kept."""
    asked = []

    def measure(point: Tensor) -> float:
        asked.append(point)
        return 1e20 if not bool(point.any()) else math.nan

    chain = draw_chain(measure, samples=3)
    assert not bool(chain.any())
    assert len(asked) == 1 + 3 * MAX_SHRINKS


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_first_point_without_a_likelihood(value: float) -> None:
    with pytest.raises(FloatingPointError, match="at the chain's first point is"):
        draw_chain(lambda point: value, samples=1)
