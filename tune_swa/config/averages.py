"""The averages of one trajectory that a run observes: one class of settings for each method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, PositiveFloat

from tune_swa.config.settings_model import Settings
from tune_swa.config.values import format_value


class SwaAverage(Settings):
    """Stochastic weight averaging (Izmailov et al. 2018): the mean of the models at the ends of epochs."""

    method: Literal["swa"]
    """Names the method."""

    @property
    def label(self) -> str:
        """Name of the average in tables."""
        return self.method


class EmaAverage(Settings):
    """Exponential moving average of the weights, taken after every optimizer step (Polyak and Juditsky 1992;
    Tarvainen and Valpola 2017)."""

    method: Literal["ema"]
    """Names the method."""
    horizon: PositiveFloat = 2.0
    """In epochs: the decay of a step is exp(-1 / (horizon x steps of an epoch)), so a model's part in the
    average falls to 1/e after so many epochs. An average over two epochs outlives the noise of single steps
    and still follows a decaying rate."""
    statistics: Literal["refresh", "average"] = "refresh"
    """Batch-normalisation statistics: `refresh` recomputes them over the training images, as for SWA;
    `average` averages the live model's like the weights, which needs no pass over the images."""

    @property
    def label(self) -> str:
        """Name of the average in tables."""
        return _join_label(self.method, self.horizon, self.statistics)


class LawaAverage(Settings):
    """Latest weight averaging (Kaddour 2022): the mean of the models at the ends of the last epochs."""

    method: Literal["lawa"]
    """Names the method."""
    last: Annotated[int, Field(ge=2, le=1000)] = 5
    """Number of models in the mean; fewer while there are not that many yet. 5 as in the paper's script."""
    statistics: Literal["refresh", "average"] = "refresh"
    """Batch-normalisation statistics, as for `ema`."""

    @property
    def label(self) -> str:
        """Name of the average in tables."""
        return _join_label(self.method, self.last, self.statistics)


AverageSpec: TypeAlias = Annotated[SwaAverage | EmaAverage | LawaAverage, Field(discriminator="method")]
"""Settings of an average."""


def check_averages(averages: Sequence[AverageSpec]) -> tuple[AverageSpec, ...]:
    """Refuse averages that tables could not tell apart.

    Raises:
        ValueError: two have the same name.
    """
    labels = [average.label for average in averages]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)} is listed twice; leave one out, or give it other settings")
    return tuple(averages)


def _join_label(method: str, number: float, statistics: str) -> str:
    return f"{method}-{format_value(number)}" + ("-averaged-bn" if statistics == "average" else "")
