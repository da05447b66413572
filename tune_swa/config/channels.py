"""Statistics of the colour channels that images are normalised with."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tune_swa.config.settings_model import Settings

_Mean = Annotated[float, Field(ge=-10, le=10)]
_Deviation = Annotated[float, Field(gt=0, le=10)]


class ChannelStatistics(Settings):
    """Means and deviations of red, green and blue, on the scale [0, 1]."""

    mean: tuple[_Mean, _Mean, _Mean]
    """Subtracted from each channel."""
    std: tuple[_Deviation, _Deviation, _Deviation]
    """What the difference is divided by."""
