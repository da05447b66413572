"""Is a finalist better than the tuned baseline, by how much, and how sure is that?

The claim is about new seeds and new images of the same kind, so it rests on the crossed interval of
the paired differences in test accuracy (`statistics.crossed`), and on Holm's correction over all
finalists that were planned. The level is fixed before the first look and halved with each further one
(`statistics.alpha_of_look`). Before all runs of a look have ended there is no verdict: whoever stops at
a moment of their choice would look more often than the level allows for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tune_swa.inference import statistics
from tune_swa.journal import Event, ExperimentState, TrialState, params_of
from tune_swa.predictions import SHIPPED, Said, read_predictions
from tune_swa.results.provenance import experiment_of
from tune_swa.spec import Experiment, Params, is_swa_setting, label, params_key

UNLIMITED_IMAGES = 10**9
"""Whether images or seeds are what limits: so many images are no limit."""

LEAST_SEEDS = 5
"""With fewer there is no verdict: an interval from two or three values is as wide as the question."""

Words = Literal["better", "worse", "not distinguishable", "too few seeds", "unfinished"]


@dataclass(frozen=True)
class Arm:
    """A configuration on its fresh seeds."""

    name: str
    kind: str
    label: str
    params: Params
    roles: tuple[str, ...]
    runs: tuple[TrialState, ...]
    """Completed and tested, by seed."""
    missing: tuple[int, ...]
    """Seeds without a completed run."""

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run.seed for run in self.runs)

    @property
    def test(self) -> list[float]:
        """Test accuracy of each run, 0 to 1."""
        return [_shipped(run)["accuracy"] for run in self.runs]

    @property
    def validation(self) -> list[float]:
        """Validation accuracy of each run, 0 to 1."""
        return [run.records[-1]["accuracy"] for run in self.runs]

    @property
    def refreshed(self) -> list[float]:
        """Test accuracy of a baseline's runs with refreshed batch-normalisation statistics."""
        return [r.tested["refreshed"]["accuracy"] for r in self.runs if r.tested and r.tested["refreshed"]]

    def mean_of(self, metric: str) -> float:
        """Mean over the runs of a test metric: accuracy, nll, ece or brier."""
        return float(np.mean([_shipped(run)[metric] for run in self.runs]))


@dataclass(frozen=True)
class Contrast:
    """An arm against another, on the seeds that both have."""

    arm: Arm
    against: Arm
    seeds: tuple[int, ...]
    differences: Any
    """Shape (S, N): 1 where only `arm` is right on an image, -1 where only `against` is, else 0."""
    paired: statistics.Interval
    """For new seeds on these very images."""
    crossed: statistics.Crossed
    """For new seeds and new images: what the verdict rests on."""
    p_value: float
    """Of the crossed interval; by Holm's method where several finalists were planned."""
    words: Words | None
    """None: a description, which no correction was made for."""

    @property
    def by_seed(self) -> list[float]:
        """Difference in test accuracy on each seed."""
        return [float(value) for value in self.differences.mean(axis=1)]


@dataclass(frozen=True)
class Verdict:
    """What the runs on fresh seeds say."""

    look: int
    alpha: float
    """Two-sided level of this look."""
    images: int
    """Test images."""
    planned_seeds: int
    arms: tuple[Arm, ...]
    against_baseline: tuple[Contrast, ...]
    """Each finalist against the tuned baseline, in the order of the search's ranking."""
    against_trunk: tuple[Contrast, ...]
    """Each finalist against its own settings without SWA: SWA's part alone. Not corrected."""
    complete: bool
    """Whether every planned run has ended."""
    earlier: tuple[Verdict, ...] = ()
    """What the looks before said, first look first."""

    def arm(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)

    @property
    def tuned(self) -> Arm | None:
        """The best baseline of the search."""
        return next((arm for arm in self.arms if "baseline" in arm.roles), None)

    @property
    def finalists(self) -> tuple[Arm, ...]:
        return tuple(arm for arm in self.arms if "finalist" in arm.roles)

    @property
    def leading(self) -> Contrast | None:
        """The finalist to speak of first: the one with the best mean on the validation images."""
        if not self.against_baseline:
            return None
        return max(self.against_baseline, key=lambda c: float(np.mean(c.arm.validation)))


