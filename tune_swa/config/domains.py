"""Domains of parameters, as a space file writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

from pydantic import Discriminator, Field, PositiveFloat, PositiveInt, Tag

from tune_swa.config.augmentation import ListedText
from tune_swa.config.sections import Scalar
from tune_swa.config.settings_model import Settings


class ChoiceDomain(Settings):
    """One of the listed values."""

    choice: Annotated[tuple[Scalar | tuple[ListedText, ...], ...], Field(min_length=1)]
    """The values. Duplicates are errors."""


class IntDomain(Settings):
    """A whole number between two bounds, both included."""

    bounds: Annotated[tuple[float, float], Field(alias="int")]
    """Lowest and highest value."""
    step: PositiveInt = 1
    """Distance of the values, counted from the lowest. The highest must be on the grid."""
    log: bool = False
    """Uniform in the logarithm. Excludes a step."""


class UniformDomain(Settings):
    """A real number between two bounds, both included."""

    uniform: tuple[float, float]
    """Lowest and highest value."""
    step: PositiveFloat | None = None
    """Distance of the values, counted from the lowest. The highest must be on the grid."""


class LogUniformDomain(Settings):
    """A real number between two positive bounds, both included, uniform in its logarithm."""

    log_uniform: tuple[PositiveFloat, PositiveFloat]
    """Lowest and highest value."""


RangeDomain: TypeAlias = IntDomain | UniformDomain | LogUniformDomain


class ConstantDomain(Settings):
    """One value; the same as writing it bare."""

    constant: Scalar | tuple[ListedText, ...]


_DOMAIN_KEYS = {
    "choice": "choice",
    "int": "int",
    "bounds": "int",
    "uniform": "uniform",
    "log_uniform": "log_uniform",
    "constant": "constant",
}


_DOMAIN_TAGS: dict[type, str] = {
    ChoiceDomain: "choice",
    IntDomain: "int",
    UniformDomain: "uniform",
    LogUniformDomain: "log_uniform",
    ConstantDomain: "constant",
}


def _domain_tag(value: Any) -> str | None:
    if isinstance(value, Mapping):
        return next((_DOMAIN_KEYS[key] for key in value if key in _DOMAIN_KEYS), None)
    if isinstance(value, list | tuple) and not all(isinstance(v, str | Mapping) for v in value):
        return None
    return _DOMAIN_TAGS.get(type(value), "bare")


Domain: TypeAlias = Annotated[
    Annotated[ChoiceDomain, Tag("choice")]
    | Annotated[IntDomain, Tag("int")]
    | Annotated[UniformDomain, Tag("uniform")]
    | Annotated[LogUniformDomain, Tag("log_uniform")]
    | Annotated[ConstantDomain, Tag("constant")]
    | Annotated[Scalar | tuple[ListedText, ...], Tag("bare")],
    Discriminator(
        _domain_tag,
        custom_error_type="domain",
        custom_error_message="expected a value, or one of choice, int, uniform, log_uniform, constant, "
        "such as {choice: [1, 2]}",
    ),
]
