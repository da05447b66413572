"""The race: choose the arms that go on to the test images, by a validation score on fresh seeds.

Both sides enter it, since both were chosen by single runs. The SWA side halves as in successive halving
(Karnin et al. 2013), which costs nothing but power: whoever stays is tested on seeds after those. The
plain side is different. Where the best plain arm is dropped, SWA is measured against a lesser one, and
that looks like a gain: so a plain arm is not tested only where it is clearly worse than the best one
(Hsu 1984: comparisons with the best). Where there are many, the later rounds of the race leave some out,
which decides nothing about the test images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
from numpy.typing import ArrayLike

DROP_LEVEL = 0.01
"""One-sided chance, over all plain arms, that one as good as the best is dropped: nearly so, as the t
distribution is an approximation where variances differ."""

MOST_PLAIN = 12
"""The plain side of later rounds is not halved below this many arms: eight baselines, or four and the own
settings of eight candidates. Where the race left four, "better" was wrong in up to 14 % of made-up
studies with eight baselines, and in 25 % with rates of their own (benchmarks/RESULTS.md)."""


@dataclass(frozen=True)
class RaceRound:
    """A round of a race: how many arms of each side run in it, and on how many seeds."""

    seeds: int
    """Seeds that each arm of the round has when it ends, those of the rounds before included."""
    swa: int
    plain: int


def plan_race(swa: int, plain: int, seeds: int, *, finalists: int) -> tuple[RaceRound, ...]:
    """Plan all rounds of a race before the first: as many as it takes to halve down to the finalists.

    The seeds are spread evenly over the rounds, the later ones having those left over, where fewer arms
    run.

    Args:
        swa: SWA arms that enter.
        plain: plain arms that enter.
        seeds: fresh seeds of an arm that stays to the end, one or more.
        finalists: SWA arms that are wanted at the end.

    Raises:
        ValueError: no seeds, or no finalists wanted.
    """
    if seeds < 1 or finalists < 1:
        raise ValueError(f"{seeds} seeds and {finalists} finalists, but a race needs one or more of each")
    halvings = math.ceil(math.log2(max(swa / finalists, 1)))
    number = max(1, min(halvings, seeds))
    rounds = []
    for k in range(1, number + 1):
        rounds.append(RaceRound(seeds * k // number, swa, plain))
        swa = max(min(finalists, swa), -(-swa // 2))
        plain = max(min(MOST_PLAIN, plain), -(-plain // 2))
    return tuple(rounds)


def halve_race(scores: Mapping[str, Mapping[int, float]], keep: int) -> tuple[str, ...]:
    """Return the best arms of one side, best first, by their mean validation score over the race's seeds.

    An arm that lacks a seed which another one has comes after those that lack none, since its mean is
    not over the same seeds; an arm without any is left out. Equal means keep the order given.

    Args:
        scores: validation score of each arm by seed, higher is better.
        keep: how many; fewer are returned where there are fewer.
    """
    most = max((len(by_seed) for by_seed in scores.values()), default=0)
    ran = [name for name, by_seed in scores.items() if by_seed]
    return tuple(sorted(ran, key=lambda name: (len(scores[name]) < most, -_mean_score(scores[name])))[:keep])


def keep_plain(
    scores: Mapping[str, Mapping[int, float]],
    most: int,
    images: int | None = None,
    image_variances: Mapping[str, float] | None = None,
) -> tuple[str, ...]:
    """Return the plain arms that go on to the test images, best first: all that are not clearly worse.

    Clearly worse is an arm whose mean lies further below the best than a one-sided t-test at DROP_LEVEL
    (Bonferroni over the arms) allows for. The variance of a mean score is that of its seeds plus that of
    the validation images, for which that of one run's images is used, of accuracies p (1 - p) / images:
    how each image fares is not known here, and two arms that err on the same images differ by less. So
    few validation images drop hardly any arm. The degrees of freedom are Satterthwaite's (1946).

    Args:
        scores: validation score of each plain arm by seed, higher is better.
        most: arms that are kept at most.
        images: validation images; None: the images' part of the variance is unknown, and only `most`
            limits.
        image_variances: of one image's score, for each arm; nan where unknown, and then the arm is not
            dropped. None: the scores are accuracies (0 to 1), whose variance follows from them.
    """
    order = halve_race(scores, most)
    if images is None or not order:
        return order
    runs = [np.array(list(scores[name].values())) for name in order]
    spreads = [float(np.var(r, ddof=1)) if len(r) > 1 else math.nan for r in runs]
    one_image = None if image_variances is None else [image_variances[name] for name in order]
    seeds = [len(r) for r in runs]
    worse = find_clearly_worse([r.mean() for r in runs], spreads, seeds, images, one_image)
    return tuple(name for name, dropped in zip(order, worse, strict=True) if not dropped)


def find_clearly_worse(
    means: ArrayLike,
    variances: ArrayLike,
    seeds: ArrayLike,
    images: int,
    image_variances: ArrayLike | None = None,
) -> Any:
    """Find the arms that are clearly worse than the best one (`keep_plain`), in many races at once.

    Args:
        means: shape (..., P), mean score of each arm; -inf for one that does not take part.
        variances: shape (..., P), of its score between seeds; nan where unknown, and then it is not
            dropped.
        seeds: number of its seeds, of a shape that goes with these.
        images: validation images.
        image_variances: shape (..., P), of one image's score; nan where unknown, and then it is not
            dropped. None: p (1 - p), as of accuracies.

    Returns:
        Shape (..., P), bool; False for the best arm, and for one that does not take part.
    """
    mean, count = np.asarray(means, dtype=np.float64), np.asarray(seeds)
    part = np.isfinite(mean)
    best = np.expand_dims(mean.argmax(axis=-1), -1)
    level = DROP_LEVEL / np.maximum(1, part.sum(axis=-1, keepdims=True) - 1)
    score = np.where(part, mean, 0.5)
    count = np.broadcast_to(count, mean.shape)
    by_seeds = np.asarray(variances, dtype=np.float64) / count
    by_image = score * (1 - score) if image_variances is None else np.asarray(image_variances)
    by_images = np.broadcast_to(by_image, mean.shape) / images

    def add_best(values: Any) -> Any:
        return values + np.take_along_axis(values, best, -1)

    variance = add_best(by_seeds) + add_best(by_images)
    with np.errstate(divide="ignore", invalid="ignore"):
        degrees = variance**2 / add_best(by_seeds**2 / (count - 1))
        critical = scipy.stats.t.isf(level, np.where(np.isnan(degrees), np.inf, degrees))
        behind = np.take_along_axis(score, best, -1) - score
        return part & (behind > critical * np.sqrt(variance))


def _mean_score(by_seed: Mapping[int, float]) -> float:
    return float(np.mean(list(by_seed.values())))
