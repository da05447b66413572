"""The search space in Ray Tune's own terms, for a Tuner of the user's."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ray import tune

from tune_swa.config import Choices, Parameter, Range
from tune_swa.config.python_space import list_texts, load_space


def search_space(
    space: str | os.PathLike[str] | Mapping[str, Any],
    *,
    plugin: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    overrides: Mapping[str, Any] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Return the searched parameters of a space as the `param_space` of a `ray.tune.Tuner`.

    Args:
        space: a space file, or its content as a mapping.
        plugin: what `trainable` gets; it is not run here.
        overrides: values of settings by dotted name.
        settings: the same as keywords: `**{"train.epochs": 10}`.

    Returns:
        `lr`, `swa_start`, `swa_lr` and what else is searched, each as `tune.choice`, `tune.loguniform` and so
        on; as `tune.grid_search` with `search.sampler: grid`. Parameters that have one value are left out:
        `trainable` knows them. A stepped range is a `tune.choice` of its values wherever Ray would count its
        steps from zero.

    Raises:
        RequestError: the space is wrong.
    """
    experiment = load_space(
        space, overrides, settings, arguments=("plugin", "overrides"), plugin=list_texts(plugin)
    )
    if experiment.search.sampler == "grid":
        return {p.name: tune.grid_search(list(p.domain.list_values() or ())) for p in experiment.parameters}
    return {parameter.name: _to_ray(parameter) for parameter in experiment.parameters}


def _to_ray(parameter: Parameter) -> Any:
    """Ray's form of a domain. Ray leaves the upper bound of whole numbers out, and a space includes it."""
    domain = parameter.domain
    if isinstance(domain, Choices):
        return tune.choice(list(domain.values))
    if domain.integer and domain.step in (None, 1):
        draw = tune.lograndint if domain.log else tune.randint
        return draw(int(domain.low), int(domain.high) + 1)
    if domain.step is None:
        return (tune.loguniform if domain.log else tune.uniform)(domain.low, domain.high)
    return _step_to_ray(domain)


def _step_to_ray(domain: Range) -> Any:
    """Ray draws multiples of a step, and Optuna, whom it hands both bounds, counts from the lower one."""
    step = domain.step
    if domain.integer and step and domain.low % step == 0:
        return tune.qrandint(int(domain.low), int(domain.high), int(step))
    return tune.choice(list(domain.list_values() or ()))
