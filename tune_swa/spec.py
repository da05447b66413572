"""What an experiment is: the space file as pydantic models, and the search space they resolve to.

Everything else in the package takes its settings from here. Reading YAML, line numbers and
`--set` live in `tune_swa.spacefile`; this module knows only values.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    PrivateAttr,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

Value: TypeAlias = int | float | str | bool | tuple[str, ...] | None
"""One setting's value. JSON can hold all of them (tuples as lists)."""

Params: TypeAlias = dict[str, Value]
"""A configuration: parameter name (`lr`, `swa_start`, `train.weight_decay`, ...) to value."""

CORE_PARAMETERS = ("lr", "swa_start", "swa_lr")
SWA_CORE = ("swa_start", "swa_lr")
NOT_SEARCHABLE = {
    "train.epochs": "rungs and curves are compared at the same epoch of the same schedule",
    "train.seed": "the search compares configurations on one seed",
    "train.precision": "numerics are resolved once for a whole experiment",
    "train.channels_last": "numerics are resolved once for a whole experiment",
    "train.fused": "numerics are resolved once for a whole experiment",
    "train.compile": "numerics are resolved once for a whole experiment",
}
SMALL_BASELINE = 8
"""Up to this many combinations, `baseline.trials: auto` tries every one of them."""


class Settings(BaseModel):
    """Base of all settings: unknown keys are errors, values do not change after validation."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        populate_by_name=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )


# ---------------------------------------------------------------------------------- data, model


class DataSpec(Settings):
    """Which images, at what size, and how they are divided."""

    dataset: str = "digits"
    """`digits` (scikit-learn's, bundled), `folder` (your own images), or the name of a torchvision
    classification set such as `cifar10`."""
    path: str | None = None
    """Folder that holds the images or the download. `--data-dir` overrides it."""
    image_size: Annotated[int, Field(ge=8, le=2048)] = 32
    """Height and width that every image is resized to, in pixels (bilinear with antialiasing)."""
    resize: Literal["squash", "crop"] = "squash"
    """`squash` resizes both sides to `image_size` (torchvision's `Resize((s, s))`); `crop` resizes
    the short side and takes the centre."""
    train_images: PositiveInt | None = None
    """Use only this many training images, drawn evenly over the classes. Default: all."""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the training images held out for validation, where the set brings no validation
    images of its own. Stratified by class."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Share held out as test images, where the set brings none of its own. Stratified."""
    split_seed: NonNegativeInt = 0
    """Seed of these draws. Kept apart from the training seed, so that every trial and every fresh
    seed sees the same division."""
    normalize: Literal["none", "imagenet", "dataset"] = "none"
    """`none` feeds [0, 1]; `imagenet` subtracts ImageNet's channel means and divides by its
    deviations; `dataset` uses those of the training images."""


class ModelSpec(Settings):
    """The network and the weights it starts from."""

    arch: Literal["resnet18"] = "resnet18"
    """torchvision's ResNet-18, with as many outputs as the data has classes."""
    weights: str = "none"
    """`none` (random, by the seed), `imagenet` (torchvision's download), or a state_dict file.
    A classifier layer of another width is replaced by a fresh one."""


# -------------------------------------------------------------------------- training, averaging


class TrainSpec(Settings):
    """The base training that SWA stands on."""

    epochs: Annotated[int, Field(ge=2, le=100_000)] = 20
    """Length of every run, baseline and SWA alike. Epochs count from 0."""
    batch_size: Annotated[int, Field(ge=2)] = 64
    """Images per optimizer step. A last batch of one image joins the one before it, since batch
    normalisation cannot train on it."""
    eval_batch_size: PositiveInt = 256
    """Images per evaluation batch. Does not change what is learned."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    """`adam` couples weight decay to the gradient (L2), `adamw` decouples it."""
    weight_decay: NonNegativeFloat = 1e-4
    """As the optimizer defines it."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Of `sgd` (Nesterov); the Adams keep torch's betas."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Shape of the base rate after the warm-up."""
    warmup_epochs: NonNegativeInt = 0
    """Length of the linear warm-up, counted in `unit`s."""
    unit: Literal["epoch", "batch"] = "epoch"
    """What the base schedule counts. `batch` with a `t_max` of its own gives the wave that stepping
    CosineAnnealingLR once per batch gives."""
    t_max: PositiveInt | None = None
    """Half period of the cosine in `unit`s. Default: from the end of the warm-up to the last one."""
    augment: tuple[Literal["hflip", "vflip", "crop"], ...] = ()
    """Drawn for each image and epoch: mirror left-right, mirror top-bottom, shift by up to
    `crop_padding` pixels (zero padding)."""
    crop_padding: PositiveInt = 4
    """Pixels of padding for `crop`."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Of the training loss (Szegedy et al. 2016). Reported nll is never smoothed."""
    seed: NonNegativeInt | None = None
    """Training seed of all trials of the search. Default: `search.seed`."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Autocast type. `auto`: bf16 where the GPU has it, else fp16 (with a gradient scaler), else
    fp32; the CPU runs fp32. Averages, BN statistics and metrics are fp32 always."""
    channels_last: Literal["auto"] | bool = "auto"
    """Memory format of activations and weights. `auto`: channels last."""
    fused: Literal["auto"] | bool = "auto"
    """One kernel per optimizer step. `auto`: yes."""
    compile: bool = False
    """torch.compile the network. Pays for long trials of large images only."""

    @field_validator("augment", mode="after")
    @classmethod
    def _no_duplicates(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError("an operation is listed twice")
        return value


class AveragingSpec(Settings):
    """How the average is taken and its batch-normalisation statistics refreshed."""

    anneal_epochs: NonNegativeInt = 10
    """Epochs over which SWALR moves from the base rate to swa_lr (torch's default)."""
    anneal_strategy: Literal["cos", "linear"] = "cos"
    """Shape of that move (torch's default)."""
    bn_batches: PositiveInt | None = None
    """Batches of the BN refresh. Default: a full pass over the training images."""
    bn_batch_size: Annotated[int, Field(ge=2)] | None = None
    """Images per batch of the BN refresh. update_bn weights batches equally, so this changes the
    statistics. Default: the training batch size."""


# ------------------------------------------------------------------------------ domains, as files

Scalar: TypeAlias = bool | int | float | str | None


class ChoiceDomain(Settings):
    """One of the listed values."""

    choice: Annotated[tuple[Scalar | tuple[str, ...], ...], Field(min_length=1)]
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


class ConstantDomain(Settings):
    """One value; the same as writing it bare."""

    constant: Scalar | tuple[str, ...]


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
    return _DOMAIN_TAGS.get(type(value), "bare")


Domain: TypeAlias = Annotated[
    Annotated[ChoiceDomain, Tag("choice")]
    | Annotated[IntDomain, Tag("int")]
    | Annotated[UniformDomain, Tag("uniform")]
    | Annotated[LogUniformDomain, Tag("log_uniform")]
    | Annotated[ConstantDomain, Tag("constant")]
    | Annotated[Scalar | tuple[str, ...], Tag("bare")],
    Discriminator(
        _domain_tag,
        custom_error_type="domain",
        custom_error_message="expected a value, or one of choice, int, uniform, log_uniform, constant",
    ),
]


# -------------------------------------------------------------------- search, scheduler, the rest

Point: TypeAlias = dict[str, Scalar | tuple[str, ...]]


class BaselineSpec(Settings):
    """How the baseline is tuned: over everything in the space that is not an SWA setting."""

    trials: Literal["auto"] | PositiveInt = "auto"
    """`auto`: every combination of the listed values where there are at most 8, else a quarter as
    many trials as the search, from the same sampler."""
    points: tuple[Point, ...] | None = None
    """Fixed baseline configurations instead."""

    @model_validator(mode="after")
    def _one_of_two(self) -> BaselineSpec:
        if self.points is not None and self.trials != "auto":
            raise ValueError("give either trials or points, not both")
        if self.points is not None and not self.points:
            raise ValueError("points is empty; leave it out to have the baseline tuned")
        return self


class SearchSpec(Settings):
    """What proposes configurations, and how many."""

    sampler: Literal["grid", "random", "tpe", "qmc", "gp", "cmaes"] = "tpe"
    """`grid` (every combination), `random`, `tpe` (Optuna's tree-structured Parzen estimator),
    `qmc` (scrambled Sobol points), `gp` (Gaussian process), `cmaes`."""
    trials: PositiveInt | None = None
    """Number of SWA trials, the points included. Default: the whole grid; 24 for other samplers."""
    seed: NonNegativeInt = 0
    """Seed of the sampler, and of the training where `train.seed` is not given."""
    checkpoint_every: PositiveInt = 1
    """Epochs between checkpoints. The last epoch is always saved."""
    keep_checkpoints: Literal["best", "all"] = "best"
    """`best` removes a trial's checkpoints once it has ended and another one is better; `all` keeps
    every one that was written."""
    max_failures: NonNegativeInt = 2
    """How often a trial whose worker died is started again from its last checkpoint."""


class SchedulerSpec(Settings):
    """Early stopping: asynchronous successive halving (Li et al. 2020) by phase."""

    asha: bool = True
    """Stop trials that are below the top 1/reduction_factor at a rung."""
    grace_epochs: PositiveInt = 3
    """First rung of the trunk: no trial is judged before it has trained this many epochs."""
    reduction_factor: Annotated[float, Field(gt=1)] = 3
    """One in this many goes on at each rung."""
    trunk_rungs: Literal["auto"] | tuple[NonNegativeInt, ...] = "auto"
    """Epochs (from 0) after which models that are not averaged yet are compared. `auto`: geometric
    from `grace_epochs`."""
    branch_rungs: Literal["auto"] | tuple[NonNegativeInt, ...] = "auto"
    """Epochs (from 0) after which averaged models are compared. `auto`: geometric towards the last
    epoch."""


class ResourcesSpec(Settings):
    """What one trial may use."""

    gpus_per_trial: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Fraction of a GPU. Raised when there are fewer trials than places. Ignored with `--gpus 0`."""
    cpus_per_trial: PositiveInt = 1
    """CPU cores, which is also the number of torch's threads."""


class ConfirmSpec(Settings):
    """How the finalists are re-run on fresh seeds after the search."""

    top: PositiveInt = 2
    """Number of finalists."""
    seeds: PositiveInt = 5
    """Fresh seeds for each, the same for all."""


# ------------------------------------------------------------------------- the resolved space


@dataclass(frozen=True)
class Choices:
    """A parameter that takes one of `values`."""

    values: tuple[Value, ...]

    def contains(self, value: Value) -> bool:
        return any(value == v and isinstance(value, bool) == isinstance(v, bool) for v in self.values)

    def enumerate(self) -> tuple[Value, ...] | None:
        return self.values

    def describe(self) -> str:
        return "one of " + ", ".join(format_value(v) for v in self.values)


@dataclass(frozen=True)
class Range:
    """A number in [low, high], both included; `step` None means continuous."""

    low: float
    high: float
    step: float | None
    log: bool
    integer: bool

    def contains(self, value: Value) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if not self.low <= value <= self.high:
            return False
        if self.integer and value != int(value):
            return False
        if self.step is None:
            return True
        steps = (value - self.low) / self.step
        return abs(steps - round(steps)) < 1e-9

    def enumerate(self) -> tuple[Value, ...] | None:
        """Values of a stepped range, or None where it is continuous."""
        if self.step is None:
            return None
        count = round((self.high - self.low) / self.step) + 1
        if self.integer:
            return tuple(int(self.low + i * self.step) for i in range(count))
        return tuple(min(self.low + i * self.step, self.high) for i in range(count))

    def describe(self) -> str:
        text = f"from {format_value(self.low)} to {format_value(self.high)}"
        if self.step is not None and not (self.integer and self.step == 1):
            text += f" in steps of {format_value(self.step)}"
        return text + (", uniform in the logarithm" if self.log else "")


@dataclass(frozen=True)
class Parameter:
    """One searched parameter."""

    name: str
    domain: Choices | Range
    swa: bool
    """Whether it is an SWA setting, which the baseline does not have."""

    @property
    def value_type(self) -> Literal["bool", "int", "float", "str"]:
        """Type of its column in the result files."""
        if isinstance(self.domain, Range):
            return "int" if self.domain.integer else "float"
        values = self.domain.values
        if all(isinstance(v, bool) for v in values):
            return "bool"
        if all(isinstance(v, int) and not isinstance(v, bool) for v in values):
            return "int"
        if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
            return "float"
        return "str"


class RunSettings(Settings):
    """Everything one run needs to know besides the data and the machine."""

    lr: PositiveFloat
    """Base learning rate."""
    swa_start: NonNegativeInt | None = None
    """Averaging takes in the model after every epoch > swa_start. None: a baseline."""
    swa_lr: PositiveFloat | None = None
    """Rate that SWALR anneals to. None: a baseline."""
    seed: NonNegativeInt = 0
    """Seed of initialisation, order and augmentation."""
    model: ModelSpec = ModelSpec()
    train: TrainSpec = TrainSpec()
    averaging: AveragingSpec = AveragingSpec()

    @model_validator(mode="after")
    def _swa_complete(self) -> RunSettings:
        if (self.swa_start is None) != (self.swa_lr is None):
            raise ValueError("swa_start and swa_lr go together: give both (SWA) or neither (baseline)")
        if self.swa_start is not None and self.swa_start > self.train.epochs - 2:
            raise ValueError(
                f"swa_start {self.swa_start} averages nothing in {self.train.epochs} epochs; "
                f"allowed: 0 to {self.train.epochs - 2}"
            )
        return self

    @property
    def fork_epoch(self) -> int | None:
        """Epoch whose trained weights are the first average (`swa_start + 1`); None: a baseline."""
        return None if self.swa_start is None else self.swa_start + 1


class Experiment(Settings):
    """One experiment: what a space file describes."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    """Name of its folder under `results/`."""
    data: DataSpec = DataSpec()
    model: ModelSpec = ModelSpec()
    train: TrainSpec = TrainSpec()
    averaging: AveragingSpec = AveragingSpec()
    space: dict[str, Domain]
    """`lr`, `swa_start`, `swa_lr` and any `train.*` or `averaging.*` field: a domain, or a value."""
    points: tuple[Point, ...] = ()
    """Configurations that are tried first. A `train.*` or `averaging.*` parameter that a point
    leaves out keeps the value of its section."""
    baseline: BaselineSpec = BaselineSpec()
    search: SearchSpec = SearchSpec()
    scheduler: SchedulerSpec = SchedulerSpec()
    resources: ResourcesSpec = ResourcesSpec()
    confirm: ConfirmSpec = ConfirmSpec()

    _resolved: Any = PrivateAttr(default=None)  # a _Resolver, once validation has run

    @model_validator(mode="after")
    def _resolve(self) -> Experiment:
        resolver = _Resolver(self)
        resolver.run()
        if resolver.problems:
            raise ValidationError.from_exception_data("Experiment", resolver.problems)
        self._resolved = resolver
        return self

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Searched parameters, in the order of the file."""
        return tuple(self._resolved.parameters)

    @property
    def constants(self) -> Params:
        """Parameters of the space that have one value."""
        return dict(self._resolved.constants)

    @property
    def baseline_parameters(self) -> tuple[Parameter, ...]:
        """Searched parameters that a baseline has too."""
        return tuple(p for p in self.parameters if not p.swa)

    @property
    def swa_points(self) -> tuple[Params, ...]:
        """`points`, completed and in the parameters' types."""
        return tuple(dict(p) for p in self._resolved.swa_points)

    @property
    def baseline_points(self) -> tuple[Params, ...] | None:
        """Every baseline configuration, where they are fixed beforehand; None: sampled."""
        if self._resolved.baseline_points is not None:
            return tuple(dict(p) for p in self._resolved.baseline_points)
        combinations = self._baseline_combinations
        if combinations is None:
            return None
        if self.baseline.trials == "auto":
            small = len(combinations) <= SMALL_BASELINE
            return combinations if small or self.search.sampler == "grid" else None
        fits = self.baseline.trials >= len(combinations)
        if fits or self.search.sampler == "grid":
            return combinations[: self.baseline.trials]
        return None

    @property
    def baseline_trials(self) -> int:
        """Number of baseline runs."""
        if self.baseline_points is not None:
            return len(self.baseline_points)
        if self.baseline.trials != "auto":
            return self.baseline.trials
        return max(1, self.swa_trials // 4)

    @cached_property
    def _baseline_combinations(self) -> tuple[Params, ...] | None:
        return (
            tuple(enumerate_space(self.baseline_parameters))
            if ((count_space(self.baseline_parameters) or math.inf) <= 100_000)
            else None
        )

    @property
    def swa_trials(self) -> int:
        """Number of SWA trials, the points included."""
        size = count_space(self.parameters)
        wanted = self.search.trials
        if wanted is None:
            wanted = size if self.search.sampler == "grid" else 24
        assert wanted is not None  # a grid is always countable
        return wanted if size is None else min(wanted, size)

    @property
    def seed(self) -> int:
        """Training seed of the search stage."""
        return self.search.seed if self.train.seed is None else self.train.seed

    def baseline_settings(self, params: Mapping[str, Value], *, seed: int | None = None) -> RunSettings:
        """Settings of a baseline run; `params` has no SWA settings."""
        return self._settings(params, baseline=True, seed=seed)

    def swa_settings(self, params: Mapping[str, Value], *, seed: int | None = None) -> RunSettings:
        """Settings of an SWA run; `params` has every searched parameter."""
        return self._settings(params, baseline=False, seed=seed)

    def configuration(self, params: Mapping[str, Value], *, swa: bool) -> Params:
        """What tells a trial from others: `lr`, `swa_start` and `swa_lr` wherever the space has
        them, then the other searched parameters. A baseline has no SWA settings."""
        known = {**self.constants, **params}
        core = {n: known[n] for n in CORE_PARAMETERS if n in known and (swa or n not in SWA_CORE)}
        return {**core, **{name: value for name, value in params.items() if name not in core}}

    def identity(self) -> dict[str, Any]:
        """What may not change between a run and its resumption, as plain JSON values."""
        dumped = self.model_dump(mode="json", by_alias=True, exclude={"resources", "confirm"})
        for key in ("trials", "checkpoint_every", "keep_checkpoints", "max_failures"):
            dumped["search"].pop(key, None)
        # a default path and the same path given on the command line are one experiment
        dumped["data"].pop("path", None)
        return dumped

    def _settings(self, params: Mapping[str, Value], *, baseline: bool, seed: int | None) -> RunSettings:
        merged = {**self.constants, **params}
        sections: dict[str, dict[str, Value]] = {"train": {}, "averaging": {}}
        core: dict[str, Value] = {}
        for name, value in merged.items():
            section, _, field = name.partition(".")
            if field:
                sections[section][field] = value
            elif not (baseline and name in SWA_CORE):
                core[name] = value
        return RunSettings.model_validate(
            {
                **core,
                "seed": self.seed if seed is None else seed,
                "model": self.model,
                "train": self.train.model_copy(update=sections["train"]),
                "averaging": self.averaging.model_copy(update=sections["averaging"]),
            }
        )


# ------------------------------------------------------------------------------- helpers


def enumerate_space(parameters: tuple[Parameter, ...]) -> Iterator[Params]:
    """Every combination, the last parameter varying fastest; one empty one without parameters."""
    axes = []
    for parameter in parameters:
        values = parameter.domain.enumerate()
        if values is None:
            raise ValueError(f"{parameter.name} is continuous")
        axes.append([(parameter.name, value) for value in values])
    for combination in itertools.product(*axes):
        yield dict(combination)


def count_space(parameters: tuple[Parameter, ...]) -> int | None:
    """Number of combinations, or None where a parameter is continuous."""
    total = 1
    for parameter in parameters:
        values = parameter.domain.enumerate()
        if values is None:
            return None
        total *= len(values)
    return total


def params_key(params: Mapping[str, Value]) -> tuple[tuple[str, Value], ...]:
    """Hashable form of a configuration; equal configurations have equal keys."""
    return tuple(sorted(params.items()))


def distinct(points: tuple[Params, ...]) -> list[Params]:
    """The configurations without repetitions, in order."""
    return list({params_key(p): p for p in points}.values())


def format_value(value: Value) -> str:
    """The shortest readable form that still reads back as the same number (`5e-5`, not `5e-05`)."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return str(value).lower() if isinstance(value, bool) else str(value)
    if isinstance(value, tuple):
        return "+".join(value) or "none"
    if isinstance(value, int):
        return str(value)
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    text = repr(value)
    if value != 0 and (abs(value) < 1e-2 or abs(value) >= 1e6) and "e" not in text:
        digits = len(text.replace("0.", "", 1).lstrip("0").replace(".", "").rstrip("0")) or 1
        text = f"{value:.{digits - 1}e}"
        if float(text) != value:
            text = repr(value)
    mantissa, e, exponent = text.partition("e")
    if not e:
        return text
    if mantissa.endswith(".0"):
        mantissa = mantissa[:-2]
    return f"{mantissa}e{int(exponent)}"


def label(params: Mapping[str, Value]) -> str:
    """A configuration in the tutorial's notation: `SWA_90_5e-5 lr=1e-4`, or `baseline lr=1e-4`.

    Args:
        params: as `Experiment.configuration` gives them; those of a baseline have no `swa_start`.
    """
    swa = params.get("swa_start") is not None
    head = "baseline"
    if swa:
        head = f"SWA_{format_value(params['swa_start'])}_{format_short(params['swa_lr'])}"
    rest = [
        f"{name.removeprefix('train.').removeprefix('averaging.')}={format_short(value)}"
        for name, value in params.items()
        if name not in SWA_CORE
    ]
    return " ".join([head, *rest])


def format_short(value: Value) -> str:
    """Like `format_value`, with at most three significant digits."""
    if isinstance(value, float):
        value = float(f"{value:.3g}")
    return format_value(value)


class _Resolver:
    """Turns the space as written into parameters and constants, collecting every problem."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.parameters: list[Parameter] = []
        self.constants: Params = {}
        self.swa_points: list[Params] = []
        self.baseline_points: list[Params] | None = None
        self.problems: list[InitErrorDetails] = []

    def __eq__(self, other: object) -> bool:
        """Experiments compare their private parts too, and this one follows from the others."""
        return isinstance(other, _Resolver)

    __hash__ = None  # type: ignore[assignment]

    def run(self) -> _Resolver:
        spec = self.experiment
        for core in CORE_PARAMETERS:
            if core not in spec.space:
                self._problem(("space",), f"{core} is missing; give it a domain or a value", None)
        for name, domain in spec.space.items():
            self._parameter(name, domain)
        if self.problems:
            return self
        self._grid_is_countable()
        self._warmup_fits()
        for index, point in enumerate(spec.points):
            completed = self._point(("points", index), point, self.parameters, self.constants)
            if completed is not None:
                self.swa_points.append(completed)
        if spec.baseline.points is not None:
            self.baseline_points = []
            parameters = [p for p in self.parameters if not p.swa]
            constants = {n: v for n, v in self.constants.items() if not is_swa_setting(n)}
            for index, point in enumerate(spec.baseline.points):
                completed = self._point(("baseline", "points", index), point, parameters, constants)
                if completed is not None:
                    self.baseline_points.append(completed)
            self.baseline_points = distinct(tuple(self.baseline_points))
        for field in ("trunk_rungs", "branch_rungs"):
            rungs = getattr(spec.scheduler, field)
            if rungs != "auto" and (
                list(rungs) != sorted(set(rungs)) or rungs[-1:] >= (spec.train.epochs - 1,)
            ):
                self._problem(
                    ("scheduler", field),
                    f"expected rising epochs between 0 and {spec.train.epochs - 2}",
                    list(rungs),
                )
        if spec.scheduler.asha and spec.scheduler.grace_epochs > spec.train.epochs:
            self._problem(
                ("scheduler", "grace_epochs"),
                f"expected at most train.epochs ({spec.train.epochs})",
                spec.scheduler.grace_epochs,
            )
        return self

    # -- one parameter

    def _parameter(self, name: str, domain: Any) -> None:
        loc = ("space", name)
        if name in NOT_SEARCHABLE:
            self._problem(loc, f"cannot be searched: {NOT_SEARCHABLE[name]}; set it in its section", None)
            return
        if not self._known(name):
            return
        before = len(self.problems)
        if isinstance(domain, ChoiceDomain):
            values = [self._value(name, v, (*loc, "choice", i)) for i, v in enumerate(domain.choice)]
            if len(self.problems) > before:
                return
            if len({(type(v), v) for v in values}) < len(values):
                self._problem((*loc, "choice"), "a value stands twice", list(domain.choice))
                return
            self._add(name, Choices(tuple(values)))
        elif isinstance(domain, IntDomain | UniformDomain | LogUniformDomain):
            resolved = self._range(name, domain)
            if resolved is not None:
                self._add(name, resolved)
        else:
            bare = domain.constant if isinstance(domain, ConstantDomain) else domain
            value = self._value(name, bare, loc)
            if len(self.problems) == before:
                self.constants[name] = value

    def _add(self, name: str, domain: Choices | Range) -> None:
        values = domain.enumerate() if isinstance(domain, Choices) or domain.step else None
        if values is not None and len(values) == 1:
            self.constants[name] = values[0]
        else:
            self.parameters.append(Parameter(name, domain, swa=is_swa_setting(name)))

    def _known(self, name: str) -> bool:
        if name in CORE_PARAMETERS:
            return True
        section, _, field = name.partition(".")
        models: dict[str, type[Settings]] = {"train": TrainSpec, "averaging": AveragingSpec}
        if section in models and field in models[section].model_fields:
            return True
        allowed = [*CORE_PARAMETERS, *(f"{s}.{f}" for s, m in models.items() for f in m.model_fields)]
        allowed = [a for a in allowed if a not in NOT_SEARCHABLE]
        self.problems.append(
            InitErrorDetails(
                type=PydanticCustomError("unknown_parameter", "not a parameter", {"allowed": allowed}),
                loc=("space", name),
                input=None,
            )
        )
        return False

    def _value(self, name: str, value: Any, loc: tuple[str | int, ...]) -> Value:
        """`value` in the type of the field it is for; problems are collected."""
        epochs = self.experiment.train.epochs
        if name == "swa_start":
            number = _number(value)
            if number is None:
                self._problem(loc, f"expected an epoch from 0 to {epochs - 2}, or a fraction of them", value)
                return None
            if 0 < number < 1:
                number = math.floor(number * epochs + 1e-9)
            if number != int(number) or not 0 <= number <= epochs - 2:
                self._problem(
                    loc,
                    f"expected a whole number from 0 to {epochs - 2} (train.epochs is {epochs} and at "
                    "least one epoch must be averaged), or a fraction of train.epochs below 1",
                    value,
                )
                return None
            return int(number)
        if name in CORE_PARAMETERS:
            number = _number(value)
            if number is None or not 0 < number < math.inf:
                self._problem(loc, "expected a number greater than 0", value)
                return None
            return float(number)
        section, _, field = name.partition(".")
        current: Settings = getattr(self.experiment, section)
        try:
            validated = type(current).model_validate({**current.model_dump(), field: value})
        except ValidationError as error:
            self._problem(loc, error.errors()[0]["msg"], value)
            return None
        result: Value = getattr(validated, field)
        return result

    def _range(self, name: str, domain: IntDomain | UniformDomain | LogUniformDomain) -> Range | None:
        key, bounds, step, log = _range_parts(domain)
        loc = ("space", name, key)
        before = len(self.problems)
        integer = isinstance(domain, IntDomain)
        sample = self._value(name, bounds[0], (*loc, 0)), self._value(name, bounds[1], (*loc, 1))
        if len(self.problems) > before:
            return None
        if name == "swa_start" and not integer:
            self._problem(loc[:2], "expected choice or int: averaging starts at an epoch", key)
            return None
        if any(isinstance(v, bool) or not isinstance(v, int | float) for v in sample):
            self._problem(loc[:2], "expected choice: the values are not numbers", key)
            return None
        low, high = (float(v) for v in sample if isinstance(v, int | float))
        if integer and (low != int(low) or high != int(high)):
            self._problem(
                loc, "expected whole numbers; for real ones write uniform or log_uniform", list(bounds)
            )
            return None
        needs_int = all(isinstance(v, int) for v in sample)
        if needs_int and not integer:
            self._problem(loc[:2], "expected choice or int: the values are whole numbers", key)
            return None
        if low > high:
            self._problem(loc, "expected the lower bound first", list(bounds))
            return None
        if log and low <= 0:
            self._problem(loc, "expected bounds greater than 0 for a logarithm", list(bounds))
            return None
        if log and step not in (None, 1):
            self._problem((*loc[:2], "step"), "a step and log exclude each other", step)
            return None
        if step is not None:
            steps = (high - low) / step
            if name == "swa_start" and any(0 < b < 1 for b in bounds):
                high = low + math.floor(steps + 1e-9) * step
            elif abs(steps - round(steps)) > 1e-6:
                reach = low + math.floor(steps) * step
                self._problem(
                    loc,
                    f"{format_value(bounds[1])} is not reached from {format_value(low)} in steps of "
                    f"{format_value(step)}; write {format_value(reach)}",
                    list(bounds),
                )
                return None
        return Range(low, high, step, log, integer)

    # -- checks across parameters

    def _grid_is_countable(self) -> None:
        if self.experiment.search.sampler != "grid":
            return
        for parameter in self.parameters:
            values = parameter.domain.enumerate()
            if values is None:
                self._problem(
                    ("space", parameter.name),
                    "a grid takes choice and stepped ranges only; list values, or use another "
                    "search.sampler (tpe, random, qmc, gp, cmaes)",
                    None,
                )
        size = count_space(tuple(self.parameters))
        if size is not None and size > 100_000:
            self._problem(
                ("space",), f"the grid has {size:,} points; allowed: 100,000. Use another sampler", None
            )

    def _warmup_fits(self) -> None:
        """A warm-up as long as the run would never reach the base rate."""
        train = self.experiment.train
        candidates: list[tuple[tuple[str, ...], Value]] = [(("train", "warmup_epochs"), train.warmup_epochs)]
        for parameter in self.parameters:
            if parameter.name == "train.warmup_epochs":
                high = parameter.domain.enumerate()
                candidates = [
                    (("space", parameter.name), max(int(v) for v in high or () if isinstance(v, int)))
                ]
            if parameter.name == "train.unit":
                return  # the two units differ too much for one bound
        if "train.warmup_epochs" in self.constants:
            candidates = [(("space", "train.warmup_epochs"), self.constants["train.warmup_epochs"])]
        unit = self.constants.get("train.unit", train.unit)
        for loc, value in candidates:
            if unit == "epoch" and isinstance(value, int) and value >= train.epochs:
                self._problem(loc, f"expected fewer than train.epochs ({train.epochs})", value)

    def _point(
        self,
        loc: tuple[str | int, ...],
        point: Mapping[str, Any],
        parameters: list[Parameter],
        constants: Params,
    ) -> Params | None:
        before = len(self.problems)
        known = {p.name: p for p in parameters}
        for name, raw in point.items():
            if name in known:
                continue
            if name not in constants:
                allowed = ", ".join([*known, *constants])
                self._problem((*loc, name), f"not a parameter of the space; allowed: {allowed}", raw)
            elif self._value(name, raw, (*loc, name)) != constants[name]:
                fixed = format_value(constants[name])
                self._problem((*loc, name), f"the space fixes it at {fixed}", raw)
        completed: Params = {}
        for name, parameter in known.items():
            if name in point:
                value = self._value(name, point[name], (*loc, name))
            elif "." in name:
                section, _, field = name.partition(".")
                value = getattr(getattr(self.experiment, section), field)
            else:
                self._problem(loc, f"{name} is missing", dict(point))
                continue
            if len(self.problems) > before:
                continue
            if not parameter.domain.contains(value):
                self._problem(
                    (*loc, name) if name in point else loc,
                    f"{name} is outside the space; allowed: {parameter.domain.describe()}",
                    value,
                )
            completed[name] = value
        return completed if len(self.problems) == before else None

    def _problem(self, loc: tuple[str | int, ...], message: str, value: Any) -> None:
        # braces in a user's value must not be taken for the template's
        escaped = message.replace("{", "{{").replace("}", "}}")
        self.problems.append(
            InitErrorDetails(type=PydanticCustomError("space", escaped), loc=loc, input=value)
        )


def is_swa_setting(name: str) -> bool:
    """Whether a parameter only exists once weights are averaged."""
    return name in SWA_CORE or name.startswith("averaging.")


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return value
    if isinstance(value, str):  # "5e-5", which YAML 1.1 takes for a string
        try:
            return float(value)
        except ValueError:
            return None
    return None


def _range_parts(
    domain: IntDomain | UniformDomain | LogUniformDomain,
) -> tuple[str, tuple[float, float], float | None, bool]:
    if isinstance(domain, IntDomain):
        return "int", domain.bounds, None if domain.log else domain.step, domain.log
    if isinstance(domain, UniformDomain):
        return "uniform", domain.uniform, domain.step, False
    return "log_uniform", domain.log_uniform, None, True
