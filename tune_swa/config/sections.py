"""The sections of a space file, each setting with its unit and the reason of its default."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from tune_swa.config.arithmetic import ArithmeticSpec, check_arithmetic
from tune_swa.config.augmentation import AugmentationText, ListedText, check_augmentations
from tune_swa.config.averages import AROUND_SWA, AverageSpec, check_averages, name_methods
from tune_swa.config.channels import ChannelStatistics
from tune_swa.config.network_names import ArchName
from tune_swa.config.settings_model import Settings


def _refuse_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("no name of a file has a NUL character in it")
    return text


PathText = Annotated[str, AfterValidator(_refuse_nul)]
Seed = Annotated[int, Field(ge=0, le=10**15)]
"""Fresh seeds are counted on from it, and result files keep them in 64 bits."""


class DataSpec(Settings):
    """The images, their size, and how they are divided."""

    dataset: PathText = "digits"
    """`digits` (scikit-learn's, bundled), `folder` (your own images), or the name of a torchvision
    classification set such as `cifar10`."""
    path: PathText | None = None
    """Folder that holds the images or the download. `--data-dir` overrides it."""
    layout: Literal["auto", "parts", "classes"] = "auto"
    """How the folders of a `folder` set are read. `auto` knows the usual layouts, and refuses folders that
    look like parts of a set (`fold1`, `images` and `masks`) where classes are expected. `classes`: each
    folder in `path` is a class, with all images below it, whatever it is called. `parts`: there are folders
    of parts, such as `train` and `test`, and each folder in these is a class."""
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
    split_seed: Seed = 0
    """Seed of these draws. Kept apart from the training seed, so that every trial and every fresh
    seed sees the same division."""
    suffixes: Literal["all", "torchvision"] = "all"
    """Which files of a folder are images: `all` takes the suffixes of every format that Pillow decodes, and
    skips files of these that are no images; `torchvision` takes those of its ImageFolder alone."""
    unreadable: Literal["error", "skip"] = "error"
    """Images that cannot be decoded: `error` lists them before anything is trained, `skip` leaves them
    out of the set before it is divided, and records which."""
    duplicates: Literal["warn", "error", "group"] = "warn"
    """Images that occur more than once in the set, which make its accuracies look better than they are:
    `warn` counts and names them, identical ones (by their pixels at `image_size`) and nearly identical ones;
    `error` trains nothing where any are identical; `group` keeps all copies of an image on one side of
    every split that is drawn here, and takes copies of given validation and test images out of the parts
    before them. The default leaves the images as they are: which copies to remove is the user's to say."""
    exif_rotation: bool = False
    """Turn images as their EXIF orientation says. torchvision's loader does not."""
    grey_bits: Annotated[int, Field(ge=8, le=16)] = 16
    """Bits that 16-bit greyscale images use, of which the highest eight are kept. Cameras and scanners of
    10, 12 or 14 bits write them into files of 16, which are nearly black otherwise."""
    normalize: Literal["none", "imagenet", "dataset", "auto"] | ChannelStatistics = "none"
    """`none` feeds [0, 1]; `imagenet` subtracts ImageNet's channel means and divides by its
    deviations; `dataset` uses those of the training images; `auto` those that the published weights of
    `model.arch` were trained with (`none` where `model.weights` is none). Or the numbers themselves."""


class ModelSpec(Settings):
    """The network and the weights it starts from."""

    arch: ArchName = "resnet18"
    """A classification network of torchvision, or `timm/NAME` with the extra `timm`, with as many outputs as
    the data has classes. The default is small, and needs no more than a CPU."""
    weights: PathText = "none"
    """`none` (random, by the seed), `imagenet` (the weights that torchvision or timm publishes for the
    network), or a file that torch.save or safetensors wrote: a state_dict, or a checkpoint with one in it,
    whatever its names begin with. A classifier layer of another width is replaced by a fresh one."""
    weights_key: str | None = None
    """Where in that file the network is (`state_dict.ema_model`), if several fit. Default: the only one that
    fits, or of several the one that is usual (`state_dict`, `model`) or is no average."""

    @field_validator("weights_key", mode="after")
    @classmethod
    def _needs_file(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("weights") in ("none", "imagenet"):
            raise ValueError(f"names a place in a file, but model.weights is {info.data['weights']}")
        return value


SCHEDULE_FREE = frozenset({"schedulefree_sgd", "schedulefree_adamw"})
"""Optimizers that evaluate an average of their own instead of following a schedule."""


class TrainSpec(Settings):
    """The base training that SWA stands on."""

    epochs: Annotated[int, Field(ge=2, le=100_000)] = 20
    """Length of every run, baseline and SWA alike. Epochs count from 0."""
    batch_size: Annotated[int, Field(ge=2)] = 64
    """Images per optimizer step. A last batch of one image joins the one before it, since batch
    normalisation cannot train on it."""
    eval_batch_size: PositiveInt = 256
    """Images per evaluation batch. Does not change what is learned."""
    optimizer: Literal["adam", "adamw", "sgd", "schedulefree_sgd", "schedulefree_adamw"] = "adam"
    """`adam` couples weight decay to the gradient (L2), `adamw` decouples it. The schedule-free ones (Defazio
    et al. 2024) train at a constant rate and average their weights after every step; that average is what is
    evaluated and shipped, with batch-normalisation statistics of its own."""
    weight_decay: NonNegativeFloat = 1e-4
    """Weight decay as the optimizer defines it."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of `sgd` (Nesterov), and the weight of the average in the point where the schedule-free
    optimizers take their gradient (above 0; their authors' default is 0.9, too). `adam` and `adamw` keep
    torch's betas."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Shape of the base rate after the warm-up. Default where the optimizer is a schedule-free one:
    `constant`, the only one it has."""
    warmup_epochs: NonNegativeInt = 0
    """Length of the linear warm-up, counted in `unit`s."""
    unit: Literal["epoch", "batch"] = "epoch"
    """Unit in which the base schedule counts. `batch` with a `t_max` of its own gives the wave that stepping
    CosineAnnealingLR once per batch gives."""
    t_max: PositiveInt | None = None
    """Half period of the cosine in `unit`s. Default: from the end of the warm-up to the last one."""
    augment: Annotated[tuple[AugmentationText, ...], AfterValidator(check_augmentations)] = ()
    """Drawn for each image and epoch; each is given by its name or its settings (`config/augmentation.py`).
    Flips and `crop` come first, then the others as listed, `mixup` and `cutmix` last."""
    crop_padding: PositiveInt = 4
    """Pixels of padding for `crop`."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Label smoothing of the training loss (Szegedy et al. 2016). Reported nll is never smoothed."""
    seed: Seed | None = None
    """Training seed of all trials of the search. Default: `search.seed`."""
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    """Format that matrix products and convolutions are computed in. `auto`: bf16 where all GPUs of the
    search have it, else fp16 (with a gradient scaler), else fp32; the CPU runs fp32. `fp32` is IEEE's,
    also where torch would take TF32; `tf32` rounds its inputs to 10 bits (compute capability 8.0 and
    later). Weights, averages, BN statistics and metrics are fp32 always."""
    channels_last: Literal["auto"] | bool = "auto"
    """Memory format of activations and weights. `auto`: channels last, but for images below 64
    pixels on a CPU."""
    fused: Literal["auto"] | bool = "auto"
    """One kernel per optimizer step; of the schedule-free optimizers, one per operation. `auto`: yes."""
    compile: bool = False
    """torch.compile the network. Pays for long trials of large images only."""
    arithmetic: ArithmeticSpec | None = None
    """Low-precision training, simulated in fp32 (`precision: auto` is fp32 with it). Default: none; it shows
    what such hardware would reach, and takes longer."""

    freeze: Literal["none", "backbone", "bn"] = "none"
    """What is left as it begins: `backbone` trains the classifier alone, `bn` all but the batch-normalisation
    layers. Frozen parameters get no gradient and no weight decay, and their batch-normalisation layers
    normalise by the statistics that they begin with, which no refresh recomputes. Default: everything is
    trained, as SWA's authors do."""
    head_lr_factor: PositiveFloat = 1.0
    """What the classifier's rate is of the base rate and of swa_lr. Above 1, a fresh classifier learns faster
    than weights that are trained already, as is usual in fine-tuning. Default: one rate for all."""

    @field_validator("arithmetic", mode="after")
    @classmethod
    def _fits_arithmetic(cls, value: ArithmeticSpec | None, info: ValidationInfo) -> ArithmeticSpec | None:
        return check_arithmetic(value, info.data)

    @property
    def is_schedule_free(self) -> bool:
        """Whether the optimizer evaluates an average of its own."""
        return self.optimizer in SCHEDULE_FREE


DEFAULT_CYCLE, DEFAULT_LOW = 2, 0.2
"""Values of `averaging.cycle_epochs` and `averaging.cycle_low` that are left out."""
TAIL_OF = {
    "anneal_epochs": "constant",
    "anneal_strategy": "constant",
    "cycle_epochs": "cyclic",
    "cycle_low": "cyclic",
}
"""Tails that settings of the averaging section belong to."""


class AveragingSpec(Settings):
    """Settings of the average, its rate and the refresh of its batch-normalisation statistics."""

    tail: Literal["constant", "cyclic", "base"] = "constant"
    """Learning rate after the fork. `constant`: SWALR moves it to swa_lr. `cyclic`: it falls from swa_lr in
    every cycle, and models are taken in at the ends of cycles only (Izmailov et al. 2018, section 3.2).
    `base`: the base schedule goes on, and there is no swa_lr."""
    anneal_epochs: NonNegativeInt = 10
    """Epochs over which SWALR moves from the base rate to swa_lr (torch's default). Of `tail: constant`."""
    anneal_strategy: Literal["cos", "linear"] = "cos"
    """Shape of that move (torch's default)."""
    cycle_epochs: PositiveInt | None = None
    """Epochs of a cycle, of `tail: cyclic`. Default: 2, as in the runs of Garipov et al. 2018 (arXiv
    1802.10026), from which the cycle comes."""
    cycle_low: Annotated[float, Field(gt=0, le=1)] | None = None
    """Rate at the end of a cycle, as a fraction of swa_lr. Default: 0.2, as in the same runs of residual
    networks (0.05 to 0.01)."""
    bn_batches: PositiveInt | None = None
    """Batches of the BN refresh. Default: a full pass over the training images."""
    bn_batch_size: Annotated[int, Field(ge=2)] | None = None
    """Images per batch of the BN refresh. update_bn weights batches equally, so this changes the
    statistics. Default: the training batch size."""
    score: Literal["rungs", "every"] = "rungs"
    """When the averages besides the first are evaluated: after branch rungs and the last epoch, or after
    every epoch. Each costs a BN refresh and a pass over the validation images, as the first does."""

    @field_validator("anneal_epochs", "anneal_strategy", "cycle_epochs", "cycle_low", mode="after")
    @classmethod
    def _fits_tail(cls, value: Any, info: ValidationInfo) -> Any:
        name = str(info.field_name)
        # what is as by default may come from a file that has every setting in it
        if value != cls.model_fields[name].default:
            problem = describe_misplaced(name, info.data.get("tail"))
            if problem is not None:
                raise ValueError(problem)
        return value

    @property
    def cycle_length(self) -> int:
        """Epochs from one model that is taken in to the next; 1 but for `tail: cyclic`."""
        if self.tail != "cyclic":
            return 1
        return DEFAULT_CYCLE if self.cycle_epochs is None else self.cycle_epochs

    @property
    def cycle_end_factor(self) -> float:
        """What swa_lr is multiplied with at the end of a cycle."""
        return DEFAULT_LOW if self.cycle_low is None else self.cycle_low


def describe_misplaced(name: str, tail: str | None) -> str | None:
    """Return why a setting of the averaging section has no effect with this tail; None: it may have one."""
    needed = TAIL_OF.get(name)
    if needed is None or tail is None or tail == needed:
        return None
    return f"has no effect, since averaging.tail is {tail}; leave it out, or give averaging.tail {needed}"


Scalar: TypeAlias = bool | int | float | str | None
Point: TypeAlias = dict[str, Scalar | tuple[ListedText, ...]]


class BaselineSpec(Settings):
    """Settings of the baseline, tuned over everything in the space that is not an SWA setting."""

    trials: Literal["auto"] | PositiveInt = "auto"
    """`auto`: every combination of the listed values where there are at most 8, else a quarter as
    many trials as the search, from the same sampler."""
    points: tuple[Point, ...] | None = None
    """Fixed baseline configurations instead."""
    averages: Annotated[tuple[AverageSpec, ...], AfterValidator(check_averages)] = ()
    """Averages that are scored beside a baseline's last model, of its whole run: on the decaying rate, which
    tells averaging's part from that of the constant rate. The plain last model stays the baseline."""

    @field_validator("averages", mode="after")
    @classmethod
    def _none_needs_constant_rate(cls, value: tuple[AverageSpec, ...]) -> tuple[AverageSpec, ...]:
        if any(average.method in AROUND_SWA for average in value):
            allowed = [name for name in name_methods() if name not in AROUND_SWA]
            names = f"{', '.join(allowed[:-1])} or {allowed[-1]}"
            raise ValueError(f"a baseline has no SWA phase; list {names}, or search swa_start")
        return value

    @model_validator(mode="after")
    def _one_of_two(self) -> BaselineSpec:
        if self.points is not None and self.trials != "auto":
            raise ValueError("give either trials or points, not both")
        if self.points is not None and not self.points:
            raise ValueError("points is empty; leave it out to have the baseline tuned")
        return self


class SearchSpec(Settings):
    """Settings of the sampler, and the number of trials."""

    sampler: Literal["grid", "random", "tpe", "qmc", "gp", "cmaes"] = "tpe"
    """`grid` (every combination), `random`, `tpe` (Optuna's tree-structured Parzen estimator),
    `qmc` (scrambled Sobol points), `gp` (Gaussian process), `cmaes`."""
    trials: PositiveInt | None = None
    """Number of SWA trials, the points included. Default: the whole grid; 24 for other samplers, or with
    `epochs` no more than these."""
    epochs: PositiveInt | None = None
    """Epochs that the search trains, baselines included and shared ones counted once. When as many are
    trained or under way, no further trial begins; the last one may go beyond. Default: no limit."""
    seed: Seed = 0
    """Seed of the sampler, and of the training where `train.seed` is not given."""
    share: bool = True
    """Train once what trials have in common before they average. Changes no result, only the time."""
    reuse: Literal["auto", False] = "auto"
    """`auto`: where `tpe`, `gp` or `random` draws the base rate, or another setting that baselines have, from
    a continuous range, suggestions go along the nearest known trunk while branches have taken fewer epochs
    than trunks. `false`: every suggestion opens a trunk of its own, as in searches that began before there
    was a choice."""
    checkpoint_every: Literal["auto"] | PositiveInt = "auto"
    """Epochs between checkpoints. `auto`: as often as that takes no more than a fiftieth of the time.
    The last epoch is always saved."""
    keep_checkpoints: Literal["best", "all"] = "best"
    """`best` removes a trial's checkpoints once it has ended and another one is better; `all` keeps
    every one, and where `checkpoint_every` is `auto` writes one after every epoch that is trained."""
    max_failures: NonNegativeInt = 2
    """Number of times a trial whose worker died is started again from its last checkpoint."""


class SchedulerSpec(Settings):
    """Early stopping: asynchronous successive halving (Li et al. 2020) by phase."""

    asha: bool = True
    """Stop trials that are below the top 1/reduction_factor at a rung."""
    grace_epochs: PositiveInt = 3
    """No model that is not averaged yet is judged before it has trained this many epochs."""
    reduction_factor: Annotated[float, Field(ge=1.1, le=1000)] = 3
    """One in this many goes on at each rung."""
    trunk_rungs: Literal["auto"] | tuple[NonNegativeInt, ...] = "auto"
    """Epochs (from 0) after which models that are not averaged yet are compared. `auto`: half
    way or after `grace_epochs`, whichever is later; none where every trunk has a baseline of its own."""
    branch_rungs: Literal["auto"] | tuple[NonNegativeInt, ...] = "auto"
    """Epochs (from 0) after which averaged models are compared. `auto`: geometric towards the last
    epoch."""


class ResourcesSpec(Settings):
    """Resources of one trial."""

    gpus_per_trial: Literal["auto"] | Annotated[float, Field(ge=0, le=1)] = "auto"
    """Fraction of a GPU; 0: trials run on the CPU. `auto`: by what a trial takes of the GPU's memory and
    time, which is measured before the search. Raised when there are fewer trials than slots. Ignored with
    `--gpus 0`."""
    cpus_per_trial: PositiveInt = 1
    """CPU cores, which is also the number of torch's threads."""

    @field_validator("gpus_per_trial", mode="after")
    @classmethod
    def _not_tiny(cls, value: float | Literal["auto"]) -> float | Literal["auto"]:
        if value != "auto" and 0 < value < 0.001:
            raise ValueError("expected 'auto', 0 (the CPU) or a number of at least 0.001")
        return value
