"""Rescale the settings of averages that count epochs.

A horizon, `last` of LAWA and of the subspace, and SWAD's numbers of epochs go with the run, so that an
average remembers the same part of it. A rank or a number of samples says how well something is estimated
and not how long it lasts: it changes only where a run has fewer models than it needs. What is a part of the
run already (`power_ema`), or counts steps (`gamma`), stays.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import TypeAdapter

from tune_swa.config.averages import AverageSpec
from tune_swa.config.rescaled_domains import EpochScale

_ADAPTER: TypeAdapter[AverageSpec] = TypeAdapter(AverageSpec)


def needs_several_models(average: dict[str, Any]) -> bool:
    """Whether an average, as dumped, needs two models of a run or more."""
    return average["method"] in ("lawa", "swad", "swag", "subspace")


def list_methods(averages: Iterable[dict[str, Any]]) -> str:
    """Name averages, as dumped, by their labels."""
    return ", ".join(_ADAPTER.validate_python(average).label for average in averages)


def rescale_averages(
    averages: list[dict[str, Any]], scale: EpochScale, models: int
) -> tuple[list[dict[str, Any]], list[str]]:
    """Rescale averages, as dumped.

    Args:
        averages: in their order.
        scale: of the epochs.
        models: how many a run has to average, at least.

    Returns:
        The averages, of equal ones the first; and a line for each that changed.
    """
    kept: dict[str, dict[str, Any]] = {}
    lines = []
    for average in averages:
        rescaled = _rescale_average(average, scale, models)
        before, after = (_ADAPTER.validate_python(each).label for each in (average, rescaled))
        if before != after or average != rescaled:
            merged = " (merged with the one before)" if after in kept else ""
            changed = ", ".join(
                f"{name} {value}" for name, value in rescaled.items() if value != average[name]
            )
            lines.append(f"{before} -> {after}{merged}" if before != after else f"{before}: {changed}")
        kept.setdefault(after, rescaled)
    return list(kept.values()), lines


def _rescale_average(average: dict[str, Any], scale: EpochScale, models: int) -> dict[str, Any]:
    new = dict(average)
    method = average["method"]
    if method == "ema":
        new["horizon"] = scale.scale_horizon(average["horizon"])
        warmup = average["warmup"]
        if warmup is not None and warmup["method"] == "power":
            new["warmup"] = {**warmup, "start": scale.scale_horizon(warmup["start"])}
    elif method == "lawa":
        new["last"] = min(max(2, scale.scale_length(average["last"], most=1000)), models)
    elif method == "swad":
        new["converge"] = min(max(2, scale.scale_length(average["converge"], most=1000)), models)
        new["tolerance"] = scale.scale_length(average["tolerance"], most=1000)
    elif method == "swag":
        new["rank"] = min(average["rank"], models)
    elif method == "subspace":
        new["rank"] = min(average["rank"], models - 1)
        new["last"] = max(new["rank"] + 1, scale.scale_length(average["last"], most=1000))
    return new
