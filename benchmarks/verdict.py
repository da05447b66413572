"""How often is SWA called better, with an effect and without, whatever the plain training is like?

    python benchmarks/verdict.py                  # 2,000 studies a cell
    python benchmarks/verdict.py --studies 200    # a quick look
    python benchmarks/verdict.py --part check     # studies image by image, through the rule itself

Whole studies are made up (`made_up_studies`) and go through all that chooses: sixteen SWA configurations
and the baselines on one seed, the race, the looks. What decides is the code of `tune_swa.inference`; here
it works on the accuracies of all studies of a cell at once. "Better" is wrong where no SWA configuration
is truly better than the best plain arm: a baseline, or one of the configurations' own settings without
SWA.

Only the first finalist is followed, since the others are tested only where the first one is better.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from common import table, where
from made_up_studies import (
    Arms,
    Cell,
    Images,
    answer_variances,
    draw_accuracies,
    draw_runs,
    plain_patterns,
)
from scipy import stats

from tune_swa.inference.looks import ALPHA, plan_looks, spend_alpha
from tune_swa.inference.race import MOST_PLAIN, find_clearly_worse, halve_race, keep_plain, plan_race
from tune_swa.inference.rule import (
    LEAST_CHANCE,
    OTHERS_FACTOR,
    combine_p_values,
    judge_look,
    predict_success,
)
from tune_swa.inference.statistics import combine_mean_squares

SEARCHED, ENTER, FINALISTS, VALIDATION = 16, 8, 2, 337
RACE_SEEDS, SEEDS, MAX_SEEDS = 5, 5, 20
DEVIATIONS, SIZES, GAPS = (0.0, 0.5, 1.0, 2.0, 5.0), (300, 1000, 3000, 10000), (0.5, 1.0, 2.0)
Bools = Any
Values = Any


# ----------------------------------------------------------------------------- search and race


@dataclass
class Study:
    """All studies of a cell: n studies, F finalists, P plain arms, S fresh seeds."""

    cell: Cell
    drawn: np.random.Generator
    finalists: Values
    """[n, F], of the race, best first; then those of the search's single runs."""
    kept: Bools
    """[n, P], plain arms that go on to the test images."""
    half: Bools
    """[n, P], the same where the race also halves the plain side."""
    single: Values
    """[n], the baseline with the best single run."""
    plain_validation: Values
    """[n, P], sum over the race's seeds."""
    tests: Values = field(init=False)
    """[n, 2 F + P, S], test accuracies on fresh seeds: finalists, then plain arms."""
    validation: Values = field(init=False)
    """[n, P, S], validation accuracies of the plain arms on these seeds."""


