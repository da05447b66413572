"""Make the smallest search that goes the whole way of a given one: the experiment of a rehearsal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tune_swa.config import Choices, Experiment, Parameter
from tune_swa.config.rescaling import NAME_LENGTH, rescale_experiment
from tune_swa.config.sections import SCHEDULE_FREE

EPOCHS = 4
"""Two of a trunk, the second of which is the fork, one of a branch like those in its middle, and the last."""
SAMPLES = 2
"""Draws of averages that draw their members, in place of the 30 that take most of a short run's time."""


def shrink_experiment(experiment: Experiment, seeds: int) -> Experiment:
    """Shrink an experiment: a baseline and one SWA trial (two, where soups are made of them), on one trunk.

    The settings that decide the speed of an epoch stay: network, images' size, batch size, optimizer and
    numerics. What is searched besides SWA's settings has one value, so that the trials share a trunk; the
    sampler draws the others.

    Args:
        experiment: the whole one.
        seeds: fresh seeds of each arm.
    """
    epochs = min(EPOCHS, experiment.train.epochs)
    # a budget may not do for the baselines of values that become equal
    unlimited = experiment.search.model_copy(update={"epochs": None})
    whole = experiment.model_copy(update={"search": unlimited})
    spec = rescale_experiment(whole, epochs, rename=False).experiment.model_dump(mode="json", by_alias=True)
    soups = any(merge["method"] == "soup" for merge in spec.get("merge", ()))
    spec["name"] = f"{experiment.name[: NAME_LENGTH - 6]}-smoke"
    spec["space"] = _fix_trunk(experiment, spec["space"])
    _leave_schedule_out(spec)
    spec["points"] = []
    spec["baseline"] |= {"trials": "auto", "points": None}
    spec["search"]["trials"] = 2 if soups else 1
    if spec["baseline"]["averages"]:  # a trunk's state does not have them, so a baseline cannot go on from it
        spec["search"]["checkpoint_every"] = 1
    least = max(seeds, 2) if spec["confirm"]["ensemble"] else seeds
    spec["confirm"] |= {
        "top": 1,
        "seeds": least,
        "max_seeds": None,
        "baselines": 1,
        "race": False,
        "ensemble": 2 if spec["confirm"]["ensemble"] else None,
    }
    for average in (*spec["averages"], *spec["baseline"]["averages"]):
        for name in ("samples", "search_samples"):
            if name in average:
                average[name] = min(average[name], SAMPLES)
    for merge in spec.get("merge", ()):
        if merge["method"] == "swap":
            merge |= {"members": 2, "top": 1}
    spec["data"] |= {
        "dataset": "folder",
        "path": None,
        "layout": "parts",
        "train_images": None,
        "suffixes": "all",
        "unreadable": "error",
        "duplicates": "warn",
        "exif_rotation": False,
        "grey_bits": 16,
    }
    return Experiment.model_validate(spec)


def _fix_trunk(experiment: Experiment, space: dict[str, Any]) -> dict[str, Any]:
    """Give what a baseline has, and the start of averaging, one value each."""
    point = experiment.swa_points[0] if experiment.swa_points else {}
    fixed = dict(space)
    for parameter in experiment.baseline_parameters:
        if parameter.name in ("train.warmup_epochs", "train.t_max"):  # count epochs: the rescaled ones
            fixed[parameter.name] = _read_first(space[parameter.name])
        else:
            value = point.get(parameter.name, _choose_middle(parameter))
            fixed[parameter.name] = list(value) if isinstance(value, tuple) else value
    fixed["swa_start"] = 0
    return fixed


def _leave_schedule_out(spec: dict[str, Any]) -> None:
    """Leave out the schedule that other optimizers of the space have, where a schedule-free one was taken."""
    if str(spec["space"].get("train.optimizer")) in SCHEDULE_FREE:
        spec["train"] |= {"schedule": "constant", "t_max": None}
        for name in ("train.schedule", "train.t_max"):
            spec["space"].pop(name, None)


def _read_first(domain: Any) -> Any:
    """Return the first value of a domain as written."""
    if not isinstance(domain, dict):
        return domain
    return domain["choice"][0] if "choice" in domain else domain["int"][0]


def _choose_middle(parameter: Parameter) -> Any:
    """Return a value in the middle of a domain."""
    domain = parameter.domain
    if isinstance(domain, Choices):
        return domain.values[len(domain.values) // 2]
    middle = math.sqrt(domain.low * domain.high) if domain.log else (domain.low + domain.high) / 2
    return domain.round_value(middle)


def list_shrunk(whole: Experiment, rehearsed: Experiment, train: int) -> Sequence[str]:
    """List what a rehearsal does with less than its search, besides epochs, trials and images.

    Args:
        whole: experiment of the search.
        rehearsed: of the rehearsal.
        train: training images of the rehearsal.
    """
    lines = []
    if train < (size := whole.train.batch_size):
        lines.append(f"batches of {train} images instead of {size}")
    draws = {average.method: getattr(average, "samples", 0) for average in rehearsed.averages}
    for average in whole.averages:  # some of which may have become equal
        if (drawn := getattr(average, "samples", 0)) > draws.get(average.method, drawn):
            lines.append(f"{average.label} draws {draws[average.method]} instead of {drawn}")
    if any(merge.method == "soup" for merge in whole.merge) and rehearsed.swa_trials < 2:
        lines.append("no soup, for which one trial is too few")
    if whole.confirm.race:
        lines.append("no race before the fresh seeds")
    if whole.data.duplicates == "error":
        lines.append("copies of images are not looked for")
    return lines
