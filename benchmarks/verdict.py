"""How often is SWA called better, with an effect and without, whatever the plain training is like?

    python benchmarks/verdict.py                  # 2,000 studies a cell
    python benchmarks/verdict.py --studies 200    # a quick look
    python benchmarks/verdict.py --part check     # studies image by image, through the rule itself

Whole studies are made up (`made_up_studies`) and go through the search, the race and the looks
(`verdict_rules`). "Better" is wrong where no SWA configuration is truly better than the best plain arm: a
baseline, or one of the configurations' own settings without SWA.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from common import table, where
from made_up_studies import DEVIATIONS, SEARCHED, SIZES, Arms, Cell, Images, list_cells
from verdict_rules import (
    ADAPTIVE,
    CHOSEN,
    ENTER,
    FINALISTS,
    RACE_SEEDS,
    SEEDS,
    TODAY,
    VALIDATION,
    study_cell,
    study_spending,
)

from tune_swa.inference.looks import plan_looks, spend_alpha
from tune_swa.inference.race import MOST_PLAIN, halve_race, keep_plain, plan_race
from tune_swa.inference.rule import judge_look

# ------------------------------------------------------------------------------------------ tables

Found = dict[Cell, dict[str, float]]


def _percent(values: Sequence[float], of: Callable[..., float] = max) -> str:
    return f"{100 * of(values):.1f} %" if values else ""


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def print_rules(found: Found, studies: int) -> None:
    """Every rule that was tried: how often it is wrong at most, and what it finds on average."""
    limit = 0.05 + 2 * math.sqrt(0.05 * 0.95 / studies)
    null = {c: f for c, f in found.items() if not c.gain}
    groups = list(dict.fromkeys(c.group for c in null))
    rows = []
    for rule in [name for name in next(iter(found.values())) if name != "seeds"]:
        wrong = [[f[rule] for c, f in null.items() if c.group == group] for group in groups]
        powers = [
            [f[rule] for c, f in found.items() if c.gain == gain and (c.pattern == "all equal") == equal]
            for gain, equal in itertools.product((1, 3), (True, False))
        ]
        above = sum(value > limit for values in wrong for value in values)
        rows.append([rule, *map(_percent, wrong), above, *(_percent(values, _mean) for values in powers)])
    print(
        f'\nEvery rule: the highest share of studies that are called "better" without an effect, the number '
        f"of the {len(null):,} cells above {100 * limit:.2f} % (5 % and two standard errors), and the mean "
        "share found with a gain, where all plain arms are equally good and where they differ.\n"
    )
    gains = [f"{g} point{'s' * (g > 1)}, {which}" for g in (1, 3) for which in ("equal", "differ")]
    print(table(["rule", *groups, "cells above", *gains], rows))


def print_wrong(found: Found) -> None:
    """Without an effect: the chosen rule, fixed and adaptive, by pattern and deviation."""
    null = {c: f for c, f in found.items() if not c.gain}
    print(
        '\nWithout an effect: share called "better", with 5 seeds / with 5 to 20. The highest of the four '
        "numbers of test images.\n"
    )
    rows = []
    lines = dict.fromkeys((c.group, c.pattern, c.gap) for c in null if c.group != "unequal deviations")
    for line in lines:
        cells = {c: f for c, f in null.items() if (c.group, c.pattern, c.gap) == line}
        shares = [_join_highest([f for c, f in cells.items() if c.deviation == d]) for d in DEVIATIONS]
        rows.append([line[0], line[1], f"{line[2]:g}", *shares])
    print(table(["plain training", "pattern", "gap", *(f"deviation {d:g}, in %" for d in DEVIATIONS)], rows))
    print("\nArms that vary by 0.5 or by 3 points between seeds, the same by number of test images.\n")
    unequal = {c: f for c, f in null.items() if c.group == "unequal deviations"}
    rows = []
    for which in dict.fromkeys(c.pattern.partition(",")[0] for c in unequal):
        cells = {c: f for c, f in unequal.items() if c.pattern.startswith(which)}
        rows.append([which, *(_join_highest([f for c, f in cells.items() if c.images == n]) for n in SIZES)])
    print(table(["", *(f"{n:,} images, in %" for n in SIZES)], rows))


def _join_highest(found: Sequence[dict[str, float]]) -> str:
    """Highest share in percent, with the fixed and with the adaptive number of seeds."""
    return " / ".join(f"{100 * max(f[rule] for f in found):.1f}" for rule in (CHOSEN, ADAPTIVE))


def print_power(found: Found) -> None:
    """With a gain: the rule of before, the chosen one and its adaptive number of seeds."""
    print(
        "\nWith a gain of every SWA configuration over the best plain arm: share called better, mean of the "
        "patterns with three and eight baselines. The rule of before also counts what it finds because its "
        "baseline was not the best.\n"
    )
    rows = []
    for gain, d, n in itertools.product((0.0, 1.0, 3.0), DEVIATIONS[1:4], SIZES):
        cells = [
            f
            for c, f in found.items()
            if (c.gain, c.deviation, c.images) == (gain, d, n) and c.group.endswith(" baselines")
        ]
        shares = [_percent([f[rule] for f in cells], _mean) for rule in (TODAY, CHOSEN, ADAPTIVE)]
        seeds = f"{_mean([f['seeds'] for f in cells]):.1f}"
        rows.append([f"{gain:g} points", f"{d:g} points", f"{n:,}", *shares, seeds])
    print(
        table(
            ["gain", "deviation", "test images", "before, 5 seeds", "chosen, 5 seeds", "chosen, 5 to 20",
             "mean seeds of 5 to 20"],
            rows,
        )
    )  # fmt: skip


def print_looks(studies: int, processes: int) -> None:
    """Ways to spend the error of a plan and to give up, on some of the cells."""
    chosen = [
        c
        for c in list_cells()
        if c.group == "3 baselines"
        and (c.pattern == "all equal" or (c.pattern, c.gap) in (("one best", 1.0), ("one best", 2.0)))
        and c.deviation in DEVIATIONS[1:4]
    ]
    with ProcessPoolExecutor(processes) as pool:
        found = list(pool.map(study_spending, [(k, c, studies) for k, c in enumerate(chosen)]))
    rows = []
    for way in found[0]:
        row: list[str] = list(way)
        for gain in (0.0, 1.0, 3.0):
            cells = [f[way] for c, f in zip(chosen, found, strict=True) if c.gain == gain]
            share, seeds = ([each[i] for each in cells] for i in (0, 1))
            row += [_percent(share, _mean if gain else max), f"{_mean(seeds):.1f}"]
        rows.append(row)
    print(
        "\nWays to spend the error over the looks and to give up, three baselines, all equal or one best by "
        "1 or 2 points, deviations of 0.5 to 2 points: the highest share without an effect, the mean shares "
        "with a gain, and mean numbers of seeds.\n"
    )
    header = ["looks", "spending", "gives up below", "no effect", "seeds", "1 point", "seeds", "3 points"]
    print(table([*header, "seeds"], rows))


# --------------------------------------------------------------------------- image by image


def study_images(cell: Cell, drawn: np.random.Generator) -> bool:
    """One study image by image, through `judge_look`: whether the first finalist is called better."""
    swa, plain = cell.swa_arms, cell.plain_arms
    number = len(plain.level)
    arms = Arms(np.concatenate([swa.level, plain.level]), np.concatenate([swa.run_sd, plain.run_sd]))
    validation = Images(VALIDATION, arms, drawn)

    def score_arms(which: Sequence[int], seeds: int) -> dict[str, dict[int, float]]:
        return {
            str(a): {s: float(validation.draw_answers(a, drawn.normal()).mean()) for s in range(seeds)}
            for a in which
        }

    single = score_arms(range(SEARCHED), 1)
    entered = halve_race(single, ENTER)
    scores = score_arms([int(a) for a in entered], RACE_SEEDS)
    for planned in plan_race(ENTER, number, RACE_SEEDS, finalists=FINALISTS):
        so_far = {a: {s: scores[a][s] for s in range(planned.seeds)} for a in entered}
        entered = halve_race(so_far, max(FINALISTS, planned.swa // 2))
    finalist = int(entered[0])
    own = SEARCHED + int(drawn.integers(0, number))
    kept = keep_plain(score_arms(range(SEARCHED, SEARCHED + number), RACE_SEEDS), MOST_PLAIN, VALIDATION)
    tested = sorted({int(a) for a in kept} | {own})
    test = Images(cell.images, arms, drawn)
    correct = {
        str(a): {s: test.draw_answers(a, drawn.normal()) for s in range(SEEDS)} for a in (finalist, *tested)
    }
    plan = plan_looks(SEEDS, SEEDS)
    names = [str(a) for a in tested]
    found = judge_look(correct, [str(finalist)], names, look=1, looks=plan, levels=spend_alpha(plan))
    return found.finalists[0].outcome == "better"


def check_cell(task: tuple[int, Cell, int]) -> float:
    """Share of studies image by image that are called better."""
    number, cell, studies = task
    drawn = np.random.default_rng([21, number])
    return _mean([study_images(cell, drawn) for _ in range(studies)])


def print_check(studies: int, processes: int) -> None:
    """The same cells image by image, through the rule itself, and from accuracies."""
    equal = ("3 baselines", "8 baselines")
    cells = [
        c
        for c in list_cells()
        if c.gap == 1.0
        and c.images in (300, 1000)
        and (
            (c.group in equal and c.pattern == "one best" and c.deviation in (0.5, 2.0, 5.0))
            or (c.pattern == "SWA noisier, one best" and len(c.baselines) == 3)
        )
    ]
    tasks = [(k, cell, studies) for k, cell in enumerate(cells)]
    with ProcessPoolExecutor(processes) as pool:
        by_image = list(pool.map(check_cell, tasks))
        by_run = [f[CHOSEN] for f in pool.map(study_cell, tasks)]
    rows = []
    for c, first, second in zip(cells, by_image, by_run, strict=True):
        p = (first + second) / 2
        error = math.sqrt(max(2 * p * (1 - p), 1e-12) / studies)
        rows.append(
            [c.group, f"{c.gain:g} points", _deviation(c), f"{c.images:,}",
             f"{100 * first:.1f} %", f"{100 * second:.1f} %", f"{(first - second) / error:+.1f}"]
        )  # fmt: skip
    print(
        f"\n{studies:,} studies a cell, one best plain arm 1 point above the others, 5 seeds: share called "
        "better image by image through `judge_look`, from accuracies, and the difference in standard "
        "errors.\n"
    )
    print(
        table(
            ["plain training", "gain", "deviation", "test images", "image by image", "accuracies", "errors"],
            rows,
        )
    )


def _deviation(cell: Cell) -> str:
    if cell.swa_deviation is None:
        return f"{cell.deviation:g} points"
    return f"SWA {cell.swa_deviation:g}, plain {cell.baseline_deviations[0]:g} points"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=int, default=2000, help="for each cell")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--part", choices=["all", "rules", "looks", "check"], default="all")
    options = parser.parse_args()
    print(where())
    start = time.monotonic()
    if options.part in ("all", "rules"):
        cells = list(list_cells())
        tasks = [(k, cell, options.studies) for k, cell in enumerate(cells)]
        with ProcessPoolExecutor(options.processes) as pool:
            found = dict(zip(cells, pool.map(study_cell, tasks, chunksize=8), strict=True))
        error = 100 * math.sqrt(0.05 * 0.95 / options.studies)
        print(
            f"\n{options.studies:,} studies in each of {len(cells):,} cells: the best of {SEARCHED} "
            f"configurations on {VALIDATION} validation images, {ENTER} of them and the plain arms in a "
            f"race on {RACE_SEEDS} seeds. A share of 5 % has a standard error of {error:.1f} points."
        )
        print_rules(found, options.studies)
        print_wrong(found)
        print_power(found)
    if options.part in ("all", "looks"):
        print_looks(options.studies, options.processes)
    if options.part in ("all", "check"):
        print_check(min(options.studies, 500), options.processes)
    print(f"\n{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