def verdict(state: ExperimentState, folder: Path) -> Verdict | None:
    """Work out the verdict of the last look; None where no fresh seed was planned or tested.

    Args:
        state: the fold of the journal.
        folder: the experiment's folder, which has the predictions.

    Raises:
        RequestError: the journal is empty, or the predictions cannot be read.
    """
    if not state.confirmations:
        return None
    said = {name: variants[SHIPPED] for name, variants in read_predictions(state, folder).items()}
    return weigh(state, said)


def weigh(state: ExperimentState, said: Mapping[str, Said]) -> Verdict | None:
    """`verdict`, from predictions that were read already."""
    looks = [_look(state, said, event) for event in state.confirmations]
    last = looks[-1]
    return None if last is None else replace(last, earlier=tuple(v for v in looks[:-1] if v is not None))


def _look(state: ExperimentState, said: Mapping[str, Said], look: Event) -> Verdict | None:
    """What the runs of one look say; None before any was tested."""
    arms = tuple(_arm(experiment_of(state), state, entry, look["seeds"]) for entry in look["arms"])
    images = next((len(s.label) for s in said.values()), 0)
    if not images:
        return None
    alpha = statistics.alpha_of_look(look["look"])
    names = {f"{entry['name']}-seed{seed}" for entry in look["arms"] for seed in look["seeds"]}
    complete = all(name in state.trials and state.trials[name].ended for name in names)
    tuned = next((arm for arm in arms if "baseline" in arm.roles), None)
    finalists = [arm for arm in arms if "finalist" in arm.roles]
    plain = {params_key(arm.params): arm for arm in arms if arm.kind == "baseline"}
    own = [
        c
        for arm in finalists
        if (trunk := plain.get(params_key(_without_swa(arm)))) is not None
        and (c := contrast(arm, trunk, said, alpha)) is not None
    ]
    return Verdict(
        look=look["look"],
        alpha=alpha,
        images=images,
        planned_seeds=len(look["seeds"]),
        arms=arms,
        against_baseline=judge(finalists, tuned, said, alpha, complete=complete) if tuned else (),
        against_trunk=tuple(own),
        complete=complete,
    )


def judge(
    finalists: Sequence[Arm], tuned: Arm, said: Mapping[str, Said], alpha: float, *, complete: bool
) -> tuple[Contrast, ...]:
    """Each finalist against the tuned baseline, as far as they can be compared, with the verdict's words.

    Args:
        finalists: all that were planned: one that failed on every seed still counts for Holm.
        tuned: the best baseline of the search.
        said: predictions on the test images, by run.
        alpha: two-sided level of the look.
        complete: whether all runs of the look have ended.
    """
    tested = [c for arm in finalists if (c := contrast(arm, tuned, said, alpha)) is not None]
    failed = [1.0] * (len(finalists) - len(tested))
    adjusted = statistics.holm([*(c.p_value for c in tested), *failed])
    judged = []
    for c, p in zip(tested, adjusted, strict=False):
        words = decide(c.crossed.interval.mean, p, len(c.seeds), alpha) if complete else "unfinished"
        judged.append(replace(c, p_value=p, words=words))
    return tuple(judged)