def search_and_race(cell: Cell, studies: int, drawn: np.random.Generator) -> Study:
    """Single runs of all, then the race."""
    swa, plain = cell.swa_arms, cell.plain_arms
    number = len(cell.baselines)
    both = swa.join(plain, studies)
    accuracies = draw_accuracies(draw_runs(both, studies, 1 + RACE_SEEDS, drawn), VALIDATION, drawn)
    single, race = accuracies[:, :, 0], accuracies[:, :, 1:]
    entered = _best(single[:, :SEARCHED], ENTER)
    if cell.trunks:  # a configuration's own settings without SWA
        own = number + np.broadcast_to(np.arange(SEARCHED), (studies, SEARCHED))
    else:
        own = drawn.integers(0, number, (studies, SEARCHED))
    in_race = np.zeros((studies, len(plain.accuracy)), dtype=bool)
    in_race[:, :number] = True
    np.put_along_axis(in_race, np.take_along_axis(own, entered, 1), True, 1)
    plain_race = np.where(in_race[:, :, None], race[:, SEARCHED:], -np.inf)
    half = plain_race
    for planned in plan_race(ENTER, int(in_race[0].sum()), RACE_SEEDS, finalists=FINALISTS):
        means = np.take_along_axis(race, entered[:, :, None], 1)[:, :, : planned.seeds].mean(2)
        entered = np.take_along_axis(entered, _best(means, max(FINALISTS, planned.swa // 2)), 1)
        plain_race = _leave(plain_race, planned.seeds, max(MOST_PLAIN, -(-planned.plain // 2)))
        half = _leave(half, planned.seeds, 4)
    finalists = entered[:, :FINALISTS]
    means = plain_race.mean(2)
    with np.errstate(invalid="ignore"):
        worse = find_clearly_worse(means, plain_race.var(2, ddof=1), RACE_SEEDS, VALIDATION)
    kept, halved = np.isfinite(means) & ~worse, np.isfinite(half.mean(2))
    for mask in (kept, halved):
        np.put_along_axis(mask, np.take_along_axis(own, finalists, 1), True, 1)
    return Study(
        cell,
        drawn,
        np.concatenate([finalists, _best(single[:, :SEARCHED], FINALISTS)], 1),
        kept,
        halved,
        single[:, SEARCHED : SEARCHED + number].argmax(1),
        race[:, SEARCHED:].sum(2),
    )


def _best(values: Values, keep: int) -> Values:
    """Indices of the best in each row, best first."""
    return np.argsort(-values, 1, kind="stable")[:, :keep]


def _leave(race: Values, seeds: int, keep: int) -> Values:
    """The race [n, P, R] with -inf for all but the best so far."""
    means = race[:, :, :seeds].mean(2)
    limit = -np.sort(-means, 1)[:, min(keep, means.shape[1]) - 1]
    return np.where((means >= limit[:, None])[:, :, None], race, -np.inf)


def train_fresh(study: Study, seeds: int) -> None:
    """Draw the fresh seeds after the race."""
    cell, drawn, studies = study.cell, study.drawn, len(study.finalists)
    arms = cell.swa_arms.pick(study.finalists).join(cell.plain_arms, studies)
    runs = draw_runs(arms, studies, seeds, drawn)
    study.tests = draw_accuracies(runs, cell.images, drawn)
    study.validation = draw_accuracies(runs[:, 2 * FINALISTS :], VALIDATION, drawn)


# ------------------------------------------------------------------------------------- statistics


@dataclass
class Tests:
    """Every finalist of a kind against every plain arm at some number of seeds: [n, F, P]."""

    mean: Values
    variance: Values
    p: Values
    """One-sided, of "better"."""
    shrinking: Values


def compare_all(study: Study, seeds: int, first: int = 0, *, paired: bool = True) -> Tests:
    """t-tests for new seeds and new images, from the accuracies.

    The mean squares of images and residual are those that so many images give but for chance, which is
    drawn: with 300 images and more they hardly vary.
    """
    images, drawn, studies = study.cell.images, study.drawn, len(study.tests)
    swa = study.tests[:, first : first + FINALISTS, None, :seeds]
    plain = study.tests[:, None, 2 * FINALISTS :, :seeds]
    mean = swa.mean(3) - plain.mean(3)
    _, of_arm, rest = answer_variances()
    freedom = ((seeds - 1) * (images - 1), images - 1)
    chance = [drawn.chisquare(df, (studies, 1, 1)) / df for df in freedom]
    ms_residual = 2 * rest * chance[0]
    ms_image = (2 * rest + seeds * 2 * of_arm) * chance[1]
    if paired:
        ms_seed = images * (swa - plain).var(3, ddof=1)
        variance, degrees = combine_mean_squares(ms_seed, ms_image, ms_residual, seeds, images)
    else:  # Welch: the two arms' variances by themselves, whose degrees of freedom add up
        one, other = swa.var(3, ddof=1), plain.var(3, ddof=1)
        ms_seed = images * (one + other)
        variance, degrees = combine_mean_squares(ms_seed, ms_image, ms_residual, seeds, images)
        of_seeds = (one + other) ** 2 / (one**2 + other**2)
        degrees = np.where(ms_seed >= ms_residual, degrees * of_seeds, degrees)
    p = stats.t.sf(mean / np.sqrt(variance), degrees)
    return Tests(mean, variance, p, np.maximum(ms_seed, ms_residual) / images)


def _at(values: Values, which: Values) -> Values:
    """The values [n, P] of one plain arm in each study."""
    return np.take_along_axis(values, which[:, None], 1)[:, 0]


def rule_at(study: Study, seeds: int, kept: Bools, tests: Tests, last: int, level: float) -> tuple[Any, Any]:
    """The rule's p-value of the first finalist, and its chance to succeed at the last look."""
    means = np.where(kept, study.tests[:, 2 * FINALISTS :, :seeds].mean(2), -np.inf)
    best = means.argmax(1)
    others = np.where(kept, tests.p[:, 0], 0.0)
    np.put_along_axis(others, best[:, None], 0.0, 1)
    parts = [_at(x[:, 0], best) for x in (tests.mean, tests.variance, tests.shrinking)]
    chance = predict_success(*parts, seeds, last, level)
    return combine_p_values(_at(tests.p[:, 0], best), others), chance


def follow_looks(study: Study, looks: Sequence[int], tests: dict[int, Tests]) -> tuple[Bools, Values]:
    """Whether each study ends with "better", and the number of seeds that it takes."""
    levels = spend_alpha(looks)
    better = np.zeros(len(study.tests), dtype=bool)
    ended, used = better.copy(), np.full(len(better), looks[-1])
    for number, level in zip(looks, levels, strict=True):
        p_value, chance = rule_at(study, number, study.kept, tests[number], looks[-1], levels[-1])
        hit = ~ended & (p_value <= level)
        stops = hit | (~ended & (chance < LEAST_CHANCE))
        better, ended = better | hit, ended | stops
        used[stops] = number
    return better, used


# -------------------------------------------------------------------------------- rules compared

TODAY = "before: the baseline of the best single run, Holm over two finalists"
CHOSEN = "**chosen**: the best plain arm at 2.5 %, all others at 5 %"
ADAPTIVE = f"**chosen**, {SEEDS} to {MAX_SEEDS} seeds"
FURTHER = f"chosen, and if not better a further look at {2 * SEEDS} seeds"


def apply_rules(study: Study) -> dict[str, float]:
    """Share of studies that each rule calls better, by its name; and mean numbers of seeds."""
    looks = plan_looks(SEEDS, MAX_SEEDS)
    at = {number: compare_all(study, number) for number in looks}
    now = at[SEEDS]
    p = now.p[:, 0]
    test = np.where(study.kept, study.tests[:, 2 * FINALISTS :, :SEEDS].mean(2), -np.inf)
    validation = study.plain_validation + study.validation[:, :, :SEEDS].sum(2)
    validation = np.where(study.kept, validation, -np.inf).argmax(1)
    of_all = np.where(study.kept, p, 0.0).max(1)
    ahead = (np.where(study.kept, now.mean[:, 0], 1.0) > 0).all(1)
    holm = [
        np.maximum(_at(now.p[:, f], test.argmax(1)), np.where(study.kept, now.p[:, f], 0.0).max(1) / 2)
        for f in range(FINALISTS)
    ]
    single = compare_all(study, SEEDS, FINALISTS).p
    today = np.minimum(_at(single[:, 0], study.single), _at(single[:, 1], study.single))
    chosen = rule_at(study, SEEDS, study.kept, now, SEEDS, ALPHA)[0] <= ALPHA
    later = rule_at(study, 2 * SEEDS, study.kept, at[2 * SEEDS], 2 * SEEDS, ALPHA)[0]
    adaptive, used = follow_looks(study, looks, at)
    welch = rule_at(study, SEEDS, study.kept, compare_all(study, SEEDS, paired=False), SEEDS, ALPHA)[0]
    found = {
        TODAY: today <= ALPHA / 2,
        "the best by mean validation accuracy of all fresh seeds, 2.5 %": _at(p, validation) <= ALPHA,
        "the same, and ahead of all others": (_at(p, validation) <= ALPHA) & ahead,
        "the best by mean test accuracy, 2.5 %": _at(p, test.argmax(1)) <= ALPHA,
        "all at 2.5 %": of_all <= ALPHA,
        "all at 5 %": of_all <= 2 * ALPHA,
        CHOSEN: chosen,
        "chosen, Holm over two finalists": np.minimum(*holm) <= ALPHA / 2,
        "chosen, unpaired (Welch)": welch <= ALPHA,
        "chosen, the race leaving four plain arms": rule_at(study, SEEDS, study.half, now, SEEDS, ALPHA)[0]
        <= ALPHA,
        ADAPTIVE: adaptive,
        FURTHER: chosen | (later <= spend_alpha((2 * SEEDS,), 2)[0]),
    }
    return {name: float(np.mean(hit)) for name, hit in found.items()} | {"seeds": float(used.mean())}


def study_cell(task: tuple[int, Cell, int]) -> dict[str, float]:
    """All rules on the studies of one cell, drawn by the cell's number."""
    number, cell, studies = task
    study = search_and_race(cell, studies, np.random.default_rng([20, number]))
    train_fresh(study, MAX_SEEDS)
    return apply_rules(study)


# ------------------------------------------------------------------------------------------ cells


def list_cells() -> Iterator[Cell]:
    """All cells without an effect, then those with a gain."""
    for gain, deviations in ((0.0, DEVIATIONS), (1.0, DEVIATIONS[1:4]), (3.0, DEVIATIONS[1:4])):
        for deviation, images in itertools.product(deviations, SIZES):
            for number in (3, 8):
                for pattern, gap, baselines in plain_patterns(number, GAPS):
                    yield Cell(f"{number} baselines", pattern, gap, images, deviation, gain, baselines)
            yield from _continuous(images, deviation, gain)
    yield from _unequal()


def _continuous(images: int, deviation: float, gain: float) -> Iterator[Cell]:
    """One or two baselines of a continuous rate, and sixteen configurations with rates of their own."""
    best, lower = (0.0,) * SEARCHED, (0.0,) * (SEARCHED // 2)
    for number, gap in itertools.product((1, 2), GAPS):
        group, weak = "1 or 2 baselines, own rates", (-gap,) * number
        mixed = lower + (-gap,) * (SEARCHED // 2)
        yield Cell(group, "own trunks best", gap, images, deviation, gain, weak, best)
        yield Cell(
            group, "a baseline best", gap, images, deviation, gain, (0.0, *weak[1:]), (-gap,) * SEARCHED
        )
        yield Cell(group, "half of the trunks best", gap, images, deviation, gain, weak, mixed)
        if not gain:
            yield Cell(group, "SWA as its trunk", gap, images, deviation, gain, weak, mixed, mixed)


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
        shares = [
            " / ".join(
                f"{100 * max(f[rule] for c, f in cells.items() if c.deviation == d):.1f}"
                for rule in (CHOSEN, ADAPTIVE)
            )
            for d in DEVIATIONS
        ]
        rows.append([line[0], line[1], f"{line[2]:g}", *shares])
    print(table(["plain training", "pattern", "gap", *(f"deviation {d:g}, in %" for d in DEVIATIONS)], rows))
    print("\nArms that vary by 0.5 or by 3 points between seeds, the same by number of test images.\n")
    unequal = {c: f for c, f in null.items() if c.group == "unequal deviations"}
    rows = []
    for which in dict.fromkeys(c.pattern.partition(",")[0] for c in unequal):
        cells = {c: f for c, f in unequal.items() if c.pattern.startswith(which)}
        rows.append(
            [which]
            + [
                " / ".join(
                    f"{100 * max(f[rule] for c, f in cells.items() if c.images == n):.1f}"
                    for rule in (CHOSEN, ADAPTIVE)
                )
                for n in SIZES
            ]
        )
    print(table(["", *(f"{n:,} images, in %" for n in SIZES)], rows))


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


# --------------------------------------------------------------------------- image by image


def study_images(cell: Cell, drawn: np.random.Generator) -> bool:
    """One study image by image, through `judge_look`: whether the first finalist is called better."""
    swa, plain = cell.swa_arms, cell.plain_arms
    number = len(plain.accuracy)
    arms = Arms(
        np.concatenate([swa.accuracy, plain.accuracy]), np.concatenate([swa.deviation, plain.deviation])
    )
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
    return found.finalists[0].words == "better"


def check_cell(task: tuple[int, Cell, int]) -> float:
    """Share of studies image by image that are called better."""
    number, cell, studies = task
    drawn = np.random.default_rng([21, number])
    return _mean([study_images(cell, drawn) for _ in range(studies)])


def print_check(studies: int, processes: int) -> None:
    """The same cells image by image, through the rule itself, and from accuracies."""
    cells = [
        c
        for c in list_cells()
        if (c.group, c.gap) in (("3 baselines", 1.0), ("8 baselines", 1.0))
        and c.pattern == "one best"
        and c.images in (300, 1000)
        and c.deviation in (0.5, 2.0, 5.0)
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
            [c.group, f"{c.gain:g} points", f"{c.deviation:g} points", f"{c.images:,}",
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=int, default=2000, help="for each cell")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--part", choices=["all", "rules", "check"], default="all")
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
            f"configurations on {VALIDATION} validation images, {ENTER} of them and plain arms in a race "
            f"on {RACE_SEEDS} seeds. A share of 5 % has a standard error of {error:.1f} points; OTHERS_FACTOR "
            f"is {OTHERS_FACTOR:g}, LEAST_CHANCE {LEAST_CHANCE:g}."
        )
        print_rules(found, options.studies)
        print_wrong(found)
        print_power(found)
    if options.part in ("all", "check"):
        print_check(min(options.studies, 1000), options.processes)
    print(f"\n{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
