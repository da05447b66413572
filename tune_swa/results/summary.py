"""What do plain sentences say about who won, by how much, and how far that can be trusted?"""

from __future__ import annotations

import math
from collections import Counter

from tune_swa.experiment.layout import fresh_run_name
from tune_swa.experiment.state import ExperimentState
from tune_swa.inference.checks import count_within_one_error
from tune_swa.results.comparison import Comparison, Entry, compare_configurations, last_race, race_accuracies

_STATUSES = ("completed", "running", "interrupted", "pruned", "failed")


def summary_text(state: ExperimentState) -> str:
    """The result of a search so far in a few plain sentences, one a line.

    It compares the best SWA configuration with the best baseline and says what one seed on the
    images that chose the winner cannot tell. The standard error it quotes is the binomial one of a
    single accuracy, sqrt(p (1 - p) / n); that of the difference would need each image's predictions.

    Raises:
        RequestError: the journal is empty.
    """
    compared = compare_configurations(state)
    lines = [
        _counts(state),
        *_verdict(compared),
        *_caution(compared),
        close_text(compared),
        _race_lost(state),
    ]
    return "\n".join(line for line in lines if line)


def _counts(state: ExperimentState) -> str:
    trials = [t for t in state.trials.values() if t.stage == "search"]
    counts = Counter[str](t.status for t in trials)
    if not trials:
        return "No trial has started yet."
    listed = ", ".join(f"{counts[s]} {s}" for s in _STATUSES if counts[s])
    return f"{len(trials)} {'trial' if len(trials) == 1 else 'trials'}: {listed}."


def _verdict(compared: Comparison) -> list[str]:
    swa, baseline = compared.best_swa, compared.baseline
    if swa is None and baseline is None:
        return ["Nothing has completed, so there is nothing to compare."]
    if swa is None:
        assert baseline is not None
        return [
            f"Best baseline: {_described(baseline, compared)}.",
            "No SWA trial has completed, so what SWA would add is not known.",
        ]
    if baseline is None:
        return [
            f"Best SWA configuration: {_described(swa, compared)}.",
            "No baseline has completed, so what SWA adds is not known.",
        ]
    sentences = [
        f"Best SWA configuration: {_described(swa, compared)}.",
        f"Best baseline: {_described(baseline, compared)}.",
        _difference(swa.delta_vs_baseline or 0.0, compared.images),
    ]
    same = swa.delta_vs_same_lr
    if same is not None and not _same_settings(swa, baseline):
        sentences.append(
            f"Against the baseline with its own settings apart from SWA's: {_points(same, compared.images)}."
        )
    return sentences


def _difference(delta: float, images: int) -> str:
    if _images(delta, images) == 0:
        return f"SWA and the tuned baseline are level: {_points(delta, images)}."
    if delta > 0:
        return f"SWA is ahead of the tuned baseline: {_points(delta, images)}."
    return f"SWA does not beat the tuned baseline: {_points(delta, images)}."


def _caution(compared: Comparison) -> list[str]:
    best = compared.best
    if best is None or best.accuracy is None or not compared.images:
        return []
    error = 100 * math.sqrt(best.accuracy * (1 - best.accuracy) / compared.images)
    return [
        f"Take this with caution: it is one seed, and the same {compared.images} validation images chose the "
        f"winner among {len(compared.ranked)} completed configurations, so its accuracy is optimistic. An "
        f"accuracy of {_percent(best.accuracy)} on {compared.images} images alone has a standard error of "
        f"{error:.2f} points (binomial)."
    ]


def close_text(compared: Comparison) -> str:
    """How many SWA configurations are as good as the best, as far as the search can tell; else nothing."""
    accuracies = [e.accuracy for e in compared.ranked if e.trial.kind == "swa" and e.accuracy is not None]
    if len(accuracies) < 2 or not compared.images:
        return ""
    close = count_within_one_error(accuracies, compared.images)
    return (
        f"{close.count} of {len(accuracies)} SWA configurations are within one standard error "
        f"({100 * close.standard_error:.2f} points) of the best one: the search cannot tell these apart. Of "
        "equal accuracies the lower nll comes first."
    )


def _race_lost(state: ExperimentState) -> str:
    """Why nothing is tested after a race that no SWA configuration has come through; else nothing."""
    rounds, accuracies = last_race(state), race_accuracies(state)
    if not rounds or (state.confirmations and state.confirmations[-1]["searched"] >= rounds[0]["searched"]):
        return ""
    names = [arm["name"] for arm in rounds[0]["arms"] if arm["kind"] == "swa"]
    runs = [
        state.trials.get(fresh_run_name(name, "race", seed)) for name in names for seed in rounds[0]["seeds"]
    ]
    if any(accuracies[name] for name in names) or not all(run is not None and run.ended for run in runs):
        return ""
    return (
        "No verdict: none of the SWA configurations completed a run on a fresh seed, so none can be tested. "
        "The reasons are in trials.parquet (error)."
    )


def _described(entry: Entry, compared: Comparison) -> str:
    assert entry.accuracy is not None  # it has completed
    right = f"{round(entry.accuracy * compared.images)} of {compared.images} images"
    return f"{entry.label} ({entry.trial.name}), {_percent(entry.accuracy)}, {right}"


def _same_settings(swa: Entry, baseline: Entry) -> bool:
    return all(swa.params.get(name) == value for name, value in baseline.params.items())


def _points(delta: float, images: int) -> str:
    rounded = round(100 * delta, 2)
    sign = f"{rounded:+.2f}" if rounded else "0.00"
    return f"{sign} points = {abs(_images(delta, images))} of {images} validation images"


def _images(delta: float, images: int) -> int:
    return round(delta * images)


def _percent(accuracy: float) -> str:
    return f"{100 * accuracy:.2f} %"
