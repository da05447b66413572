"""How often does the verdict say "better", with an effect and without?

    python benchmarks/verdict.py
    python benchmarks/verdict.py --studies 200    # a quick look

Whole studies are made up and go through the very functions that a search's verdict comes from:
sixteen configurations on validation images, the best two of them as finalists, five fresh seeds for
these and the baseline, then `crossed`, `holm` and `decide`.

Whether a run is right on an image is a probit model: the run is right where
    level + image + configuration + (configuration x image) + (run) + noise > 0,
all normal and independent; images, and what is particular to a configuration on an image, are the same
for all its seeds. "Deviation" is the standard deviation of a run's accuracy between seeds, "effect" the
true difference in accuracy over all images and seeds. All sixteen have that effect, so whichever is
chosen has it, and "better" is a mistake exactly where it is 0.
"""

from __future__ import annotations

import argparse
import itertools
import math
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
from common import table, where
from scipy import stats

from tune_swa.results import statistics
from tune_swa.results.verdict import decide

ACCURACY = 0.9
"""Of the baseline."""
IMAGE_SD, PARTICULAR_SD = 1.5, 0.3
"""Of images, and of what is particular to a configuration on an image, in units of the noise."""
SEEDS, FINALISTS, CONFIGURATIONS, VALIDATION = 5, 2, 16, 337


@dataclass(frozen=True)
class Cell:
    """One line of the table."""

    deviation: float
    """Of a run's accuracy between seeds, in points."""
    images: int
    effect: float
    """In points."""


def spread_of(run_sd: float) -> float:
    """Standard deviation of the sum of all normal terms of a single answer."""
    return math.sqrt(1 + IMAGE_SD**2 + PARTICULAR_SD**2 + run_sd**2)


def run_sd_for(deviation: float) -> float:
    """The run's term that gives accuracies this deviation (in points), by its slope at the level."""
    low, high = 0.0, 5.0
    for _ in range(60):
        middle = (low + high) / 2
        whole = spread_of(middle)
        rest = math.sqrt(whole**2 - middle**2)
        z = stats.norm.ppf(ACCURACY) * whole
        # accuracy of a run with the term r: Phi((z + r) / rest)
        nodes, weights = np.polynomial.hermite_e.hermegauss(40)
        accuracies = stats.norm.cdf((z + middle * nodes) / rest)
        weights = weights / weights.sum()
        sd = math.sqrt((weights * accuracies**2).sum() - (weights * accuracies).sum() ** 2)
        low, high = (middle, high) if 100 * sd < deviation else (low, middle)
    return high if deviation else 0.0


def study(cell: Cell, drawn: np.random.Generator, run_sd: float) -> tuple[list[bool], statistics.Components]:
    """Whether each of the finalists is called better, and the first one's variance components."""
    whole = spread_of(run_sd)
    level = stats.norm.ppf(ACCURACY) * whole
    better = stats.norm.ppf(ACCURACY + cell.effect / 100) * whole
    # the search: one run of each configuration on the same validation images
    images = drawn.normal(0, IMAGE_SD, VALIDATION)
    own = drawn.normal(0, PARTICULAR_SD, (CONFIGURATIONS, VALIDATION))
    runs = drawn.normal(0, run_sd, (CONFIGURATIONS, 1))
    noise = drawn.normal(0, 1, (CONFIGURATIONS, VALIDATION))
    accuracy = (better + images + own + runs + noise > 0).mean(axis=1)
    finalists = np.argsort(-accuracy, kind="stable")[:FINALISTS]
    # fresh seeds on the test images
    images = drawn.normal(0, IMAGE_SD, cell.images).astype(np.float32)
    own = drawn.normal(0, PARTICULAR_SD, (CONFIGURATIONS + 1, cell.images)).astype(np.float32)

    def right(configuration: int, level: float) -> np.ndarray:
        chance = level + images + own[configuration] + drawn.normal(0, run_sd, (SEEDS, 1)).astype(np.float32)
        return (chance + drawn.standard_normal((SEEDS, cell.images), dtype=np.float32) > 0).astype(np.int8)

    baseline = right(CONFIGURATIONS, level)
    found = [statistics.crossed(right(int(f), better) - baseline) for f in finalists]
    alpha = statistics.alpha_of_look(1)
    adjusted = statistics.holm([c.interval.p_value for c in found])
    words = [
        decide(c.interval.mean, p, SEEDS, alpha) == "better" for c, p in zip(found, adjusted, strict=True)
    ]
    return words, found[0].components


def rates(task: tuple[Cell, int]) -> tuple[float, float, float]:
    """Shares of the studies that call any finalist better, and the first one; the promised power."""
    cell, studies = task
    run_sd = run_sd_for(cell.deviation)
    key = [round(100 * cell.deviation), cell.images, round(100 * cell.effect)]
    drawn = np.random.default_rng(key)
    said, parts = [], []
    for _ in range(studies):
        words, components = study(cell, drawn, run_sd)
        said.append(words)
        parts.append((components.seed, components.image, components.residual))
    mean = statistics.Components(*(float(v) for v in np.mean(parts, axis=0)))
    # Holm lets the larger of two p-values pass at alpha once the smaller has passed at alpha / 2
    promised = mean.power(cell.effect / 100, SEEDS, cell.images, alpha=0.05 / FINALISTS)
    every = np.array(said)
    return float(every.any(axis=1).mean()), float(every[:, 0].mean()), promised


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=int, default=2000, help="for each line")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    print(where())
    deviations, sizes = [0.0, 0.5, 1.0, 2.0, 5.0], [300, 1000, 3000, 10000]
    cells = [Cell(d, n, 0.0) for d, n in itertools.product(deviations, sizes)]
    cells += [Cell(d, n, e) for e in (1.0, 3.0) for d, n in itertools.product([0.5, 1.0, 2.0], sizes)]
    with ProcessPoolExecutor(options.processes) as pool:
        found = list(pool.map(rates, [(cell, options.studies) for cell in cells]))
    error = 100 * math.sqrt(0.05 * 0.95 / options.studies)
    print(
        f"\n{options.studies} studies a line, {SEEDS} seeds, {FINALISTS} finalists out of {CONFIGURATIONS}; "
        f"a share of 5 % has a standard error of {error:.1f} points.\n"
    )
    nothing = [(c, f) for c, f in zip(cells, found, strict=True) if c.effect == 0]
    print(
        table(
            ["deviation between seeds", *(f"{n:,} test images" for n in sizes)],
            [
                [f"{d:g} points", *(f"{100 * f[0]:.1f} %" for c, f in nothing if c.deviation == d)]
                for d in deviations
            ],
        )
    )
    print(f"\nWithout an effect: any finalist called better. The highest is "
          f"{100 * max(f[0] for _, f in nothing):.1f} %.\n")  # fmt: skip
    rows = [
        [f"{c.effect:g} points", f"{c.deviation:g} points", f"{c.images:,}", f"{100 * f[0]:.0f} %",
         f"{100 * f[1]:.0f} %", f"{100 * f[2]:.0f} %"]
        for c, f in zip(cells, found, strict=True)
        if c.effect
    ]  # fmt: skip
    print(
        table(["effect", "deviation", "test images", "any called better", "the first one", "promised"], rows)
    )


if __name__ == "__main__":
    main()
