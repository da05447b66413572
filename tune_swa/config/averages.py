"""The averages of one trajectory that a run observes: one class of settings for each method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, PositiveFloat, model_validator

from tune_swa.config.settings_model import Settings
from tune_swa.config.values import format_value

DEFAULT_RANK = 20
"""Of SWAG's low-rank part."""
DEFAULT_SCALES = {False: 0.5, True: 1.0}
"""Of SWAG's covariance, by whether it is diagonal."""


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


class SwagAverage(Settings):
    """SWAG (Maddox et al. 2019): weights drawn from a Gaussian around SWA's mean, whose predictions are
    averaged. Of weights it hands over the mean, which is SWA's average."""

    method: Literal["swag"]
    """Names the method."""
    diagonal: bool = False
    """Leave the low-rank part of the covariance out (SWAG-Diagonal)."""
    rank: Annotated[int, Field(ge=0, le=1000)] = Field(
        default_factory=lambda given: 0 if given.get("diagonal") else DEFAULT_RANK
    )
    """Models whose deviations make the low-rank part, the last ones. 20 as in the paper; 0 with
    `diagonal`."""
    samples: Annotated[int, Field(ge=1, le=1000)] = 30
    """Draws of a run whose test images are predicted, each with a BN refresh. 30 as in the paper."""
    search_samples: Annotated[int, Field(ge=1, le=1000)] = 8
    """Draws of the other runs, after their last epoch. The mean over 8 is near enough to compare by."""
    scale: Annotated[float, Field(ge=0, le=100)] = Field(
        default_factory=lambda given: DEFAULT_SCALES[bool(given.get("diagonal"))]
    )
    """Factor of the covariance. As in the paper 0.5, where each part counts half; 1 with `diagonal`."""

    @model_validator(mode="after")
    def _rank_or_diagonal(self) -> SwagAverage:
        if self.diagonal and self.rank:
            raise ValueError(
                f"rank {self.rank} is of the low-rank part, which diagonal: true leaves out; take one of the "
                "two out"
            )
        if not self.diagonal and self.rank < 2:
            raise ValueError(
                f"rank {self.rank} has no deviations to draw along; give 2 or more, or diagonal: true"
            )
        return self

    @property
    def label(self) -> str:
        """Name of the average in tables."""
        scale = "" if self.scale == DEFAULT_SCALES[self.diagonal] else f"-scale{format_value(self.scale)}"
        return f"{self.method}-{'diagonal' if self.diagonal else self.rank}{scale}"


AverageSpec: TypeAlias = Annotated[
    SwaAverage | EmaAverage | LawaAverage | SwagAverage, Field(discriminator="method")
]
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


def count_snapshots(averages: Sequence[AverageSpec]) -> int:
    """Number of models at the ends of epochs that averages look back at."""
    lengths = [
        average.last if average.method == "lawa" else average.rank
        for average in averages
        if average.method in ("lawa", "swag")
    ]
    return max(lengths, default=0)


def _join_label(method: str, number: float, statistics: str) -> str:
    return f"{method}-{format_value(number)}" + ("-averaged-bn" if statistics == "average" else "")
