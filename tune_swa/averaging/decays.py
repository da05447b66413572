"""Decays of exponential moving averages: of every step alike, warmed up, and of a power function."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

Decay = Callable[[int], float]
"""Gives the decay of a step, in [0, 1). Steps count from 1, the first model that an average takes in."""


def decay_of_horizon(epochs: float, steps: int) -> float:
    """Decay per step with which a model's part falls to 1/e in a number of epochs.

    Args:
        epochs: the horizon.
        steps: of an epoch.
    """
    return math.exp(-1 / (epochs * steps))


def warm_up_by_power(
    decay: float, *, gamma: float = 1.0, power: float = 2 / 3, start: int = 0, lowest: float = 0.0
) -> Decay:
    """A decay that grows as 1 - (1 + q / gamma)^-power, q steps after the start.

    Args:
        decay: where the growth ends.
        gamma: steps at which the growth slows down.
        power: 1 with gamma 1 gives the plain mean of all models until `decay` is reached.
        start: up to one step after this one the average is a copy of the live model.
        lowest: least decay from then on.
    """

    def decay_at(step: int) -> float:
        since = step - 1 - start
        if since <= 0:
            return 0.0
        grown = 1 - float((1 + since / gamma) ** -power)
        return min(max(grown, lowest), decay)

    return decay_at


def warm_up_by_ramp(decay: float, *, ratio: float = 0.05) -> Decay:
    """A decay whose half-life grows with the steps taken, up to that of `decay` (Karras et al. 2022).

    Args:
        decay: where the growth ends.
        ratio: of the half-life to the steps taken so far.
    """
    return lambda step: min(0.5 ** (1 / (ratio * step)), decay)


def follow_power_function(exponent: float) -> Decay:
    """Decays by which step s has a part proportional to s^exponent (Karras et al. 2024)."""
    return lambda step: float((1 - 1 / step) ** (exponent + 1))


def exponent_of_length(length: float) -> float:
    """Exponent of the power function whose standard deviation is `length`, as a part of all steps.

    It is the largest real root of length^2 = (g + 1) / ((g + 2)^2 (g + 3)).

    Args:
        length: in (0, 0.288], the latter that of the plain mean.
    """
    inverse = length**-2
    roots = np.roots([1, 7, 16 - inverse, 12 - inverse])
    return float(roots[np.isclose(roots.imag, 0)].real.max())
