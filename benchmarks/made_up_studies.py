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
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Floats = NDArray[np.float64]

ACCURACY = 0.9
"""Of the best plain arm."""
SEARCHED = 16
"""SWA configurations of a search."""
DEVIATIONS, SIZES, GAPS = (0.0, 0.5, 1.0, 2.0, 5.0), (300, 1000, 3000, 10000), (0.5, 1.0, 2.0)
"""Of the cells: deviations and gaps in points, numbers of test images."""
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
    """Level and run's standard deviation of some arms in the probit model, of shape (A,) or (studies, A)."""

    level: Floats
    run_sd: Floats

    @classmethod
    def from_accuracies(cls, accuracies: Floats, deviations: Floats) -> Arms:
        """Arms of these true accuracies and deviations, each of shape (A,)."""
        pairs = zip(deviations, accuracies, strict=True)
        run_sd = np.array([run_sd_for(float(d), float(a)) for d, a in pairs])
        return cls(stats.norm.ppf(accuracies) * np.hypot(REST_SD, run_sd), run_sd)

    def pick(self, which: NDArray[np.int64]) -> Arms:
        """Some of them in each study: `which` has shape (studies, F)."""
        return Arms(self.level[which], self.run_sd[which])

    def join(self, other: Arms, studies: int) -> Arms:
        """Both, of shape (studies, A)."""
        pairs = ((self.level, other.level), (self.run_sd, other.run_sd))
        wide = [[np.broadcast_to(x, (studies, x.shape[-1])) for x in pair] for pair in pairs]
        return Arms(*(np.concatenate(pair, 1) for pair in wide))


def draw_runs(arms: Arms, seeds: int, drawn: np.random.Generator) -> Floats:
    """Accuracy of each run on all the images that there could be: shape (studies, A, seeds).

    Args:
        arms: of shape (studies, A).
        seeds: runs of each arm.
        drawn: random numbers.
    """
    normal = drawn.standard_normal((*arms.level.shape, seeds))
    return np.asarray(special.ndtr((arms.level[:, :, None] + arms.run_sd[:, :, None] * normal) / REST_SD))


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
        self._arms = arms
        self._image = drawn.normal(0, IMAGE_SD, number)
        self._own = drawn.normal(0, PARTICULAR_SD, (len(arms.level), number))

    def draw_answers(self, arm: int, run: float) -> NDArray[np.bool_]:
        """Whether a run is right on each image; `run` is its term, in standard deviations of the arm."""
        noise = self._drawn.standard_normal(len(self._image))
        level = self._arms.level[arm] + self._arms.run_sd[arm] * run
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
    """Of every SWA configuration, in points: added to `swa`."""
    baselines: tuple[float, ...]
    trunks: tuple[float, ...] = ()
    """Own plain training of each SWA configuration, where the rate is continuous. Else it is one of the
    baselines."""
    swa: tuple[float, ...] = (0.0,) * SEARCHED
    swa_deviation: float | None = None
    baseline_deviations: tuple[float, ...] = ()

    @property
    def swa_arms(self) -> Arms:
        deviation = self.deviation if self.swa_deviation is None else self.swa_deviation
        accuracy = ACCURACY + (np.array(self.swa) + self.gain) / 100
        return Arms.from_accuracies(accuracy, np.full(len(self.swa), deviation / 100))

    @property
    def plain_arms(self) -> Arms:
        """Baselines, then trunks."""
        accuracy = ACCURACY + np.array(self.baselines + self.trunks) / 100
        deviations = self.baseline_deviations or (self.deviation,) * len(accuracy)
        return Arms.from_accuracies(accuracy, np.array(deviations) / 100)


def plain_patterns(number: int, gaps: Sequence[float]) -> list[tuple[str, float, tuple[float, ...]]]:
    """Name, gap and accuracies of so many baselines, the best one at 0."""
    found = [("all equal", 0.0, (0.0,) * number)]
    for gap in gaps:
        found.append(("one best", gap, (0.0,) + (-gap,) * (number - 1)))
        found.append(("two best", gap, (0.0, 0.0) + (-gap,) * (number - 2)))
        found.append(("staircase", gap, tuple(-gap * k for k in range(number))))
    return found


def list_cells() -> Iterator[Cell]:
    """All cells without an effect, then those with a gain: fewer, as they tell less apart."""
    for deviation, images in itertools.product(DEVIATIONS, SIZES):
        for number in (3, 8):
            for pattern, gap, baselines in plain_patterns(number, GAPS):
                yield Cell(f"{number} baselines", pattern, gap, images, deviation, 0.0, baselines)
        yield from _continuous(images, deviation)
    yield from _unequal()
    for gain, deviation, images in itertools.product((1.0, 3.0), DEVIATIONS[1:4], SIZES):
        for number in (3, 8):
            for pattern, gap, baselines in plain_patterns(number, (1.0,)):
                yield Cell(f"{number} baselines", pattern, gap, images, deviation, gain, baselines)


def _continuous(images: int, deviation: float) -> Iterator[Cell]:
    """One or two baselines of a continuous rate, and sixteen configurations with rates of their own."""
    best, lower = (0.0,) * SEARCHED, (0.0,) * (SEARCHED // 2)
    for number, gap in itertools.product((1, 2), GAPS):
        weak, mixed = (-gap,) * number, lower + (-gap,) * (SEARCHED // 2)
        for pattern, baselines, trunks, swa in (
            ("own trunks best", weak, best, best),
            ("a baseline best", (0.0, *weak[1:]), (-gap,) * SEARCHED, best),
            ("half of the trunks best", weak, mixed, best),
            ("SWA as its trunk", weak, mixed, mixed),
        ):
            yield Cell(
                "1 or 2 baselines, own rates", pattern, gap, images, deviation, 0.0, baselines, trunks, swa
            )


def _unequal() -> Iterator[Cell]:
    """Arms that vary by 0.5 or by 3 points between seeds."""
    calm, noisy = 0.5, 3.0
    for number, images in itertools.product((3, 8), SIZES):
        for pattern, gap, baselines in plain_patterns(number, GAPS):
            rest = number - 1
            for which, swa, deviations in (
                ("SWA noisier", noisy, (calm,) * number),
                ("SWA calmer", calm, (noisy,) * number),
                ("best baseline noisier", calm, (noisy,) + (calm,) * rest),
                ("best baseline calmer", noisy, (calm,) + (noisy,) * rest),
            ):
                yield Cell(
                    "unequal deviations", f"{which}, {pattern}", gap, images, math.nan, 0.0, baselines,
                    swa_deviation=swa, baseline_deviations=deviations,
                )  # fmt: skip
