"""Power of the paired t-test and of the test over seeds and images, by the noncentral t distribution.

Effects and standard deviations are fractions of the images, not points (Cohen 1988, chapter 2).
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable
from dataclasses import dataclass

import scipy  # loads scipy.stats, which takes half a second, when it is first used

LEVEL = 0.95
"""Default level of intervals; tests are at 1 - LEVEL."""
MOST_SEEDS = 1000
"""`seeds_needed` gives up here."""


def paired_power(effect: float, sd: float, seeds: int, alpha: float = 1 - LEVEL) -> float:
    """Return the chance that the two-sided paired t-test finds a difference.

    Args:
        effect: true mean of the differences.
        sd: their standard deviation between seeds, in the same unit.
        seeds: number of pairs, two or more.
        alpha: level of the test; for m finalists alpha / m, the first step of Holm's procedure.
    """
    if sd <= 0:
        return 1.0 if effect else alpha
    return _noncentral_t_power(effect, sd / math.sqrt(seeds), seeds - 1, alpha)


def seeds_needed(effect: float, sd: float, wanted: float = 0.8, alpha: float = 1 - LEVEL) -> int | None:
    """Return the smallest number of seeds that finds `effect` with a chance of `wanted`; None: above
    1,000."""
    return _search_seeds(lambda seeds: paired_power(effect, sd, seeds, alpha) >= wanted) if effect else None


@dataclass(frozen=True)
class VarianceComponents:
    """Variances of the differences between two configurations: of seeds, of images, and of the rest."""

    seed: float
    image: float
    residual: float

    def compute_power(self, effect: float, seeds: int, images: int, alpha: float = 1 - LEVEL) -> float:
        """Return the chance that the test of `statistics.crossed_interval` finds `effect`.

        Satterthwaite's degrees of freedom are those of the expected mean squares.
        """
        ms_residual = self.residual
        ms_seed = ms_residual + images * self.seed
        ms_image = ms_residual + seeds * self.image
        total = ms_seed + ms_image - ms_residual
        if total <= 0:
            return 1.0 if effect else alpha
        parts = (ms_seed**2 / (seeds - 1), ms_image**2 / (images - 1))
        rest = ms_residual**2 / ((seeds - 1) * (images - 1))
        degrees = total**2 / (sum(parts) + rest)
        return _noncentral_t_power(effect, math.sqrt(total / (seeds * images)), degrees, alpha)

    def seeds_needed(
        self, effect: float, images: int, wanted: float = 0.8, alpha: float = 1 - LEVEL
    ) -> int | None:
        """Return the smallest number of seeds that finds `effect` on this many images.

        None: above 1,000, since the images limit it or it is too small.
        """
        if not effect:
            return None
        return _search_seeds(lambda seeds: self.compute_power(effect, seeds, images, alpha) >= wanted)

    def detectable_difference(
        self, seeds: int, images: int, wanted: float = 0.8, alpha: float = 1 - LEVEL
    ) -> float:
        """Return the smallest true difference that is found with a chance of `wanted`."""

        def excess_power(effect: float) -> float:
            return self.compute_power(effect, seeds, images, alpha) - wanted

        if excess_power(1e-12) >= 0:
            return 0.0
        high = 1.0
        while excess_power(high) < 0:
            high *= 2
        return float(scipy.optimize.brentq(excess_power, 0.0, high, xtol=1e-15))


def _noncentral_t_power(effect: float, error: float, degrees: float, alpha: float) -> float:
    """Power of a two-sided t-test whose estimate has the standard error `error`."""
    critical = float(scipy.stats.t.isf(alpha / 2, degrees))
    shift = effect / error
    if abs(shift) > 30:  # scipy's noncentral t is NaN far out, where the power is 1
        return 1.0
    above = float(scipy.stats.nct.sf(critical, degrees, shift))
    below = float(scipy.stats.nct.cdf(-critical, degrees, shift))
    return above + (0.0 if math.isnan(below) else below)


def _search_seeds(enough: Callable[[int], bool]) -> int | None:
    """Return the smallest number of seeds from 2 on that is enough; power grows with their number."""
    numbers = range(2, MOST_SEEDS + 1)
    found = bisect.bisect_left(numbers, True, key=enough)
    return numbers[found] if found < len(numbers) else None
