"""Settings of low-precision training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from tune_swa.config.settings_model import Settings


class ArithmeticSpec(Settings):
    """Low-precision training (SWALP, Yang et al. 2019): weights, activations, errors, gradients, momentum and
    gradient accumulators are block floating point. Averages stay fp32."""

    bits: Annotated[int, Field(ge=3, le=16)] = 8
    """Bits of each number, its sign included, besides the exponent that a block shares. The paper's 8."""
    rounding: Literal["stochastic", "nearest"] = "stochastic"
    """`stochastic` (the paper's) rounds up with the probability of the distance from the number below: small
    updates survive on average. `nearest` loses what is below half a step."""


def check_arithmetic(value: ArithmeticSpec | None, train: Mapping[str, Any]) -> ArithmeticSpec | None:
    """Refuse low precision beside training settings that it does not go with.

    Raises:
        ValueError: the optimizer, the precision or the compiler of `train` is another than it needs.
    """
    if value is None:
        return None
    if train.get("optimizer", "sgd") != "sgd":
        raise ValueError(
            f"is made for SGD and its momentum, but train.optimizer is {train['optimizer']}; give "
            "train.optimizer=sgd"
        )
    if train.get("precision") in ("tf32", "bf16", "fp16"):
        raise ValueError(
            f"rounds what fp32 computes, but train.precision is {train['precision']}; give "
            "train.precision=fp32 or auto"
        )
    if train.get("compile"):
        raise ValueError("cannot be compiled, but train.compile is true; give train.compile=false")
    return value
