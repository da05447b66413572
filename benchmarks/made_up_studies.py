"""Made-up studies for benchmarks/verdict.py: accuracies of runs whose truth is known.

Whether a run is right on an image is a probit model: the run is right where
    level + image + configuration x image + run + noise > 0,
all normal and independent. Images, and what is particular to a configuration on an image, are the same
for all its seeds. "Deviation" is the standard deviation of a run's accuracy between seeds.

Two ways to draw from it. `draw_answers` goes image by image and gives what the rule is given in a search.
`draw_accuracies` draws each run's accuracy, of thousands of studies at once: the accuracy that the run
would have on all images (which is skewed, as accuracies are), plus a normal term of the images, of the
configuration on these images, and of the run on these images, with the variances of the probit model.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]

ACCURACY = 0.9
"""Of the best plain arm."""
IMAGE_SD, PARTICULAR_SD = 1.5, 0.3
"""Of images, and of what is particular to a configuration on an image, in units of the noise."""
REST_SD = math.sqrt(1 + IMAGE_SD**2 + PARTICULAR_SD**2)
"""Of all terms but the run's."""


@functools.cache
def run_sd_for(deviation: float, accuracy: float) -> float:
    """The run's term that gives accuracies this standard deviation."""
    if not deviation:
        return 0.0
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    weights = weights / weights.sum()
    low, high = 0.0, 5.0
    for _ in range(60):
        middle = (low + high) / 2
        level = stats.norm.ppf(accuracy) * math.hypot(REST_SD, middle)
        accuracies = stats.norm.cdf((level + middle * nodes) / REST_SD)
        mean = (weights * accuracies).sum()
        sd = math.sqrt((weights * (accuracies - mean) ** 2).sum())
        low, high = (middle, high) if sd < deviation else (low, middle)
    return high


@functools.cache
def answer_variances() -> tuple[float, float, float]:
    """Variance of a single answer at ACCURACY, without the run's term: what all arms have in common on an
    image, what is particular to an arm, and the rest."""
    at = stats.norm.ppf(ACCURACY)

    def common(shared: float) -> float:
        """Covariance of two answers that share so much of the variance of all terms."""
        cov = [[1.0, shared / REST_SD**2], [shared / REST_SD**2, 1.0]]
        return float(stats.multivariate_normal.cdf([at, at], cov=cov)) - ACCURACY**2

    of_image = common(IMAGE_SD**2)
    of_arm = common(IMAGE_SD**2 + PARTICULAR_SD**2)
    return of_image, of_arm - of_image, ACCURACY * (1 - ACCURACY) - of_arm


@dataclass(frozen=True)
class Arms:
    """True accuracies of some arms and their deviations, each of shape (A,) or (studies, A)."""

    accuracy: Floats
    deviation: Floats

    def pick(self, which: NDArray[np.int64]) -> Arms:
        """Some of them in each study: `which` has shape (studies, F)."""
        shape = (len(which), self.accuracy.shape[-1])
        picked = [
            np.take_along_axis(np.broadcast_to(x, shape), which, 1) for x in (self.accuracy, self.deviation)
        ]
        return Arms(*picked)

    def join(self, other: Arms, studies: int) -> Arms:
        """Both, of shape (studies, A)."""
        pairs = ((self.accuracy, other.accuracy), (self.deviation, other.deviation))
        whole = [
            np.concatenate([np.broadcast_to(x, (studies, x.shape[-1])) for x in pair], 1) for pair in pairs
        ]
        return Arms(*whole)


def _levels(arms: Arms) -> tuple[Floats, Floats]:
    """The run's term and the level of each arm, in the probit model."""
    run_sd = np.vectorize(run_sd_for, otypes=[float])(arms.deviation, arms.accuracy)
    return run_sd, stats.norm.ppf(arms.accuracy) * np.sqrt(REST_SD**2 + run_sd**2)


def draw_runs(arms: Arms, studies: int, seeds: int, drawn: np.random.Generator) -> Floats:
    """Accuracy of each run on all the images that there could be: shape (studies, A, seeds)."""
    run_sd, level = (np.broadcast_to(x, (studies, x.shape[-1]))[:, :, None] for x in _levels(arms))
    normal = drawn.standard_normal((studies, level.shape[1], seeds))
    return np.asarray(stats.norm.cdf((level + run_sd * normal) / REST_SD))


def draw_accuracies(runs: Floats, images: int, drawn: np.random.Generator) -> Floats:
    """Accuracy of runs on so many images, the same for all of a study: shape as `runs`."""
    studies, arms, seeds = runs.shape
    of_image, of_arm, rest = (math.sqrt(v / images) for v in answer_variances())
    return np.asarray(
        runs
        + of_image * drawn.standard_normal((studies, 1, 1))
        + of_arm * drawn.standard_normal((studies, arms, 1))
        + rest * drawn.standard_normal((studies, arms, seeds))
    )


class Images:
    """Images of one made-up study, and what is particular to each arm on them."""

    def __init__(self, number: int, arms: Arms, drawn: np.random.Generator) -> None:
        self._drawn = drawn
        self._run_sd, self._level = _levels(arms)
        self._image = drawn.normal(0, IMAGE_SD, number)
        self._own = drawn.normal(0, PARTICULAR_SD, (len(arms.accuracy), number))

    def draw_answers(self, arm: int, run: float) -> NDArray[np.bool_]:
        """Whether a run is right on each image; `run` is its term, in standard deviations of the arm."""
        noise = self._drawn.standard_normal(len(self._image))
        level = self._level[arm] + self._run_sd[arm] * run
        return np.asarray(level + self._image + self._own[arm] + noise > 0)


# ----------------------------------------------------------------------------------------- cells


@dataclass(frozen=True)
class Cell:
    """What is true in a study; accuracies are in points from ACCURACY."""

    group: str
    pattern: str
    gap: float
    """Between plain arms, in points."""
    images: int
    deviation: float
    gain: float
    """Of every SWA configuration over the best plain arm, in points; for `group` "no effect", over its
    own plain training."""
    baselines: tuple[float, ...]
    trunks: tuple[float, ...] = ()
    """Own plain training of each SWA configuration, where the rate is continuous. Else it is one of the
    baselines."""
    swa: tuple[float, ...] = (0.0,) * 16
    swa_deviation: float | None = None
    baseline_deviations: tuple[float, ...] = ()

    @property
    def swa_arms(self) -> Arms:
        deviation = self.deviation if self.swa_deviation is None else self.swa_deviation
        accuracy = ACCURACY + (np.array(self.swa) + self.gain) / 100
        return Arms(accuracy, np.full(len(self.swa), deviation / 100))

    @property
    def plain_arms(self) -> Arms:
        """Baselines, then trunks."""
        accuracy = ACCURACY + np.array(self.baselines + self.trunks) / 100
        deviations = self.baseline_deviations or (self.deviation,) * len(accuracy)
        return Arms(accuracy, np.array(deviations) / 100)


def plain_patterns(number: int, gaps: Sequence[float]) -> list[tuple[str, float, tuple[float, ...]]]:
    """Name, gap and accuracies of so many baselines, the best one at 0."""
    found = [("all equal", 0.0, (0.0,) * number)]
    for gap in gaps:
        found.append(("one best", gap, (0.0,) + (-gap,) * (number - 1)))
        found.append(("two best", gap, (0.0, 0.0) + (-gap,) * (number - 2)))
        found.append(("staircase", gap, tuple(-gap * k for k in range(number))))
    return found
