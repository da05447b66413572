"""Rules for "SWA is better" on made-up studies: the chosen one, that of before, and others that were tried.

A study goes through all that chooses: sixteen SWA configurations and the baselines on one seed, the race,
the looks. What decides is the code of `tune_swa.inference`; here it works on the accuracies of all
studies of a cell at once. Only the first finalist is followed, since the others are tested only where the
first one is better.

Shapes: n studies, F finalists, P plain arms, S fresh seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from made_up_studies import SEARCHED, Cell, answer_variances, draw_accuracies, draw_runs
from scipy import special, stats

from tune_swa.inference.looks import ALPHA, plan_looks, spend_alpha, spend_levels
from tune_swa.inference.race import MOST_PLAIN, find_clearly_worse, plan_race
from tune_swa.inference.rule import LEAST_CHANCE, combine_p_values, predict_success
from tune_swa.inference.statistics import combine_mean_squares

ENTER, FINALISTS, VALIDATION = 8, 2, 337
"""SWA configurations that enter the race and win it, and validation images."""
RACE_SEEDS, SEEDS, MAX_SEEDS = 5, 5, 20
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
    accuracies = draw_accuracies(draw_runs(both, 1 + RACE_SEEDS, drawn), VALIDATION, drawn)
    single, race = accuracies[:, :, 0], accuracies[:, :, 1:]
    entered = _best(single[:, :SEARCHED], ENTER)
    if cell.trunks:  # a configuration's own settings without SWA
        own = number + np.broadcast_to(np.arange(SEARCHED), (studies, SEARCHED))
    else:
        own = drawn.integers(0, number, (studies, SEARCHED))
    in_race = np.zeros((studies, len(plain.level)), dtype=bool)
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
    runs = draw_runs(arms, seeds, drawn)
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


def compare_all(study: Study, seeds: int, which: slice = slice(1), *, paired: bool = True) -> Tests:
    """t-tests for new seeds and new images, from the accuracies, of `which` finalists.

    The mean squares of images and residual are those that so many images give but for chance, which is
    drawn: with 300 images and more they hardly vary.
    """
    images, drawn, studies = study.cell.images, study.drawn, len(study.tests)
    swa = study.tests[:, which, None, :seeds]
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
    p = special.stdtr(degrees, -mean / np.sqrt(variance))
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


def follow_looks(
    study: Study,
    looks: Sequence[int],
    tests: dict[int, Tests],
    levels: Sequence[float],
    least_chance: float = LEAST_CHANCE,
) -> tuple[Bools, Values]:
    """Whether each study ends with "better", and the number of seeds that it takes."""
    better = np.zeros(len(study.tests), dtype=bool)
    ended, used = better.copy(), np.full(len(better), looks[-1])
    for number, level in zip(looks, levels, strict=True):
        p_value, chance = rule_at(study, number, study.kept, tests[number], looks[-1], levels[-1])
        hit = ~ended & (p_value <= level)
        stops = hit | (~ended & (chance < least_chance))
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
    at = {number: compare_all(study, number) for number in looks[1:]}
    at[SEEDS] = now = compare_all(study, SEEDS, slice(FINALISTS))
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
    single = compare_all(study, SEEDS, slice(FINALISTS, 2 * FINALISTS)).p
    today = np.minimum(_at(single[:, 0], study.single), _at(single[:, 1], study.single))
    chosen = rule_at(study, SEEDS, study.kept, now, SEEDS, ALPHA)[0] <= ALPHA
    later = rule_at(study, 2 * SEEDS, study.kept, at[2 * SEEDS], 2 * SEEDS, ALPHA)[0]
    adaptive, used = follow_looks(study, looks, at, spend_alpha(looks))
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


def spend_otherwise(looks: Sequence[int]) -> dict[str, tuple[float, ...]]:
    """Levels of looks by several ways to spend the error."""
    t = np.array(looks) / looks[-1]
    spent = {
        "evenly": ALPHA * t,
        "squared": ALPHA * t**2,
        "as Pocock": ALPHA * np.log(1 + (np.e - 1) * t),
        "as O'Brien-Fleming": 2 * stats.norm.sf(stats.norm.isf(ALPHA / 2) / np.sqrt(t)),
    }
    return {name: spend_levels(tuple(t), tuple(error)) for name, error in spent.items()}


def study_spending(task: tuple[int, Cell, int]) -> dict[tuple[str, str, str], tuple[float, float]]:
    """Share called better and mean seeds, by looks, spending and the chance below which one gives up."""
    number, cell, studies = task
    study = search_and_race(cell, studies, np.random.default_rng([22, number]))
    train_fresh(study, MAX_SEEDS)
    at = {seeds: compare_all(study, seeds) for seeds in plan_looks(SEEDS, MAX_SEEDS)}
    ways = [(looks, way, 0.1) for looks in ((5, 20), (5, 10, 20), (5, 10, 15, 20)) for way in ("squared",)]
    ways += [((5, 10, 15, 20), way, 0.1) for way in ("evenly", "as Pocock", "as O'Brien-Fleming")]
    ways += [((5, 10, 15, 20), "squared", least) for least in (0.0, 0.05, 0.2)]
    found = {}
    for looks, way, least in ways:
        better, used = follow_looks(study, looks, at, spend_otherwise(looks)[way], least)
        name = ", ".join(map(str, looks)), way, f"{100 * least:.0f} %" if least else "never"
        found[name] = float(better.mean()), float(used.mean())
    return found
