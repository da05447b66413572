"""Statistics of the colour channels that images are normalised with."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from tune_swa.config.settings_model import Settings

_Mean = Annotated[float, Field(ge=-10, le=10)]
_Deviation = Annotated[float, Field(gt=0, le=10)]


def _check_count(values: tuple[float, ...]) -> tuple[float, ...]:
    if len(values) != 3:
        raise ValueError("expected three numbers, of red, green and blue")
    return values


class ChannelStatistics(Settings):
    """Means and deviations of red, green and blue, on the scale [0, 1]."""

    mean: Annotated[tuple[_Mean, ...], AfterValidator(_check_count)]
    """Subtracted from each channel."""
    std: Annotated[tuple[_Deviation, ...], AfterValidator(_check_count)]
    """What the difference is divided by."""
