"""Settings that are allowed and can still hardly be meant: they are pointed out, and the search goes on."""

from __future__ import annotations

from collections.abc import Iterator

from tune_swa.config.experiment import Experiment
from tune_swa.config.search_space import Choices
from tune_swa.config.values import Value


def list_cautions(experiment: Experiment) -> list[str]:
    """Return a sentence on each setting that makes what is searched meaningless, with what to do."""
    return [*_check_anneal(experiment), *_check_crop(experiment)]


def _check_anneal(experiment: Experiment) -> Iterator[str]:
    """SWALR begins at the fork, and takes `anneal_epochs` to get to swa_lr."""
    starts = [value for value in _list_extremes(experiment, "swa_start") if isinstance(value, int)]
    anneals = [v for v in _list_extremes(experiment, "averaging.anneal_epochs") if isinstance(v, int)]
    left = experiment.train.epochs - 2 - min(starts)
    if left < 1:
        yield (
            "No epoch is trained at swa_lr: averaging begins with the last one, so swa_lr changes nothing. "
            "Take a smaller swa_start, or more train.epochs"
        )
    elif left < min(anneals):
        yield (
            f"No trial reaches swa_lr: that takes averaging.anneal_epochs ({min(anneals)}) epochs, and at "
            f"most {left} follow the first average. Take a smaller swa_start, or give --set "
            f"averaging.anneal_epochs={left // 2}"
        )


def _check_crop(experiment: Experiment) -> Iterator[str]:
    """A shift by the whole image leaves the padding alone."""
    crops = any("crop" in value for value in _list_extremes(experiment, "train.augment") if value)  # type: ignore[operator]
    paddings = [v for v in _list_extremes(experiment, "train.crop_padding") if isinstance(v, int)]
    size = experiment.data.image_size
    if crops and max(paddings) >= size:
        yield (
            f"Some training images will be blank: train.crop_padding ({max(paddings)}) shifts images of "
            f"{size} pixels out of the picture. Give a padding well below {size}; 4 is usual for 32 pixels"
        )


def _list_extremes(experiment: Experiment, name: str) -> list[Value]:
    """The values of a setting that a trial can have: all that are listed, or the bounds of a range."""
    if name in experiment.constants:
        return [experiment.constants[name]]
    for parameter in experiment.parameters:
        if parameter.name == name:
            domain = parameter.domain
            if isinstance(domain, Choices):
                return list(domain.values)
            return [domain.round_value(domain.low), domain.round_value(domain.high)]
    section, _, field = name.partition(".")
    value: Value = getattr(getattr(experiment, section), field)
    return [value]
