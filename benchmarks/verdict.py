"""How often does the verdict say "better", with an effect and without?

    python benchmarks/verdict.py
    python benchmarks/verdict.py --studies 200    # a quick look

Whole studies are made up and go through the very function that a search's verdict comes from:
sixteen configurations on validation images, the best of them as finalists, five fresh seeds for
these and the baseline, then `tune_swa.results.verdict.judge`. Two finalists without an effect, where the
question is how often any is called better. One finalist with an effect, where the question is whether
it is found as often as the power calculation promises, which speaks of a single test.

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

from tune_swa.inference import statistics
from tune_swa.journal import Kind, TrialState
from tune_swa.predictions import Said
from tune_swa.results.verdict import Arm, Contrast, judge

ACCURACY = 0.9
"""Of the baseline."""
IMAGE_SD, PARTICULAR_SD = 1.5, 0.3
"""Of images, and of what is particular to a configuration on an image, in units of the noise."""
SEEDS, CONFIGURATIONS, VALIDATION = 5, 16, 337


@dataclass(frozen=True)
class Cell:
    """One line of the table."""

    deviation: float
    """Of a run's accuracy between seeds, in points."""
    images: int
    effect: float
    """In points."""

    @property
    def finalists(self) -> int:
        return 1 if self.effect else 2


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
        mean = (weights * accuracies).sum()
        sd = math.sqrt((weights * (accuracies - mean) ** 2).sum())
        low, high = (middle, high) if 100 * sd < deviation else (low, middle)
    return high if deviation else 0.0


def arm(name: str, *roles: str) -> Arm:
    """A configuration whose runs are made up; only their names and seeds matter here."""
    kind: Kind = "baseline" if "baseline" in roles else "swa"
    runs = tuple(
        TrialState(f"{name}-{seed}", kind, "confirm", {}, seed, "", 0, "", None) for seed in range(SEEDS)
    )
    return Arm(name, kind, name, {}, roles, runs, missing=())


ARMS = [arm(f"swa-{k}", "finalist") for k in range(CONFIGURATIONS)]
TUNED = arm("baseline", "baseline")


def study(cell: Cell, drawn: np.random.Generator, run_sd: float) -> tuple[Contrast, ...]:
    """What the verdict says of each of the finalists."""
    whole = spread_of(run_sd)
    level = stats.norm.ppf(ACCURACY) * whole
    better = stats.norm.ppf(ACCURACY + cell.effect / 100) * whole
    # the search: one run of each configuration on the same validation images
    images = drawn.normal(0, IMAGE_SD, VALIDATION)
    own = drawn.normal(0, PARTICULAR_SD, (CONFIGURATIONS, VALIDATION))
    runs = drawn.normal(0, run_sd, (CONFIGURATIONS, 1))
    noise = drawn.normal(0, 1, (CONFIGURATIONS, VALIDATION))
    accuracy = (better + images + own + runs + noise > 0).mean(axis=1)
    finalists = [int(k) for k in np.argsort(-accuracy, kind="stable")[: cell.finalists]]
    # fresh seeds on the test images
    images = drawn.normal(0, IMAGE_SD, cell.images).astype(np.float32)
    label, nothing = np.ones(cell.images, dtype=np.int64), np.zeros(cell.images)
    said: dict[str, Said] = {}
    for which, height in [*((ARMS[k], better) for k in finalists), (TUNED, level)]:
        own = drawn.normal(0, PARTICULAR_SD, cell.images).astype(np.float32)
        for run in which.runs:
            chance = height + images + own + np.float32(drawn.normal(0, run_sd))
            right = chance + drawn.standard_normal(cell.images, dtype=np.float32) > 0
            said[run.name] = Said(label, right.astype(np.int64), *[nothing] * 4)
    alpha = statistics.alpha_of_look(1)
    return judge([ARMS[k] for k in finalists], TUNED, said, alpha, complete=True)


@dataclass(frozen=True)
class Rates:
    """Shares of the studies of a cell."""

    better: float
    """Call any finalist better."""
    worse: float
    promised: float
    """By the power calculation, of the variances that the studies have on average."""


def rates(task: tuple[Cell, int]) -> Rates:
    """Make up studies and count what is said of them."""
    cell, studies = task
    run_sd = run_sd_for(cell.deviation)
    key = [round(100 * cell.deviation), cell.images, round(100 * cell.effect)]
    drawn = np.random.default_rng(key)
    words, squares = [], []
    for _ in range(studies):
        found = study(cell, drawn, run_sd)
        words.append({c.words for c in found})
        squares.append(found[0].crossed.mean_squares)
    # of the mean squares, since components that are cut off at 0 are too large on average
    seed, image, residual = (float(v) for v in np.mean(squares, axis=0))
    parts = statistics.Components(
        max(0.0, seed - residual) / cell.images, max(0.0, image - residual) / SEEDS, residual
    )
    return Rates(
        better=sum("better" in w for w in words) / studies,
        worse=sum("worse" in w for w in words) / studies,
        promised=parts.power(cell.effect / 100, SEEDS, cell.images),
    )


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
        f"\n{options.studies} studies a cell, {SEEDS} seeds, the best of {CONFIGURATIONS} on {VALIDATION} "
        f"validation images; a share of 5 % has a standard error of {error:.1f} points.\n"
    )
    nothing = {(c.deviation, c.images): f for c, f in zip(cells, found, strict=True) if not c.effect}
    for what, shares in (
        ("better", {key: f.better for key, f in nothing.items()}),
        ("better or worse", {key: f.better + f.worse for key, f in nothing.items()}),
    ):
        print(f"Without an effect, two finalists: any called {what}. The highest is "
              f"{100 * max(shares.values()):.1f} %.\n")  # fmt: skip
        print(
            table(
                ["deviation between seeds", *(f"{n:,} test images" for n in sizes)],
                [[f"{d:g} points", *(f"{100 * shares[d, n]:.1f} %" for n in sizes)] for d in deviations],
            )
        )
        print()
    rows = []
    for c, f in zip(cells, found, strict=True):
        if c.effect:
            error = math.sqrt(f.promised * (1 - f.promised) / options.studies)
            rows.append(
                [f"{c.effect:g} points", f"{c.deviation:g} points", f"{c.images:,}",
                 f"{100 * f.better:.1f} %", f"{100 * f.worse:.1f} %", f"{100 * f.promised:.1f} %",
                 f"{(f.better + f.worse - f.promised) / error:+.1f}"]
            )  # fmt: skip
    print("With an effect, one finalist: how often it is called better or worse, what the power "
          "calculation promises of both together, and the difference in standard errors.\n")  # fmt: skip
    print(table(["effect", "deviation", "test images", "better", "worse", "promised", "errors"], rows))


if __name__ == "__main__":
    main()