def contrast(arm: Arm, against: Arm, said: Mapping[str, Said], alpha: float) -> Contrast | None:
    """Two arms on the seeds that both have; None with fewer than two."""
    runs = {run.seed: run for run in arm.runs}
    pairs = [(runs[other.seed], other) for other in against.runs if other.seed in runs]
    pairs = [(a, b) for a, b in pairs if a.name in said and b.name in said]
    if len(pairs) < 2:
        return None
    table = differences([said[a.name] for a, _ in pairs], [said[b.name] for _, b in pairs])
    wide = statistics.crossed(table, 1 - alpha)
    return Contrast(
        arm=arm,
        against=against,
        seeds=tuple(a.seed for a, _ in pairs),
        differences=table,
        paired=statistics.paired_t(table.mean(axis=1), 1 - alpha),
        crossed=wide,
        p_value=wide.interval.p_value,
        words=None,
    )


def differences(first: Sequence[Said], second: Sequence[Said]) -> Any:
    """Shape (S, N): how much better the first of each pair does on each image, -1, 0 or 1."""
    return np.stack([a.right.astype(np.int8) - b.right for a, b in zip(first, second, strict=True)])


def decide(mean: float, p_value: float, seeds: int, alpha: float) -> Words:
    """The verdict's words: the rule, and all of it.

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


def _arm(experiment: Experiment, state: ExperimentState, entry: Mapping[str, Any], seeds: list[int]) -> Arm:
    params = params_of(dict(entry))
    swa = entry["kind"] == "swa"
    runs = [state.trials.get(f"{entry['name']}-seed{seed}") for seed in seeds]
    done = tuple(r for r in runs if r is not None and r.status == "completed" and r.tested is not None)
    have = {run.seed for run in done}
    return Arm(
        name=entry["name"],
        kind=entry["kind"],
        label=label(experiment.configuration(params, swa=swa)),
        params=params,
        roles=tuple(entry["roles"]),
        runs=done,
        missing=tuple(seed for seed in seeds if seed not in have),
    )


def _without_swa(arm: Arm) -> Params:
    return {name: value for name, value in arm.params.items() if not is_swa_setting(name)}


def _shipped(run: TrialState) -> dict[str, float]:
    assert run.tested is not None
    shipped: dict[str, float] = run.tested[SHIPPED]
    return shipped


# ------------------------------------------------------------------------------------- in words

USUAL_SPREAD = 0.009
"""Standard deviation of a difference between seeds that `outlook` speaks of, for an example."""


def outlook(experiment: Experiment) -> str:
    """What the planned fresh seeds will be able to find, for people to read before they wait for it."""
    seeds, tests = experiment.confirm.seeds, min(experiment.confirm.top, experiment.swa_trials)
    if seeds < LEAST_SEEDS:
        return (
            f"{seeds} fresh seeds are too few for a verdict; it takes {LEAST_SEEDS} or more (confirm.seeds)."
        )
    alpha = statistics.alpha_of_look(1) / tests
    chance = statistics.power(0.01, USUAL_SPREAD, seeds, alpha)
    needed = statistics.seeds_needed(0.01, USUAL_SPREAD, alpha=alpha)
    more = f" {needed} seeds find it four times in five." if needed and needed > seeds else ""
    return (
        f"If differences vary by {100 * USUAL_SPREAD:.1f} points between seeds, {seeds} seeds find a gain of "
        f"one point in {100 * chance:.0f} % of the cases.{more} Few test images make that less, as they vary "
        "too."
    )


def verdict_text(found: Verdict) -> str:
    """The verdict in a few plain sentences, one a line."""
    leading = found.leading
    others = [c for c in found.against_baseline if c is not leading]
    lines = [] if found.complete else [_under_way(found)]
    lines += [sentence(c, found) for c in ([leading] if leading else []) + others]
    if leading is None and found.complete:
        lines.append(_nothing(found))
    for c in found.against_trunk:
        if "baseline" not in c.against.roles:
            lines.append(f"SWA's part alone: {_measured(c, c.against.label)}.")
    tuned = found.tuned
    if tuned is not None and tuned.refreshed:
        gain = 100 * (np.mean(tuned.refreshed) - np.mean(tuned.test))
        lines.append(f"A BN refresh alone changes the tuned baseline by {gain:+.2f} points.")
    if tuned is not None and tuned.runs:
        lines += [_better(arm, tuned) for arm in found.arms if arm.kind == "baseline" and arm.runs]
    return "\n".join([line for line in lines if line] + _advice(found))


def sentence(c: Contrast, found: Verdict) -> str:
    """One contrast in words."""
    name, other = c.arm.label, c.against.label
    if c.words == "better":
        start = f"SWA is better: {name} beats the tuned {other}"
    elif c.words == "worse":
        start = f"SWA is worse: {name} loses against the tuned {other}"
    elif c.words == "too few seeds":
        start = (
            f"No verdict, {len(c.seeds)} fresh seeds are too few ({LEAST_SEEDS} or more): {name} against the "
            f"tuned {other}"
        )
    elif c.words == "unfinished":
        start = f"So far: {name} against the tuned {other}"
    else:
        start = f"Not distinguishable: {name} and the tuned {other}"
    return f"{start}, {_numbers(c)}, on {len(c.seeds)} fresh seeds and {found.images} test images."


def _better(arm: Arm, tuned: Arm) -> str:
    """What to say of a baseline that does better on the fresh seeds than the tuned one; else nothing."""
    mean, chosen = np.mean(arm.test), np.mean(tuned.test)
    if mean <= chosen:
        return ""
    return (
        f"The {arm.label} does better on the fresh seeds ({100 * mean:.2f} %) than the tuned one "
        f"({100 * chosen:.2f} %), which a single seed chose: part of the difference to the tuned one is that "
        "choice."
    )


def _measured(c: Contrast, against: str) -> str:
    return f"{c.arm.label} against {against}, {_numbers(c)}"


def _numbers(c: Contrast) -> str:
    at = c.crossed.interval
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
    """Why no finalist stands against the tuned baseline."""
    if found.tuned is None:
        return "No verdict: no baseline completed in the search, so there is none to compare with."
    return (
        "No verdict: too few runs on fresh seeds have completed on the same seeds as those of the tuned "
        f"{found.tuned.label}."
    )


def _advice(found: Verdict) -> list[str]:
    lines = []
    tests = len(found.finalists)
    if tests > 1 and found.against_baseline:
        lines.append(
            f"The p-values against the tuned baseline allow for {tests} finalists (Holm), the intervals do "
            "not."
        )
    failed = [arm for arm in found.arms if arm.missing]
    if found.complete and failed:
        which = "; ".join(f"{arm.label} on {_seeds(arm.missing)}" for arm in failed)
        lines.append(f"Runs that did not complete: {which}. A pair counts where both did.")
    if found.look > 1:
        lines.append(
            f"This is look {found.look} at the test images, so its level is {100 * found.alpha:.3g} %: the "
            "more often one looks, the more often chance looks like an effect."
        )
        if found.complete:
            lines += [
                f"Look {v.look} said, at a level of {100 * v.alpha:.3g} %: {sentence(v.leading, v)}"
                for v in found.earlier
                if v.leading is not None
            ]
    c = found.leading
    if c is None or c.words in ("better", "worse", "unfinished"):
        return lines
    if c.words == "too few seeds" and found.planned_seeds >= LEAST_SEEDS:
        lines.append("More seeds (`tune-swa confirm --seeds`) are a further look, with half the level.")
    return lines + _power(c, found, found.alpha / max(1, tests))


def _power(c: Contrast, found: Verdict, alpha: float) -> list[str]:
    """What the seeds and images could find, and what the observed difference would take."""
    parts, seeds = c.crossed.components, len(c.seeds)
    least = parts.detectable(seeds, found.images, alpha=alpha)
    if least == 0:
        return ["Its runs and the baseline's agree on every image, so there is no variance to go by."]
    lines = [
        f"Differences vary by {100 * np.std(c.by_seed, ddof=1):.2f} points between seeds; with that, {seeds} "
        f"seeds and {found.images} images find a difference of {100 * least:.2f} points four times in five."
    ]
    mean = abs(c.crossed.interval.mean)
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
