"""What is said of fresh seeds, in plain sentences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tune_swa.inference.looks import LEAST_SEEDS
from tune_swa.results.contrasts import Arm, Contrast, Verdict

UNLIMITED_IMAGES = 10**9
"""Whether images or seeds are what limits: so many images are no limit."""


def verdict_text(found: Verdict) -> str:
    """The verdict in a few plain sentences, one a line."""
    leading = found.leading
    others = [c for c in found.against_plain if c is not leading]
    lines = [] if found.complete else [_under_way(found)]
    lines += [sentence(c, found) for c in ([leading] if leading else []) + others]
    if leading is None and found.complete:
        lines.append(_nothing(found))
    best = found.best_plain
    for c in found.against_trunk:
        if c.against is not best:
            lines.append(f"SWA's part alone: {_measured(c, c.against.label)}.")
    if best is not None and best.refreshed:
        gain = 100 * (np.mean(best.refreshed) - np.mean(best.test))
        which = "the tuned baseline" if found.plan is None else best.label
        lines.append(f"A BN refresh alone changes {which} by {gain:+.2f} points.")
    if found.plan is None and best is not None and best.runs:
        lines += [_better_plain(arm, best) for arm in found.plain if arm.runs]
    lines.append(_not_borne_out(found))
    return "\n".join([line for line in lines if line] + _advice(found))


def sentence(c: Contrast, found: Verdict) -> str:
    """One finalist in outcome: of SWA where all finalists agree, else of this configuration."""
    name, other = c.arm.label, _rival(c, found)
    swa = found.plan is None or found.agreed == c.outcome
    if c.outcome == "better":
        start = f"SWA is better: {name} beats {other}" if swa else f"{name} is better than {other}"
    elif c.outcome == "worse":
        start = f"SWA is worse: {name} loses against {other}" if swa else f"{name} is worse than {other}"
    elif c.outcome == "too few seeds":
        few = f"{len(c.seeds)} fresh seeds are too few ({LEAST_SEEDS} or more)"
        start = f"No verdict, {few}: {name} against {other}"
    elif c.outcome == "not tested":
        start = f"Not tested, since the finalist before it is not better: {name} against {other}"
    elif c.outcome == "unfinished":
        start = f"So far: {name} against {other}"
    else:
        start = f"Not distinguishable: {name} and {other}"
    text = f"{start}, {_numbers(c)}, on {len(c.seeds)} fresh seeds and {found.images} test images."
    if c.outcome == "not distinguishable" and c.interval.low > 0 and c.not_beaten:
        return f"{text} It is not clearly ahead of {' and '.join(c.not_beaten)}, which may be the best."
    return text


def _rival(c: Contrast, found: Verdict) -> str:
    if found.plan is None:
        return f"the tuned {c.against.label}"
    return f"the best plain training that was found ({c.against.label})"


def _better_plain(arm: Arm, tuned: Arm) -> str:
    """What to say of a baseline that does better than the tuned one of an older journal."""
    mean, chosen = np.mean(arm.test), np.mean(tuned.test)
    if mean <= chosen:
        return ""
    return (
        f"The {arm.label} does better on the fresh seeds ({100 * mean:.2f} %) than the tuned one "
        f"({100 * chosen:.2f} %), which a single seed chose: part of the difference to the tuned one is that "
        "choice."
    )


def _not_borne_out(found: Verdict) -> str:
    """Whether the test images say something else than the validation images, and what that usually means."""
    parts, arm = found.parts, found.parts_arm
    if parts is None or arm is None:
        return ""
    validation, test = 100 * np.mean(arm.validation), 100 * np.mean(arm.test)
    usually = (
        "usually some validation images are copies or near copies of training images, or the test images are "
        "of another kind"
        if parts.difference < 0
        else "usually the test images are easier, or copies of training images"
    )
    return (
        f"The test images do not bear the validation accuracy out: {arm.label} has {validation:.2f} % there "
        f"and {test:.2f} % here, which is more than images and seeds explain; {usually}."
    )


def _measured(c: Contrast, against: str) -> str:
    return f"{c.arm.label} against {against}, {_numbers(c)}"


def _numbers(c: Contrast) -> str:
    at = c.interval
    return (
        f"{100 * at.mean:+.2f} points ({100 * at.level:.4g} % interval {100 * at.low:+.2f} to "
        f"{100 * at.high:+.2f}, p {_p(c.p_value)})"
    )


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"= {value:.3g}"


def _under_way(found: Verdict) -> str:
    """That a look is under way, and what stands until it has ended."""
    planned = found.planned_seeds * len(found.arms)
    left = sum(len(arm.missing) for arm in found.arms)
    text = f"No verdict yet: {planned - left} of {planned} runs on fresh seeds have completed."
    before = next((v for v in reversed(found.earlier) if v.leading is not None), None)
    if before is None or before.leading is None:
        return text
    return (
        f"{text} Until the others have, that of look {before.look} stands: {sentence(before.leading, before)}"
    )


def _nothing(found: Verdict) -> str:
    """Why no finalist stands against plain training."""
    best = found.best_plain
    if found.plan is None and best is None:
        return "No verdict: no baseline completed in the search, so there is none to compare with."
    if best is None:
        return "No verdict: there is no plain training to compare with."
    rival = f"the tuned {best.label}" if found.plan is None else best.label
    return (
        "No verdict: too few runs on fresh seeds have completed on the same seeds as those of " + rival + "."
    )


# ------------------------------------------------------------------------- how it is to be read


def _advice(found: Verdict) -> list[str]:
    lines = [line for line in (_corrections(found), _failures(found)) if line]
    lines += _looks(found)
    c = found.leading
    if c is None or c.outcome in ("better", "worse", "unfinished"):
        return lines
    if c.outcome == "too few seeds" and found.planned_seeds >= LEAST_SEEDS:
        lines.append("More seeds (`tune-swa confirm --seeds`) are a further look, with half the level.")
    return lines + _power(c, found)


def _corrections(found: Verdict) -> str:
    """What the p-values allow for."""
    tests, plain = len(found.finalists), len(found.plain)
    if not found.against_plain:
        return ""
    if found.plan is None:
        if tests < 2:
            return ""
        return (
            f"The p-values against the tuned baseline allow for {tests} finalists (Holm), the intervals do "
            "not."
        )
    if plain < 2 and tests < 2:
        return ""
    beaten = f"has to beat each of {plain} plain configurations" if plain > 1 else ""
    turn = "is tested after those before it are better" if tests > 1 else ""
    return f"To be called better, a finalist {' and '.join(filter(None, (beaten, turn)))}; p is of that."


def _failures(found: Verdict) -> str:
    failed = [arm for arm in found.arms if arm.missing]
    if not found.complete or not failed:
        return ""
    which = "; ".join(f"{arm.label} on {_seeds(arm.missing)}" for arm in failed)
    return f"Runs that did not complete: {which}. A pair counts where both did."


def _looks(found: Verdict) -> list[str]:
    """Which look it is, why more did not follow, and what those before said."""
    lines = []
    if found.plan is None and found.look > 1:
        lines.append(
            f"This is look {found.look} at the test images, so its level is {100 * found.alpha:.3g} %: the "
            "more often one looks, the more often chance looks like an effect."
        )
    if len(found.looks) > 1:
        lines.append(_plan(found))
    if found.plan is not None and found.plan > 1:
        lines.append(
            f"It belongs to plan {found.plan} of looks at these test images, so its levels are lower: the "
            "more often one looks, the more often chance looks like an effect."
        )
    if found.complete:
        # of each plan before this one what it ended with; older looks were a plan each
        ends = {v.plan or f"look {v.look}": v for v in found.earlier if v.leading is not None}
        lines += [
            f"Look {v.look} said, at a level of {100 * v.alpha:.3g} %: {sentence(v.leading, v)}"
            for plan, v in ends.items()
            if v.leading is not None and plan != found.plan
        ]
    return lines


def _plan(found: Verdict) -> str:
    """What was planned, and why it ended."""
    number = found.looks.index(found.planned_seeds) + 1
    numbers = ", ".join(map(str, found.looks[:-1])) + f" and {found.looks[-1]}"
    text = (
        f"This is look {number} of a plan, fixed beforehand, of looks at {numbers} seeds, whose levels "
        "together are that of one"
    )
    last = found.planned_seeds == found.looks[-1]
    if found.stop == "success" and not last:
        return f"{text}; no more seeds were trained, since the answer is clear."
    if found.stop == "futility" and not last:
        return f"{text}; no more seeds were trained, since they could hardly change the answer."
    return f"{text}."


def _power(c: Contrast, found: Verdict) -> list[str]:
    """What the seeds and images could find, and what the observed difference would take."""
    tests = len(found.finalists) if found.plan is None else 1
    alpha = found.alpha / max(1, tests)
    parts, seeds = c.crossed.components, len(c.seeds)
    least = parts.detectable_difference(seeds, found.images, alpha=alpha)
    if least == 0:
        return ["Its runs and the baseline's agree on every image, so there is no variance to go by."]
    lines = [
        f"Differences vary by {100 * np.std(c.by_seed, ddof=1):.2f} points between seeds; with that, {seeds} "
        f"seeds and {found.images} images find a difference of {100 * least:.2f} points four times in five."
    ]
    mean = abs(c.interval.mean)
    if not mean:
        return lines
    start = f"If the difference is really {100 * mean:.2f} points, "
    needed = parts.seeds_needed(mean, found.images, alpha=alpha)
    if needed is not None and needed > seeds:
        lines.append(f"{start}it takes about {needed} seeds.")
    elif needed is None and parts.seeds_needed(mean, UNLIMITED_IMAGES, alpha=alpha) is not None:
        lines.append(f"{start}more seeds alone will not show it: it takes more test images.")
    elif needed is None:
        lines.append(f"{start}it is too small for any number of seeds that one would train.")
    return lines


def _seeds(numbers: Sequence[int]) -> str:
    return f"seed{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
