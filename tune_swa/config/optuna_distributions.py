"""A searched parameter in Optuna's terms: for its samplers, and for files that it reads."""

from __future__ import annotations

from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from tune_swa.config import Choices, Parameter, Value, format_value


def to_distribution(parameter: Parameter) -> BaseDistribution:
    """Optuna's form of a parameter's domain; bounds are included in both."""
    domain = parameter.domain
    if isinstance(domain, Choices):
        return CategoricalDistribution([encode_value(v) for v in domain.values])
    if domain.integer:
        return IntDistribution(int(domain.low), int(domain.high), log=domain.log, step=int(domain.step or 1))
    return FloatDistribution(domain.low, domain.high, log=domain.log, step=domain.step)


def encode_value(value: Value) -> Any:
    """Optuna's categories are plain values, so a list of names becomes one name."""
    return format_value(value) if isinstance(value, tuple) else value


def decode_value(parameter: Parameter, value: Any) -> Value:
    """The inverse of `encode_value`."""
    if isinstance(parameter.domain, Choices):
        encoded = ((v, encode_value(v)) for v in parameter.domain.values)
        return next(v for v, e in encoded if e == value and type(e) is type(value))
    return parameter.domain.round_value(value)
