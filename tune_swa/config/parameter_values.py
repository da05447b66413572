"""Convert values and ranges of a space file to the type of the parameter that they are for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from tune_swa.config.domains import IntDomain, RangeDomain, UniformDomain
from tune_swa.config.search_space import STEP_TOLERANCE, Range, count_steps
from tune_swa.config.settings_model import Settings
from tune_swa.config.space_file import SpaceFile
from tune_swa.config.space_problems import SpaceProblem
from tune_swa.config.validation_errors import describe_problem
from tune_swa.config.values import CORE_PARAMETERS, Value, format_value

MAX_STEPS = 1_000_000
"""Values of a stepped range. With more than these, the steps are lost in a float's last bits."""
LARGEST = 2**63 - 1
"""Range of whole numbers: the result files keep them in 64 bits."""


def convert_value(spec: SpaceFile, name: str, value: Any) -> Value:
    """Return `value` in the type of the field it is for.

    Raises:
        SpaceProblem: it is no value of that parameter.
    """
    if name == "swa_start":
        return _convert_swa_start(value, spec.train.epochs)
    if name in CORE_PARAMETERS:
        number = _parse_number(value)
        if number is None or number <= 0:
            raise SpaceProblem("expected a number greater than 0", value)
        return number
    section, _, field = name.partition(".")
    current: Settings = getattr(spec, section)
    try:
        validated = type(current).model_validate({**current.model_dump(), field: value})
    except ValidationError as error:
        raise SpaceProblem(describe_problem(error.errors()[0]), value) from None
    result: Value = getattr(validated, field)
    if isinstance(result, int) and result > LARGEST:
        raise SpaceProblem("expected a number that fits in 64 bits", value)
    return result


def _convert_swa_start(value: Any, epochs: int) -> int:
    number = _parse_number(value)
    last = epochs - 2
    below = format_value(math.floor(1e4 * (epochs - 1) / epochs) / 1e4)
    allowed = (
        f"expected a whole number from 0 to {last}, or a fraction of train.epochs below {below} "
        f"(train.epochs is {epochs}, and at least one epoch must be averaged)"
    )
    if number is not None and 0 < number < 1:
        number = math.floor(number * epochs + 1e-9)
        if number > last:
            raise SpaceProblem(f"is epoch {number} of {epochs}; {allowed}", value)
    if number is None or number != int(number) or not 0 <= number <= last:
        raise SpaceProblem(allowed, value)
    return int(number)


def _parse_number(value: Any) -> float | None:
    """A finite number, also if it is written as text ("5e-5", which YAML 1.1 takes for a string)."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):  # a whole number can be larger than any float
        return None
    return number if math.isfinite(number) else None


def list_bounds(domain: RangeDomain) -> tuple[str, tuple[float, float]]:
    """Return the key of a range in the space file, and its bounds as written."""
    if isinstance(domain, IntDomain):
        return "int", domain.bounds
    if isinstance(domain, UniformDomain):
        return "uniform", domain.uniform
    return "log_uniform", domain.log_uniform


def build_range(name: str, domain: RangeDomain, ends: Sequence[Value]) -> Range:
    """Build the range of a parameter.

    Args:
        name: of the parameter.
        domain: as the space file has it.
        ends: its bounds, converted.

    Raises:
        SpaceProblem: the bounds or the step do not fit together, or not the parameter.
    """
    key, written = list_bounds(domain)
    bounds, loc, integer = list(written), (key,), isinstance(domain, IntDomain)
    low, high = _check_types(name, key, bounds, ends)
    if low > high:
        raise SpaceProblem("expected the lower bound first", bounds, loc)
    step = None if key == "log_uniform" else domain.step  # type: ignore[union-attr]
    if key == "log_uniform" or (isinstance(domain, IntDomain) and domain.log):
        if low <= 0:
            raise SpaceProblem("expected bounds greater than 0 for a logarithm", bounds, loc)
        if step not in (None, 1):
            raise SpaceProblem("a step and log exclude each other; leave one out", step, ("step",))
        return Range(low, high, None, log=True, integer=integer)
    if step is not None:
        high = _find_last_step(name, low, high, step, bounds, key)
    return Range(low, high, step, log=False, integer=integer)


def _check_types(name: str, key: str, bounds: list[float], ends: Sequence[Value]) -> tuple[float, float]:
    """Return both ends as floats, if a range of this kind fits the parameter's type."""
    low, high = (v if isinstance(v, int | float) and not isinstance(v, bool) else None for v in ends)
    if name == "swa_start" and key != "int":
        raise SpaceProblem("expected choice or int: averaging starts at an epoch", key)
    if low is None or high is None:
        raise SpaceProblem("expected choice: the values are not numbers", key)
    if key == "int" and (low != int(low) or high != int(high)):
        message = "expected whole numbers; for real ones write uniform or log_uniform"
        raise SpaceProblem(message, bounds, (key,))
    if key != "int" and isinstance(low, int) and isinstance(high, int):
        raise SpaceProblem("expected choice or int: the values are whole numbers", key)
    return float(low), float(high)


def _find_last_step(name: str, low: float, high: float, step: float, bounds: list[float], key: str) -> float:
    """Return the last value in steps from `low`, which has to be `high`."""
    steps = (high - low) / step
    if steps >= MAX_STEPS:
        message = f"the range has more than {MAX_STEPS:,} values; take a larger step"
        raise SpaceProblem(message, bounds, (key,))
    if name == "swa_start" and any(0 < bound < 1 for bound in bounds):
        # nobody can be asked to write fractions that are a number of steps apart
        return low + math.floor(steps + 1e-9) * step
    if abs(steps - round(steps)) > STEP_TOLERANCE:
        reached = count_steps(low, step, math.floor(steps))
        raise SpaceProblem(
            f"{format_value(bounds[1])} is not reached from {format_value(low)} in steps of "
            f"{format_value(step)}; write {format_value(reached)}",
            bounds,
            (key,),
        )
    return count_steps(low, step, round(steps))
