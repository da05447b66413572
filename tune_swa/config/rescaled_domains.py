"""Rescale numbers of epochs, and the domains that hold them, as a space file has them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tune_swa.config.values import format_value


@dataclass(frozen=True)
class EpochScale:
    """From runs of so many epochs to runs of another number."""

    old: int
    new: int

    def scale_length(self, length: float, *, most: int | None = None) -> int:
        """Return a length in proportion, rounded to the nearest (half up) and at least 1 where it was.

        Args:
            length: a whole number.
            most: largest value that it may have; None: any.
        """
        number = int(length)
        scaled = max(min(number, 1), (2 * number * self.new + self.old) // (2 * self.old))
        return scaled if most is None else min(scaled, most)

    def scale_start(self, start: Any, latest: int, *, least: int = 0) -> Any:
        """Return an epoch in proportion, rounded down as fractions of the epochs are. A fraction stays one
        where it fits.

        Args:
            start: a number of an epoch, or a fraction.
            latest: largest epoch that it may be.
            least: smallest one.
        """
        number = float(start)
        if 0 < number < 1:
            return start if self.resolve_start(start) <= latest else latest
        return min(max(int(number) * self.new // self.old, least), latest)

    def resolve_start(self, start: Any) -> int:
        """Return the epoch of a rescaled start, which may be a fraction."""
        number = float(start)
        return math.floor(number * self.new + 1e-9) if 0 < number < 1 else int(number)

    def scale_horizon(self, horizon: float) -> float:
        """Return a time in epochs in proportion, to three digits."""
        return float(f"{horizon * self.new / self.old:.3g}")


def rescale_domain(domain: Any, convert: Callable[[Any], Any], scale: EpochScale) -> tuple[Any, bool]:
    """Rescale a domain or value; also return whether values that became equal were merged."""
    if not isinstance(domain, dict):
        return convert(domain), False
    if "choice" in domain:
        values = [convert(value) for value in domain["choice"]]
        known = [_number_of(value, scale) for value in values]
        kept = [value for index, value in enumerate(values) if known[index] not in known[:index]]
        return {**domain, "choice": kept}, len(kept) < len(values)
    if "constant" in domain:
        return {**domain, "constant": convert(domain["constant"])}, False
    return _rescale_range(domain, convert, scale), False


def _rescale_range(
    domain: dict[str, Any], convert: Callable[[Any], Any], scale: EpochScale
) -> dict[str, Any]:
    """Rescale a range of whole numbers and its step; its highest value stays a whole number of steps away."""
    low, high = map(convert, domain["int"])
    bottom, top = (scale.resolve_start(end) for end in (low, high))
    if bottom > top:  # a fraction and a number round differently
        low, bottom = high, top
    new = {**domain}
    if domain["log"] and bottom == 0:
        low = bottom = min(1, top)
        new["log"] = bottom > 0
    if domain["step"] > 1:
        new["step"] = step = min(scale.scale_length(domain["step"]), max(1, top - bottom))
        last = bottom + (top - bottom) // step * step
        high = high if last == top else last
    if (low, high) != tuple(domain["int"]):  # not one as a fraction and one as a number
        low, high = (scale.resolve_start(end) for end in (low, high))
    new["int"] = [_plain(low), _plain(high)]
    return new


def move_into(value: Any, domain: Any, scale: EpochScale) -> Any:
    """Return the value of a rescaled domain that is nearest to `value`, or `value` where it is one."""
    if not isinstance(domain, dict):
        return value if domain is None else domain
    if "constant" in domain:
        return domain["constant"]
    number = _number_of(value, scale)
    if "choice" in domain:
        if any(_number_of(choice, scale) == number for choice in domain["choice"]):
            return value
        return min(domain["choice"], key=lambda choice: _distance(_number_of(choice, scale), number))
    low, high = (scale.resolve_start(end) for end in domain["int"])
    step = domain["step"]
    wanted = low if number is None else number
    nearest = low + step * min(max(round((wanted - low) / step), 0), (high - low) // step)
    return value if nearest == number else nearest


def describe_domain(domain: Any) -> str:
    """Describe a domain, value or list as a line of a plan has it."""
    if isinstance(domain, list):
        return ", ".join(map(format_value, map(_plain, domain))) or "none"
    if not isinstance(domain, dict):
        return "by default" if domain is None else format_value(_plain(domain))
    if "choice" in domain:
        return describe_domain(domain["choice"])
    if "constant" in domain:
        return describe_domain(domain["constant"])
    low, high = (format_value(_plain(end)) for end in domain["int"])
    step = f" in steps of {domain['step']}" if domain["step"] > 1 else ""
    return f"from {low} to {high}{step}"


def _number_of(value: Any, scale: EpochScale) -> int | None:
    return None if value is None else scale.resolve_start(value)


def _distance(one: int | None, other: int | None) -> float:
    if one is None or other is None:
        return 0.0 if one is other else math.inf
    return abs(one - other)


def _plain(value: Any) -> Any:
    """Write 60.0 as 60."""
    return int(value) if isinstance(value, float) and value == int(value) else value
