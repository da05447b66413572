"""The resolved search space: parameters with their domains, and its points."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from tune_swa.config.values import Params, Value, format_value

MAX_WORD = 200
"""Characters of a text that a parameter may have."""
STEP_TOLERANCE = 1e-6
"""How far from a whole number of steps a value may be, in steps."""


@dataclass(frozen=True)
class Choices:
    """A parameter that takes one of `values`."""

    values: tuple[Value, ...]

    def __contains__(self, value: Value) -> bool:
        return any(value == v and isinstance(value, bool) == isinstance(v, bool) for v in self.values)

    def may_hold(self, value: Value) -> bool:
        """Whether a recorded value can be from here: a word, or a number that the tables hold."""
        if isinstance(value, str):
            return value.isprintable() and len(value) <= MAX_WORD
        if isinstance(value, tuple):
            return all(map(self.may_hold, value))
        if isinstance(value, int):  # bool too
            return abs(value) < 2**63
        return value is None or math.isfinite(value)

    @property
    def count(self) -> int | None:
        return len(self.values)

    def list_values(self) -> tuple[Value, ...] | None:
        return self.values

    def describe_values(self) -> str:
        return "one of " + ", ".join(format_value(v) for v in self.values)


@dataclass(frozen=True)
class Range:
    """A number in [low, high], both included; `step` None: any real, or with `integer` any whole one."""

    low: float
    high: float
    step: float | None
    log: bool
    integer: bool

    def __contains__(self, value: Value) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if self.integer and value != int(value):
            return False
        if self.step is None:
            return self.low <= value <= self.high
        slack = STEP_TOLERANCE * self.step
        if not self.low - slack <= value <= self.high + slack:
            return False
        steps = (value - self.low) / self.step
        return abs(steps - round(steps)) < STEP_TOLERANCE

    def round_value(self, value: float) -> int | float:
        """Return the value of the range that is nearest, in the one form that the range has it in."""
        if self.step is not None:
            value = count_steps(self.low, self.step, round((value - self.low) / self.step))
        return int(value) if self.integer else float(value)

    def may_hold(self, value: Value) -> bool:
        """Whether a recorded value can be from here. The last digit of a drawn one may lie outside."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        slack = 1e-6 * max(abs(self.low), abs(self.high))
        return self.low - slack <= value <= self.high + slack

    @property
    def count(self) -> int | None:
        """Number of values, or None where it is continuous."""
        step = self._step
        return None if step is None else round((self.high - self.low) / step) + 1

    def list_values(self) -> tuple[Value, ...] | None:
        """Every value, or None where it is continuous."""
        step, count = self._step, self.count
        if step is None or count is None:
            return None
        if self.integer:
            return tuple(int(self.low + i * step) for i in range(count))
        return tuple(count_steps(self.low, step, i) for i in range(count))

    @property
    def _step(self) -> float | None:
        return 1 if self.integer and self.step is None else self.step

    def describe_values(self) -> str:
        text = f"from {format_value(self.low)} to {format_value(self.high)}"
        if self.step is not None and not (self.integer and self.step == 1):
            text += f" in steps of {format_value(self.step)}"
        return text + (", uniform in the logarithm" if self.log else "")


@dataclass(frozen=True)
class Parameter:
    """One searched parameter."""

    name: str
    domain: Choices | Range
    swa: bool
    """Whether it is an SWA setting, which the baseline does not have."""

    @property
    def value_type(self) -> Literal["bool", "int", "float", "str"]:
        """Type of its column in the result files."""
        if isinstance(self.domain, Range):
            return "int" if self.domain.integer else "float"
        values = [value for value in self.domain.values if value is not None]  # null in any column
        if all(isinstance(v, bool) for v in values):
            return "bool"
        if all(isinstance(v, int) and not isinstance(v, bool) for v in values):
            return "int"
        if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
            return "float"
        return "str"

    def round_value(self, value: Value) -> Value:
        """Return a value of the domain in the one form that the domain has it in."""
        if isinstance(self.domain, Choices) or isinstance(value, str | tuple | None):
            return value
        return self.domain.round_value(value)


def count_steps(low: float, step: float, count: int) -> float:
    """Return `low + count * step` in decimal arithmetic.

    Two steps of 0.1 above 0.1 are 0.3, where floats give 0.30000000000000004: another configuration than
    that of a point which says 0.3, and not what one looks for in a table.
    """
    return float(Decimal(repr(low)) + count * Decimal(repr(step)))


def enumerate_space(parameters: tuple[Parameter, ...]) -> Iterator[Params]:
    """Every combination, the last parameter varying fastest; one empty one without parameters."""
    axes = []
    for parameter in parameters:
        values = parameter.domain.list_values()
        if values is None:
            raise ValueError(f"{parameter.name} is continuous")
        axes.append([(parameter.name, value) for value in values])
    for combination in itertools.product(*axes):
        yield dict(combination)


def count_space(parameters: tuple[Parameter, ...]) -> int | None:
    """Number of combinations, or None where a parameter is continuous."""
    total = 1
    for parameter in parameters:
        count = parameter.domain.count
        if count is None:
            return None
        total *= count
    return total
