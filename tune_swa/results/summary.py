"""Word the result of a search: the best of both sides, the difference, and its limits."""

from __future__ import annotations

import math
from collections import Counter

from tune_swa.config import list_choosable
from tune_swa.experiment.layout import fresh_run_name
from tune_swa.experiment.state import ExperimentState
from tune_swa.inference.checks import count_within_one_error
from tune_swa.results.comparison import Comparison, Entry, compare_configurations, last_race, race_values
from tune_swa.results.metric_format import MetricFormat
from tune_swa.results.soups import describe_soups

_STATUSES = ("completed", "running", "interrupted", "pruned", "failed")


def summary_text(state: ExperimentState) -> str:
    """The result of a search so far in a few plain sentences, one per line.

    It compares the best SWA configuration with the best baseline, and warns that one seed on the
    images that chose the best configuration is optimistic. The standard error is the binomial one of a
    single accuracy, sqrt(p (1 - p) / n); that of the difference, and any of nll, would need each image's
    predictions.

    Raises:
        RequestError: the journal is empty.
    """
    compared = compare_configurations(state)
    lines = [
        _count_sentence(state),
        *_best_sentences(compared),
        *_caution_sentence(compared),
        close_text(compared),
        _race_sentence(state),
        *describe_soups(state),
    ]
    return "\n".join(line for line in lines if line)


def _count_sentence(state: ExperimentState) -> str:
    trials = [t for t in state.trials.values() if t.stage == "search"]
    counts = Counter[str](t.status for t in trials)
    if not trials:
        return "No trial has started yet."
    listed = ", ".join(f"{counts[s]} {s}" for s in _STATUSES if counts[s])
    return f"{len(trials)} {'trial' if len(trials) == 1 else 'trials'}: {listed}."


def _best_sentences(compared: Comparison) -> list[str]:
    swa, baseline = compared.best_swa, compared.baseline
    if swa is None and baseline is None:
        return ["No trial has completed, so there is nothing to compare."]
    if swa is None:
        assert baseline is not None
        return [
            f"Best baseline: {_describe_entry(baseline, compared)}.",
            "No SWA trial has completed, so the gain from SWA is unknown.",
        ]
    if baseline is None:
        return [
            f"Best SWA configuration: {_describe_entry(swa, compared)}.",
            "No baseline has completed, so the gain from SWA is unknown.",
        ]
    sentences = [
        f"Best SWA configuration: {_describe_entry(swa, compared)}.",
        f"Best baseline: {_describe_entry(baseline, compared)}.",
        _difference_sentence(swa.delta_vs_baseline or 0.0, compared),
    ]
    same = swa.delta_vs_same_lr
    if same is not None and not _same_settings(swa, baseline):
        gain = _format_gain(same, compared)
        sentences.append(f"Against the baseline with the same settings without SWA: {gain}.")
    return sentences


def _difference_sentence(delta: float, compared: Comparison) -> str:
    written = MetricFormat(compared.objective.metric)
    gain = _format_gain(delta, compared)
    if (written.round_gain(delta) if written.is_nll else _count_images(delta, compared.images)) == 0:
        return f"SWA and the tuned baseline are level: {gain}."
    if delta > 0:
        return f"SWA is ahead of the tuned baseline: {gain}."
    return f"SWA does not beat the tuned baseline: {gain}."


def _caution_sentence(compared: Comparison) -> list[str]:
    best = compared.best
    if best is None or best.accuracy is None or not compared.images:
        return []
    metric = compared.objective.metric
    caution = (
        f"Caution: this is one seed, and the same {compared.images} validation images chose the best of "
        f"{len(compared.ranked)} completed configurations{_describe_choice(compared)}, so its {metric} is "
        "optimistic."
    )
    if metric == "nll":
        return [caution]
    error = 100 * math.sqrt(best.accuracy * (1 - best.accuracy) / compared.images)
    return [
        f"{caution} An accuracy of {_format_percent(best.accuracy)} on {compared.images} images has a "
        f"binomial standard error of {error:.2f} points."
    ]


def _describe_choice(compared: Comparison) -> str:
    choosable = list_choosable(compared.experiment.averages)
    chooses = compared.experiment.objective.of == "best"
    return f", and of {len(choosable)} averages in each SWA trial" if chooses else ""


def close_text(compared: Comparison) -> str:
    """Say how many SWA configurations the search cannot distinguish from the best; empty with fewer than
    two, and by nll, whose standard error needs each image's predictions."""
    accuracies = [e.accuracy for e in compared.ranked if e.trial.kind == "swa" and e.accuracy is not None]
    if len(accuracies) < 2 or not compared.images or compared.objective.metric == "nll":
        return ""
    close = count_within_one_error(accuracies, compared.images)
    return (
        f"{close.count} of {len(accuracies)} SWA configurations are within one standard error "
        f"({100 * close.standard_error:.2f} points) of the best one, so the search cannot distinguish them. "
        "Equal accuracies are ranked by nll."
    )


def _race_sentence(state: ExperimentState) -> str:
    """Why nothing is tested after a race that no SWA configuration has come through; else nothing."""
    rounds, accuracies = last_race(state), race_values(state, "accuracy")
    if not rounds or (state.confirmations and state.confirmations[-1].searched >= rounds[0].searched):
        return ""
    names = [arm.name for arm in rounds[0].arms if arm.kind == "swa"]
    runs = [
        state.trials.get(fresh_run_name(name, "race", seed)) for name in names for seed in rounds[0].seeds
    ]
    if any(accuracies[name] for name in names) or not all(run is not None and run.ended for run in runs):
        return ""
    return (
        "No verdict: no SWA configuration completed a run on a fresh seed, so none can be tested. The column "
        "error of trials.parquet has the reasons."
    )


def _describe_entry(entry: Entry, compared: Comparison) -> str:
    assert entry.accuracy is not None  # it has completed
    right = f"{round(entry.accuracy * compared.images)} of {compared.images} images"
    nll = ""
    if compared.objective.metric == "nll" and entry.nll is not None:
        nll = f"{MetricFormat('nll').format_value(entry.nll)}, accuracy "
    return f"{entry.label} ({entry.trial.name}), {nll}{_format_percent(entry.accuracy)}, {right}"


def _same_settings(swa: Entry, baseline: Entry) -> bool:
    return all(swa.params.get(name) == value for name, value in baseline.params.items())


def _format_gain(delta: float, compared: Comparison) -> str:
    images, written = compared.images, MetricFormat(compared.objective.metric)
    if written.is_nll:
        return f"{written.describe_gain(delta)} on {images} validation images"
    rounded = round(100 * delta, 2)
    sign = f"{rounded:+.2f}" if rounded else "0.00"
    return f"{sign} points = {abs(_count_images(delta, images))} of {images} validation images"


def _count_images(delta: float, images: int) -> int:
    return round(delta * images)


def _format_percent(accuracy: float) -> str:
    return f"{100 * accuracy:.2f} %"
