"""The averages of one trajectory that a run observes: one class of settings for each method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias, get_args

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from tune_swa.config.settings_model import Settings
from tune_swa.config.values import format_value

DEFAULT_RANK = 20
"""Of SWAG's low-rank part."""
TRACKED_LENGTHS = (0.05, 0.10)
"""Of power-function averages: those that are updated in training, as in the paper."""
POWER_SNAPSHOTS = 8
"""Most snapshots of each of them. With eight a profile is off by 1.2 % at most for lengths of 0.06 to 0.12,
after any number of epochs from ten on; with sixteen by 0.9 %."""
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


class PowerWarmup(Settings):
    """A decay that grows as 1 - (1 + q / gamma)^-power, q steps after its start, up to that of the horizon
    (ema-pytorch, timm)."""

    method: Literal["power"]
    """Names the warm-up."""
    power: Annotated[float, Field(gt=0, le=1)] = 2 / 3
    """How fast it grows; 1 with gamma 1 gives the plain mean of the models until the horizon is reached. 2/3
    as in both packages."""
    gamma: PositiveFloat = 1.0
    """In steps: the decay stays low so long. 1 as in both packages."""
    start: NonNegativeFloat = 0.0
    """In epochs: until then the average is a copy of the live model."""
    lowest: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Least decay of a step from then on."""


class RampWarmup(Settings):
    """A half-life that grows with the steps taken, up to that of the horizon (Karras et al. 2022)."""

    method: Literal["ramp"]
    """Names the warm-up."""
    ratio: Annotated[float, Field(gt=0, le=1)] = 0.05
    """Of the half-life to the steps taken so far. 0.05 as in the paper's program."""


Warmup: TypeAlias = Annotated[PowerWarmup | RampWarmup, Field(discriminator="method")]
"""How an average's decay grows at its beginning."""


class EmaAverage(Settings):
    """Exponential moving average of the weights, taken after every optimizer step (Polyak and Juditsky 1992;
    Tarvainen and Valpola 2017)."""

    method: Literal["ema"]
    """Names the method."""
    horizon: PositiveFloat = 2.0
    """In epochs: the decay of a step is exp(-1 / (horizon x steps of an epoch)), so a model's part in the
    average falls to 1/e after so many epochs. An average over two epochs outlives the noise of single steps
    and still follows a decaying rate."""
    warmup: Warmup | None = None
    """Lets the decay grow at first, so that a horizon of many epochs forgets the first models: a baseline's
    are near its random weights. Default: the same decay from the first step on."""
    statistics: Literal["refresh", "average"] = "refresh"
    """Batch-normalisation statistics: `refresh` recomputes them over the training images, as for SWA;
    `average` averages the live model's like the weights, which needs no pass over the images."""

    @property
    def label(self) -> str:
        """Name of the average in tables."""
        return _join_label(self.method, self.horizon, self.statistics) + _name_warmup(self.warmup)


class PowerEmaAverage(Settings):
    """Exponential moving average by a power function, which remembers a part of the run so far (Karras et al.
    2024). Lengths besides 0.05 and 0.1 are solved for from snapshots of the averages of these two."""

    method: Literal["power_ema"]
    """Names the method."""
    length: Annotated[float, Field(ge=0.04, le=0.15)] = 0.1
    """Standard deviation of what is remembered, as a part of the steps so far (the paper's sigma_rel). 0.1 is
    the longer of the paper's two. Outside of the limits what is solved for would be off by more than 3 %."""

    @property
    def label(self) -> str:
        """Name of the average in tables."""
        return f"{self.method}-{format_value(self.length)}"


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


class SwadAverage(Settings):
    """Dense averaging over the epochs in which the live model's loss on the validation images stays low (Cha
    et al. 2021). The window is chosen on these images, so the average's score on them is optimistic."""

    method: Literal["swad"]
    """Names the method."""
    converge: Annotated[int, Field(ge=2, le=1000)] = 3
    """In epochs: the window begins with the first of so many whose loss is the least of theirs. 3 as in the
    paper."""
    tolerance: Annotated[int, Field(ge=1, le=1000)] = 6
    """In epochs: the window ends before so many in a row whose loss is above the threshold. 6 as in the
    paper."""
    ratio: PositiveFloat = 0.3
    """The threshold is 1 + ratio times the mean loss with which the window begins. 0.3 as in the paper."""

    @property
    def label(self) -> str:
        """Name of the average in tables."""
        return f"{self.method}-{self.converge}-{self.tolerance}-{format_value(self.ratio)}"


