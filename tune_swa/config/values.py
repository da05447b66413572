"""Types of a setting's value, and how values and configurations are written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import TypeAlias

Value: TypeAlias = int | float | str | bool | tuple[str, ...] | None
"""One setting's value. JSON can hold all of them (tuples as lists)."""

Params: TypeAlias = dict[str, Value]
"""A configuration: parameter name (`lr`, `swa_start`, `train.weight_decay`, ...) to value."""

CORE_PARAMETERS = ("lr", "swa_start", "swa_lr")
SWA_CORE = ("swa_start", "swa_lr")


def params_key(params: Mapping[str, Value]) -> tuple[tuple[str, Value], ...]:
    """Hashable form of a configuration; equal configurations have equal keys."""
    return tuple(sorted(params.items()))


def is_swa_setting(name: str) -> bool:
    """Whether a parameter only exists once weights are averaged."""
    return name in SWA_CORE or name.startswith("averaging.")


def drop_repeated(points: tuple[Params, ...]) -> list[Params]:
    """The configurations without repetitions, in order."""
    return list({params_key(p): p for p in points}.values())


def format_value(value: Value) -> str:
    """Return the shortest readable form that reads back as the same number (`5e-5`, not `5e-05`)."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "+".join(value) or "none"
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value):
        return repr(value)
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    if 1e-2 <= abs(value) < 1e6:
        return repr(value)
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    first, rest = digits[0], "".join(map(str, digits[1:]))
    return f"{'-' * sign}{first}{'.' * bool(rest)}{rest}e{int(exponent) + len(digits) - 1}"


def format_label(params: Mapping[str, Value], average: str | None = None) -> str:
    """A configuration in the tutorial's notation: `SWA_90_5e-5 lr=1e-4`, `SWA_90 lr=1e-4` where averaging
    has no rate of its own, or `baseline lr=1e-4`.

    Args:
        params: as `Experiment.configuration` gives them; those of a baseline have no `swa_start`.
        average: label of the one that was chosen for it; None: none is.
    """
    swa = params.get("swa_start") is not None
    head = "baseline"
    if swa:
        head = f"SWA_{format_value(params['swa_start'])}"
        if params.get("swa_lr") is not None:
            head += f"_{format_short(params['swa_lr'])}"
    rest = [
        f"{name.removeprefix('train.').removeprefix('averaging.')}={format_short(value)}"
        for name, value in params.items()
        if name not in SWA_CORE
    ]
    return " ".join([head, *rest, *([] if average is None else [f"average={average}"])])


def format_short(value: Value) -> str:
    """Like `format_value`, with at most three significant digits."""
    if isinstance(value, float):
        value = float(f"{value:.3g}")
    return format_value(value)
