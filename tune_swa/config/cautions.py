"""Settings that are allowed and can still hardly be meant: they are pointed out, and the search goes on."""

from __future__ import annotations

import math
from collections.abc import Iterator

from tune_swa.config.experiment import Experiment
from tune_swa.config.idle_settings import list_idle_settings
from tune_swa.config.network_names import is_arch_name
from tune_swa.config.sections import DEFAULT_CYCLE, SCHEDULE_FREE
from tune_swa.config.values import Value


def list_cautions(experiment: Experiment) -> list[str]:
    """Return a sentence on each setting that makes what is searched meaningless, with what to do."""
    return [
        *_check_anneal(experiment),
        *_check_cycles(experiment),
        *_check_crop(experiment),
        *_check_trunk_rungs(experiment),
        *_check_leader(experiment),
        *_check_frozen(experiment),
        *list_idle_settings(experiment),
    ]


def write_option(experiment: Experiment, name: str, value: Value) -> str:
    """Write the option that gives a setting a value: what the space has for it goes before its section."""
    return f"--set {'space.' * (name in experiment.space)}{name}={value}"


def _check_anneal(experiment: Experiment) -> Iterator[str]:
    """SWALR begins at the fork, and takes `anneal_epochs` to get to swa_lr."""
    if experiment.averaging.tail != "constant":
        return
    starts = [value for value in experiment.list_extremes("swa_start") if isinstance(value, int)]
    anneals = [v for v in experiment.list_extremes("averaging.anneal_epochs") if isinstance(v, int)]
    left = experiment.train.epochs - 2 - min(starts)
    if left < 1:
        yield (
            "No epoch is trained at swa_lr: averaging begins with the last one, so swa_lr changes nothing. "
            "Take a smaller swa_start, or more train.epochs"
        )
    elif left < min(anneals):
        yield (
            f"No trial reaches swa_lr: that takes averaging.anneal_epochs ({min(anneals)}) epochs, and at "
            f"most {left} follow the first average. Take a smaller swa_start, or give "
            f"{write_option(experiment, 'averaging.anneal_epochs', left // 2)}"
        )


def _check_cycles(experiment: Experiment) -> Iterator[str]:
    """What follows the end of the last cycle is trained and not averaged."""
    if experiment.averaging.tail != "cyclic":
        return
    cycles = {value or DEFAULT_CYCLE for value in _list_values(experiment, "averaging.cycle_epochs")}
    cycle = math.lcm(*(value for value in cycles if isinstance(value, int)))
    last = experiment.train.epochs - 2
    fitting = list(range(last % cycle, last - cycle + 1, cycle))
    if fitting and any((last - int(start)) % cycle for start in _list_values(experiment, "swa_start")):  # type: ignore[arg-type]
        shown = f"{fitting[0]}, {fitting[0] + cycle}, ..., {fitting[-1]}"
        shown = shown if len(fitting) > 3 else ", ".join(map(str, fitting))
        yield (
            f"The last epochs of some trials change no average: cycles of {cycle} epochs end with the last "
            f"epoch from swa_start {shown} only. Take values of these, or other cycles"
        )


def _check_crop(experiment: Experiment) -> Iterator[str]:
    """A shift by the whole image leaves the padding alone."""
    crops = any("crop" in value for value in experiment.list_extremes("train.augment") if value)  # type: ignore[operator]
    paddings = [v for v in experiment.list_extremes("train.crop_padding") if isinstance(v, int)]
    size = experiment.data.image_size
    if crops and max(paddings) >= size:
        yield (
            f"Some training images will be blank: train.crop_padding ({max(paddings)}) shifts images of "
            f"{size} pixels out of the picture. Give a padding well below {size}; 4 is usual for 32 pixels"
        )


def _check_trunk_rungs(experiment: Experiment) -> Iterator[str]:
    """Half way, a model whose rate has yet to fall is compared with an average that needs no such fall."""
    scheduler, optimizers = experiment.scheduler, experiment.list_extremes("train.optimizer")
    falling = [name for name in optimizers if name not in SCHEDULE_FREE]
    free = [name for name in optimizers if name in SCHEDULE_FREE]
    if not (free and falling and scheduler.asha and "cosine" in experiment.list_extremes("train.schedule")):
        return
    rungs = scheduler.trunk_rungs
    if experiment.every_trunk_has_a_baseline if rungs == "auto" else not rungs:
        return
    yield (
        f"Early stopping favours {free[0]}: half way, its average is compared with models of {falling[0]} "
        "whose rate has yet to fall. Give --set scheduler.trunk_rungs='[]' to stop nothing before it is "
        "averaged"
    )


def _check_leader(experiment: Experiment) -> Iterator[str]:
    """A window that is chosen on the images by which trials are compared."""
    if experiment.averages and experiment.averages[0].method == "swad":
        yield (
            "The validation scores of all trials are optimistic: swad leads, and chooses its window on these "
            "images. List swa or ema first, or judge by the test images of fresh seeds alone"
        )


def _check_frozen(experiment: Experiment) -> Iterator[str]:
    """What is frozen stays as it was drawn, unless it comes from somewhere."""
    if experiment.model.weights != "none" or not is_arch_name(experiment.model.arch):
        return  # a plugin's builder may load weights of its own
    frozen = experiment.list_extremes("train.freeze")
    if "backbone" in frozen:
        yield (
            "With train.freeze backbone the classifier learns from random features: model.weights is none. "
            "Give --set model.weights=imagenet or a file, or train everything with "
            f"{write_option(experiment, 'train.freeze', 'none')}"
        )
    elif "bn" in frozen:
        yield (
            "With train.freeze bn nothing is normalised: model.weights is none, so the statistics that are "
            "kept are no images'. Give --set model.weights=imagenet or a file, or "
            f"{write_option(experiment, 'train.freeze', 'none')}"
        )


def _list_values(experiment: Experiment, name: str) -> list[Value]:
    """Every value of a whole number that a trial can have."""
    for parameter in experiment.parameters:
        if parameter.name == name:
            return list(parameter.domain.list_values() or experiment.list_extremes(name))
    return experiment.list_extremes(name)
