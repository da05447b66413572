"""Settings that have no effect beside others: each trial is what it would be without them."""

from __future__ import annotations

from collections.abc import Iterator

from tune_swa.config.experiment import Experiment


def list_idle_settings(experiment: Experiment) -> Iterator[str]:
    """Yield a sentence on each setting that is searched, or is not as by default, and that no trial heeds."""
    for name, reason in _find_idle(experiment):
        if _is_given(experiment, name):
            yield f"{name} has no effect: {reason}"


def _find_idle(experiment: Experiment) -> Iterator[tuple[str, str]]:
    """Yield the names of settings that no trial heeds, with the reason and what to do."""
    if {"adam", "adamw"}.issuperset(experiment.list_extremes("train.optimizer")):
        yield (
            "train.momentum",
            "adam and adamw keep torch's betas. Take it out, or give another train.optimizer",
        )
    if not any("crop" in (names or ()) for names in experiment.list_extremes("train.augment")):  # type: ignore[operator]
        yield "train.crop_padding", "it is crop's, which train.augment lacks. Take one out, or add the other"
    if set(experiment.list_extremes("train.schedule")) == {"constant"}:
        yield "train.t_max", "it is of the cosine, and train.schedule is constant. Take it out"
    frozen = experiment.list_extremes("train.freeze")
    if "none" not in frozen:
        what = " and ".join(map(str, frozen))
        reason = f"with train.freeze {what} no batch-normalisation statistics are refreshed. Take it out"
        yield "averaging.bn_batches", reason
        # subspace estimates its likelihood on batches of that size
        if all(average.method != "subspace" for average in experiment.averages):
            yield "averaging.bn_batch_size", reason
    if not experiment.averages and not experiment.baseline.averages:
        yield "averaging.score", "averages lists none that could be scored. Take it out, or list some"


def _is_given(experiment: Experiment, name: str) -> bool:
    """Whether a setting is searched or has another value than by default."""
    section, _, field = name.partition(".")
    default = type(getattr(experiment, section)).model_fields[field].default
    return any(value != default for value in experiment.list_extremes(name))