class SubspaceAverage(Settings):
    """Subspace inference (Izmailov et al. 2019): predictions averaged over samples of the weights' posterior
    in the subspace of the trajectory's first principal components around SWA's mean."""

    method: Literal["subspace"]
    """Names the method."""
    rank: Annotated[int, Field(ge=1, le=20)] = 5
    """Dimensions of the subspace, at most one fewer than the models collected. 5 as its authors recommend;
    their code's default is 2."""
    samples: Annotated[int, Field(ge=1, le=1000)] = 30
    """Samples of a run that predicts the test images, each with a BN refresh. 30 as in the published code."""
    search_samples: Annotated[int, Field(ge=1, le=1000)] = 8
    """Samples of the other runs, after their last epoch, as for `swag`."""
    temperature: Literal["auto"] | PositiveFloat = "auto"
    """Divides the log-likelihood. At 1 it is the posterior itself, which in so few dimensions thousands of
    images make very narrow. `auto`: a tenth of the number of training images, as its authors' 5,000 for
    CIFAR's 50,000."""
    prior: PositiveFloat = 1.0
    """Standard deviation of the prior of each coordinate, in units of the trajectory's standard deviation
    along that component. 1 as in the published code."""
    last: Annotated[int, Field(ge=2, le=1000)] = 20
    """Number of epochs at whose ends deviations are taken, the last ones. 20 as in the published code."""
    fit_batches: PositiveInt | None = 16
    """Batches of the training images, without augmentation, from which the likelihood of all is estimated, of
    the size of the BN refresh's; null: all. A sample takes a few passes over them. 16 keep that small beside
    the refresh of each sample."""

    @model_validator(mode="after")
    def _fewer_than_models(self) -> SubspaceAverage:
        if self.rank >= self.last:
            raise ValueError(
                f"rank {self.rank} needs deviations of {self.rank + 1} epochs, but last is {self.last}; "
                f"raise last to {self.rank + 1}, or lower rank to {self.last - 1}"
            )
        return self

    @property
    def label(self) -> str:
        """Name of the average in tables: its rank, then whatever is not by default."""
        parts = [f"{self.method}-{self.rank}"]
        for name in ("samples", "temperature", "prior", "last", "fit_batches"):
            value = getattr(self, name)
            if value != type(self).model_fields[name].default:
                parts.append(f"{name}-{'all' if value is None else format_value(value)}")
        return "-".join(parts)


AverageSpec: TypeAlias = Annotated[
    SwaAverage | EmaAverage | PowerEmaAverage | LawaAverage | SwadAverage | SwagAverage | SubspaceAverage,
    Field(discriminator="method"),
]
"""Settings of an average."""

AROUND_SWA = ("swa", "swag", "subspace")
"""Methods whose mean is SWA's: they need the epochs after a fork."""


def name_methods() -> list[str]:
    """Return the names of all methods, in the order of their types."""
    types = get_args(get_args(AverageSpec)[0])
    return [name for each in types for name in get_args(each.model_fields["method"].annotation)]


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


CHOOSABLE = ("swa", "ema", "lawa", "power_ema")
"""Methods among which `objective.of: best` chooses: those of one set of weights, whose scores on the
validation images owe nothing to these. Not swad, whose window they choose, nor those that draw members."""


def list_choosable(averages: Sequence[AverageSpec]) -> list[str]:
    """Return the labels of the averages among which `objective.of: best` chooses."""
    return [average.label for average in averages if average.method in CHOOSABLE]


def move_first(averages: Sequence[AverageSpec], label: str) -> tuple[AverageSpec, ...]:
    """Return the averages with the one of this label first, so that it leads.

    Raises:
        ValueError: none has it, or it cannot be chosen.
    """
    if label not in list_choosable(averages):
        raise ValueError(f"no average {label!r} can be chosen"[:200])
    return tuple(sorted(averages, key=lambda average: average.label != label))


def count_snapshots(averages: Sequence[AverageSpec]) -> int:
    """Number of models at the ends of epochs that averages look back at."""
    lengths = [
        average.rank if average.method == "swag" else average.last
        for average in averages
        if average.method in ("lawa", "swag", "subspace")
    ]
    return max(lengths, default=0)


def count_weights(averages: Sequence[AverageSpec]) -> int:
    """Number of sets of weights that averages have in a checkpoint, besides SWA's and what the bank has."""
    kept = count_tracked(averages)
    if any(average.method == "power_ema" and average.length not in TRACKED_LENGTHS for average in averages):
        kept += kept * POWER_SNAPSHOTS
    for average in averages:
        if average.method == "ema":
            kept += 1
        elif average.method == "swad":  # segments, the mean of those before, and a part of a segment
            kept += max(average.converge, average.tolerance) + 2
        elif average.method == "swag":  # its mean and the squares
            kept += 2
        elif average.method == "subspace":  # its mean
            kept += 1
    return kept


def count_tracked(averages: Sequence[AverageSpec]) -> int:
    """Number of power-function averages that are updated in training, for all lengths together."""
    lengths = {average.length for average in averages if average.method == "power_ema"}
    return len(TRACKED_LENGTHS) if lengths - {*TRACKED_LENGTHS} else len(lengths)


def _join_label(method: str, number: float, statistics: str) -> str:
    return f"{method}-{format_value(number)}" + ("-averaged-bn" if statistics == "average" else "")


def _name_warmup(warmup: Warmup | None) -> str:
    """Name a warm-up by its method and the settings that differ from their defaults."""
    if warmup is None:
        return ""
    changed = warmup.model_dump(exclude_defaults=True, exclude={"method"})
    return f"-warmup-{warmup.method}" + "".join(f"-{name}-{format_value(v)}" for name, v in changed.items())
