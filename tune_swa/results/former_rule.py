"""Judge looks of older journals by the rule of their time, before there was a race.

Each finalist was compared with the baseline that was the best in one run of the search, by the crossed
interval and Holm's correction over the finalists, at a two-sided level that was halved with each look. Its
verdict is kept, although it asked less than today's rule: another baseline may be better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tune_swa.experiment.events import LookPlanned
from tune_swa.inference import statistics
from tune_swa.inference.looks import LEAST_SEEDS
from tune_swa.results.contrasts import (
    Contrast,
    Outcome,
    TestedArm,
    Verdict,
    compare_arms,
    compare_with_trunks,
)
from tune_swa.results.predictions import RunPredictions


def former_verdict(
    arms: Sequence[TestedArm],
    predictions: RunPredictions,
    look: LookPlanned,
    images: int,
    *,
    complete: bool,
) -> Verdict:
    """Compute the verdict of a look of an older journal."""
    alpha = statistics.alpha_of_look(look.look)
    tuned = next((arm for arm in arms if "baseline" in arm.roles), None)
    finalists = [arm for arm in arms if "finalist" in arm.roles]
    return Verdict(
        look=look.look,
        alpha=alpha,
        images=images,
        planned_seeds=len(look.seeds),
        arms=tuple(arms),
        against_plain=compare_finalists(finalists, tuned, predictions, alpha, complete=complete)
        if tuned
        else (),
        against_others=(),
        against_trunk=compare_with_trunks(arms, predictions, alpha),
        complete=complete,
        plan=None,
    )


def compare_finalists(
    finalists: Sequence[TestedArm],
    tuned: TestedArm,
    predictions: RunPredictions,
    alpha: float,
    *,
    complete: bool,
) -> tuple[Contrast, ...]:
    """Compare each finalist with the tuned baseline, as far as they can be, and classify the difference.

    Args:
        finalists: all that were planned: one that failed on every seed still counts for Holm.
        tuned: the best baseline of the search.
        predictions: predictions on the test images, by run.
        alpha: two-sided level of the look.
        complete: whether all runs of the look have ended.
    """
    tested = [c for arm in finalists if (c := compare_arms(arm, tuned, predictions, alpha)) is not None]
    failed = [1.0] * (len(finalists) - len(tested))
    adjusted = statistics.adjust_holm([*(c.p_value for c in tested), *failed])
    judged = []
    for c, p in zip(tested, adjusted, strict=False):
        outcome = (
            classify_difference(c.crossed.interval.mean, p, len(c.seeds), alpha) if complete else "unfinished"
        )
        judged.append(replace(c, p_value=p, outcome=outcome))
    return tuple(judged)


def classify_difference(mean: float, p_value: float, seeds: int, alpha: float) -> Outcome:
    """Classify a difference; this is the whole rule.

    Args:
        mean: difference in accuracy.
        p_value: two-sided, corrected for the number of finalists.
        seeds: that it rests on.
        alpha: of the look.
    """
    if seeds < LEAST_SEEDS:
        return "too few seeds"
    if p_value > alpha or mean == 0:
        return "not distinguishable"
    return "better" if mean > 0 else "worse"
