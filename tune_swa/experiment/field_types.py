"""What the numbers of a journal can be, for the events and for what they hold.

The limits are wide: nothing that a search writes is near them. They keep away what no date, table, figure or
memory can hold.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Required, TypedDict, TypeVar

import msgspec
from msgspec import Meta

Time = Annotated[float, Meta(ge=0, le=253_402_300_799)]
"""In seconds since 1970; dates end with the year 9999."""
Seconds = Annotated[float, Meta(ge=0, le=1e10)]
"""That something took."""
Number = Annotated[float, Meta(ge=-3.5e38, le=3.5e38)]
"""As far as single precision goes."""
Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0, le=1_000_000_000)]
Epoch = Annotated[int, Meta(ge=0, le=1_000_000)]
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""As the tables hold it."""


class EpochFields(TypedDict, total=False):
    """What a trial reports of an epoch. Keys that are not here are left to newer versions."""

    epoch: Required[Epoch]
    accuracy: Required[Share]
    phase: Literal["trunk", "branch"]
    learning_rate: Number | None
    train_loss: Number | None
    live_accuracy: Share | None
    nll: Number | None
    nll_sd: Annotated[float, Meta(ge=0, le=3.5e38)] | None
    ece: Number | None
    n_averaged: Count | None
    train_seconds: Seconds | None
    bn_seconds: Seconds | None
    eval_seconds: Seconds | None
    images_per_second: Number | None
    shared_from: str | None
    average: str
    """Of which it reports the scores, where an objective chooses among several; absent in the trunk."""


class ScoreFields(TypedDict, total=False):
    """Evaluation of one average on the validation images."""

    accuracy: Required[Share]
    nll: Required[Number]
    members: Required[Count]
    ece: Number
    seconds: Seconds


class Metrics(TypedDict, total=False):
    """Of one model on one part of the images."""

    accuracy: Required[Share]
    nll: Required[Number]
    ece: Number
    brier: Number
    temperature: Annotated[float, Meta(gt=0, le=1e10)]
    """Fitted on the validation images, for the following ones; absent in older journals, like them."""
    nll_calibrated: Number
    ece_calibrated: Number
    brier_calibrated: Number


_T = TypeVar("_T")


def convert_checked(value: Any, kind: type[_T]) -> _T:
    """Convert plain values to a type with its limits.

    Raises:
        msgspec.ValidationError: naming the field, and what was expected.
    """
    try:
        return msgspec.convert(value, kind, str_keys=True)
    except OverflowError:  # a whole number that no float holds
        raise msgspec.ValidationError("a number is out of range") from None
    except UnicodeEncodeError:  # a lone surrogate in place of a number or a word
        raise msgspec.ValidationError("a text is not what is expected there") from None
