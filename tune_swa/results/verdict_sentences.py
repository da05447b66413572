"""Word the verdict of a confirmation on fresh seeds, in a few plain sentences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tune_swa.experiment.objective import Objective
from tune_swa.inference.looks import LEAST_SEEDS
from tune_swa.results.contrasts import Contrast, TestedArm, Verdict
from tune_swa.results.metric_format import MetricFormat

UNLIMITED_IMAGES = 10**9
"""Number of test images above which only the number of seeds limits what is found."""

_REPEATED_LOOKS = "repeated looks raise the chance of a false positive."


def verdict_text(found: Verdict) -> str:
    """The verdict in a few plain sentences, one per line."""
    leading = found.leading
    lines = [] if found.complete else [_progress_sentence(found)]
    if leading is not None:
        lines.append(finalist_sentence(leading, found))
    lines += [finalist_sentence(c, found) for c in found.against_plain if c is not leading]
    if leading is not None:
        lines.append(_beside_sentence(leading, found))
    elif found.complete:
        lines.append(_missing_comparison(found))
    lines += _plain_sentences(found)
    lines.append(_parts_sentence(found))
    lines += [_requirement_sentence(found), _failure_sentence(found), *_look_sentences(found)]
    return "\n".join([line for line in lines if line] + _advice_sentences(found))


def finalist_sentence(c: Contrast, found: Verdict) -> str:
    """One finalist against plain training: worded for SWA where all finalists agree, else for this one."""
    name, other = c.arm.label, _rival_name(c, found)
    swa = found.plan is None or found.agreed == c.outcome
    starts = {
        "better": f"SWA is better: {name} beats {other}" if swa else f"{name} is better than {other}",
        "worse": f"SWA is worse: {name} loses to {other}" if swa else f"{name} is worse than {other}",
        "too few seeds": f"No verdict with fewer than {LEAST_SEEDS} fresh seeds: {name} against {other}",
        "not tested": f"Not tested, because the finalist before it is not better: {name} against {other}",
        "unfinished": f"Preliminary: {name} against {other}",
    }
    start = starts.get(c.outcome or "", f"Not distinguishable: {name} and {other}")
    text = f"{start}, {_format_interval(c)}, on {len(c.seeds)} fresh seeds and {found.images} test images."
    if c.outcome == "not distinguishable" and c.interval.low > 0 and c.not_beaten:
        rivals = " and ".join(c.not_beaten)
        return f"{text} It is not clearly ahead of {rivals}, which may be the best plain training."
    return text


def _beside_sentence(c: Contrast, found: Verdict) -> str:
    """Say what the other metric did in the same runs; empty while runs are missing, and of older journals."""
    if c.beside is None or not found.complete or found.plan is None:
        return ""
    at, written = c.beside, MetricFormat(Objective(c.metric).other)
    ends = written.describe_interval(at.low, at.high)
    gain = written.describe_gain(at.mean)
    what = f"accuracy {gain}" if c.metric == "nll" else gain
    return (
        f"Description only: in the same runs {c.arm.label} against {c.against.label}, {what} "
        f"({100 * at.level:.4g} % interval {ends}); the verdict does not depend on it."
    )


def _rival_name(c: Contrast, found: Verdict) -> str:
    if found.plan is None:
        return f"the tuned {c.against.label}"
    return f"the best plain training found ({c.against.label})"


def _format_interval(c: Contrast) -> str:
    at = c.interval
    p_value = "< 0.0001" if c.p_value < 1e-4 else f"= {c.p_value:.3g}"
    written = MetricFormat(c.metric)
    ends = written.describe_interval(at.low, at.high)
    return f"{written.describe_gain(at.mean)} ({100 * at.level:.4g} % interval {ends}, p {p_value})"


def _progress_sentence(found: Verdict) -> str:
    """Say how far the look is, and the verdict that applies until it has ended."""
    planned = found.planned_seeds * len(found.arms)
    left = sum(len(arm.missing) for arm in found.arms)
    text = f"No verdict yet: {planned - left} of {planned} runs on fresh seeds have completed."
    before = next((v for v in reversed(found.earlier) if v.leading is not None), None)
    if before is None or before.leading is None:
        return text
    return (
        f"{text} Until all have, the verdict of look {before.look} applies: "
        f"{finalist_sentence(before.leading, before)}"
    )


def _missing_comparison(found: Verdict) -> str:
    """Why no finalist is compared with plain training."""
    best = found.best_plain
    if best is None:
        return (
            "No verdict: no baseline completed in the search."
            if found.plan is None
            else "No verdict: there is no plain training to compare with."
        )
    rival = f"the tuned {best.label}" if found.plan is None else best.label
    return f"No verdict: too few seeds have completed runs of both a finalist and {rival}."


# --------------------------------------------------------------- plain training and the test images


def _plain_sentences(found: Verdict) -> list[str]:
    """The contribution of SWA alone, the effect of a BN refresh, and better baselines of older journals."""
    best = found.best_plain
    lines = [
        f"Contribution of SWA alone: {c.arm.label} against {c.against.label}, {_format_interval(c)}."
        for c in found.against_trunk
        if c.against is not best
    ]
    if best is None:
        return lines
    if best.refreshed:
        gain = 100 * (np.mean(best.refreshed) - np.mean(best.test))
        name = "the tuned baseline" if found.plan is None else best.label
        change = f" by {gain:+.2f} points"
        if found.metric == "nll":
            lower = float(np.mean(best.test_values("nll")) - np.mean(best.refreshed_values("nll")))
            change = f": {MetricFormat('nll').describe_gain(lower)}"
        lines.append(f"A BN refresh alone changes {name}{change}.")
    if found.plan is None and best.runs:
        lines += [_better_baseline(arm, best) for arm in found.plain if arm.runs]
    return lines


def _better_baseline(arm: TestedArm, tuned: TestedArm) -> str:
    """Say that a baseline does better than the tuned one of an older journal; empty if it does not."""
    mean, chosen = np.mean(arm.test), np.mean(tuned.test)
    if mean <= chosen:
        return ""
    return (
        f"On the fresh seeds, {arm.label} has {100 * mean:.2f} %, more than the tuned baseline "
        f"({100 * chosen:.2f} %), which was chosen on a single seed: part of the difference to the tuned "
        "baseline is due to that choice."
    )


def _parts_sentence(found: Verdict) -> str:
    """Say that test and validation accuracy differ by more than chance, and the usual causes."""
    parts, arm = found.parts, found.parts_arm
    if parts is None or arm is None:
        return ""
    validation, test = 100 * np.mean(arm.validation), 100 * np.mean(arm.test)
    causes = (
        "validation images that are copies or near copies of training images, or test images of another kind"
        if parts.difference < 0
        else "easier test images, or test images that are copies of training images"
    )
    return (
        f"Test and validation accuracy differ by more than images and seeds explain: {arm.label} has "
        f"{validation:.2f} % on the validation images and {test:.2f} % on the test images. Usual causes: "
        f"{causes}."
    )


# ------------------------------------------------------------------------------------ how to read it


def _requirement_sentence(found: Verdict) -> str:
    """Say what a finalist has to do to be better, which the p-values allow for."""
    tests, plain = len(found.finalists), len(found.plain)
    if not found.against_plain:
        return ""
    if found.plan is None:
        if tests < 2:
            return ""
        return (
            f"The p-values against the tuned baseline are adjusted for {tests} finalists (Holm), the "
            "intervals are not."
        )
    if plain < 2 and tests < 2:
        return ""
    beaten = f"has to beat each of {plain} plain configurations" if plain > 1 else ""
    order = "is tested only if those before it are better" if tests > 1 else ""
    return f"To be better, a finalist {' and '.join(filter(None, (beaten, order)))}; p refers to that."


def _failure_sentence(found: Verdict) -> str:
    failed = [arm for arm in found.arms if arm.missing]
    if not found.complete or not failed:
        return ""
    names = "; ".join(f"{arm.label} on {_name_seeds(arm.missing)}" for arm in failed)
    return f"Runs that did not complete: {names}. Only seeds on which both sides completed are compared."


def _look_sentences(found: Verdict) -> list[str]:
    """Say which look it is, why no more followed, and the verdicts of earlier plans."""
    lines = []
    if found.plan is None and found.look > 1:
        lines.append(
            f"This is look {found.look} at the test images, so its level is {100 * found.alpha:.3g} %: "
            f"{_REPEATED_LOOKS}"
        )
    if len(found.looks) > 1:
        lines.append(_plan_sentence(found))
    if found.plan is not None and found.plan > 1:
        lines.append(
            f"This is plan {found.plan} of looks at these test images, so its levels are lower: "
            f"{_REPEATED_LOOKS}"
        )
    if found.complete:
        # of each plan before this one what it ended with; older looks were a plan each
        ends = {v.plan or f"look {v.look}": v for v in found.earlier if v.leading is not None}
        lines += [
            f"Look {v.look}, at a level of {100 * v.alpha:.3g} %: {finalist_sentence(v.leading, v)}"
            for plan, v in ends.items()
            if v.leading is not None and plan != found.plan
        ]
    return lines


def _plan_sentence(found: Verdict) -> str:
    """Say which looks were planned, and why they ended."""
    number = found.looks.index(found.planned_seeds) + 1
    numbers = ", ".join(map(str, found.looks[:-1])) + f" and {found.looks[-1]}"
    text = (
        f"This is look {number} of a plan, fixed beforehand, of looks at {numbers} seeds, which together "
        "have the level of a single look"
    )
    if found.planned_seeds == found.looks[-1] or found.stop not in ("success", "futility"):
        return f"{text}."
    if found.stop == "success":
        return f"{text}. No more seeds were trained, because the result is clear."
    return f"{text}. No more seeds were trained, because they could hardly change the result."


def _advice_sentences(found: Verdict) -> list[str]:
    """Say how many more seeds would help, and what the present ones can find, if nothing was found."""
    c = found.leading
    if c is None or c.outcome in ("better", "worse", "unfinished"):
        return []
    lines = []
    if c.outcome == "too few seeds" and found.planned_seeds >= LEAST_SEEDS:
        lines.append("More seeds (`tune-swa confirm --seeds`) are a further look, at half the level.")
    return lines + _power_sentences(c, found)


def _power_sentences(c: Contrast, found: Verdict) -> list[str]:
    """Say which difference the seeds and images could find, and what the observed one would take."""
    tests = len(found.finalists) if found.plan is None else 1
    alpha = found.alpha / max(1, tests)
    parts, seeds = c.crossed.components, len(c.seeds)
    least = parts.detectable_difference(seeds, found.images, alpha=alpha)
    if least == 0:
        return ["Its runs and the baseline's agree on every image, so power cannot be estimated."]
    written = MetricFormat(c.metric)
    spread = written.describe_size(float(np.std(c.by_seed, ddof=1)))
    lines = [
        f"Differences vary by {spread} between seeds; at that, {seeds} seeds and {found.images} images "
        f"detect a difference of {written.describe_size(least)} four times in five."
    ]
    mean = abs(c.interval.mean)
    if not mean:
        return lines
    start = f"If the true difference is {written.describe_size(mean)}, "
    needed = parts.seeds_needed(mean, found.images, alpha=alpha)
    if needed is not None and needed > seeds:
        lines.append(f"{start}about {needed} seeds are needed to detect it.")
    elif needed is None and parts.seeds_needed(mean, UNLIMITED_IMAGES, alpha=alpha) is not None:
        lines.append(f"{start}more seeds alone will not detect it: more test images are needed.")
    elif needed is None:
        lines.append(f"{start}it is too small to detect with any realistic number of seeds.")
    return lines


def _name_seeds(numbers: Sequence[int]) -> str:
    return f"seed{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
