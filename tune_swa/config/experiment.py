"""One experiment and one run of it: the whole space file, and what a single training needs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PrivateAttr,
    field_validator,
    model_validator,
)

from tune_swa.config.averages import AverageSpec, SwaAverage, count_snapshots, move_first
from tune_swa.config.merging import SwapSpec
from tune_swa.config.objective import Metric
from tune_swa.config.search_space import Choices, Parameter, count_space, enumerate_space
from tune_swa.config.sections import (
    AveragingSpec,
    ModelSpec,
    TrainSpec,
)
from tune_swa.config.settings_model import Settings
from tune_swa.config.space_file import SpaceFile
from tune_swa.config.space_problems import check_budget, describe_long_cycle
from tune_swa.config.space_resolver import ResolvedSpace, raise_problems, resolve_space
from tune_swa.config.values import CORE_PARAMETERS, SWA_CORE, Params, Value, format_label
from tune_swa.seeds import derive_seed

MAX_COMBINATIONS = 100_000
"""Most baseline configurations that are all run; more are sampled."""
SMALL_BASELINE = 8
"""Up to this many combinations, `baseline.trials: auto` tries every one of them."""
REUSING_SAMPLERS = frozenset({"tpe", "gp", "random"})
"""Samplers whose suggestions may be moved. CMA-ES and Sobol points rely on being where they are."""


class RunSettings(Settings):
    """Settings of one run, besides the data and the machine."""

    lr: PositiveFloat
    """Base learning rate."""
    swa_start: NonNegativeInt | None = None
    """Averaging takes in the model after every epoch > swa_start. None: a baseline."""
    swa_lr: PositiveFloat | None = None
    """Rate that SWALR anneals to, or that a cycle begins at. None: a baseline, or `averaging.tail: base`."""
    seed: NonNegativeInt = 0
    """Seed of initialisation, order and augmentation."""
    model: ModelSpec = ModelSpec()
    train: TrainSpec = TrainSpec()
    averaging: AveragingSpec = AveragingSpec()
    averages: tuple[AverageSpec, ...] = ()
    """Averages that the run observes, the leading one first; none: SWA alone, or of a baseline none."""
    chosen_by: Metric | None = None
    """Metric by which an epoch that scores all averages reports the best one. None: it reports the first."""
    member: NonNegativeInt = 0
    """Of SWAP: numbers the order and augmentation of images after the fork; 0: those of a run by itself."""
    branch_batch_size: Annotated[int, Field(ge=2)] | None = None
    """Images per optimizer step after the fork. None: as before it."""

    @field_validator("train", mode="after")
    @classmethod
    def _drop_schedule(cls, train: TrainSpec) -> TrainSpec:
        """Leave the schedule of a search's other optimizers out: a trunk's name has it otherwise."""
        if not train.is_schedule_free:
            return train
        return train.model_copy(update={"schedule": "constant", "t_max": None})

    @model_validator(mode="after")
    def _swa_complete(self) -> RunSettings:
        goes_on = self.averaging.tail == "base"
        if goes_on and self.swa_lr is not None:
            raise ValueError("swa_lr has no effect: with averaging.tail base the base schedule goes on")
        if not goes_on and (self.swa_start is None) != (self.swa_lr is None):
            raise ValueError("swa_start and swa_lr go together: give both (SWA) or neither (baseline)")
        if self.swa_start is not None and self.swa_start > self.train.epochs - 2:
            raise ValueError(
                f"swa_start {self.swa_start} averages nothing in {self.train.epochs} epochs; "
                f"allowed: 0 to {self.train.epochs - 2}"
            )
        if self.averaging.tail == "cyclic" and self.swa_start is not None:
            problem = describe_long_cycle(self.train.epochs, self.swa_start, self.averaging.cycle_length)
            if problem is not None:
                raise ValueError(problem)
        return self

    @property
    def leader(self) -> AverageSpec | None:
        """The average that epochs report and that is shipped; None: a baseline, whose live model is."""
        if self.swa_start is None:
            return None
        return self.averages[0] if self.averages else SwaAverage(method="swa")

    @property
    def fork_epoch(self) -> int | None:
        """Epoch whose trained weights are the first average (`swa_start + 1`); None: a baseline."""
        return None if self.swa_start is None else self.swa_start + 1

    def is_after_fork(self, epoch: int) -> bool:
        """Whether an epoch is trained after the first average; of a baseline none is."""
        return self.fork_epoch is not None and epoch > self.fork_epoch

    def choose_seed(self, epoch: int) -> int:
        """Return the seed of an epoch's order, augmentation and layers: after the fork the member's own."""
        if not self.member or not self.is_after_fork(epoch):
            return self.seed
        return derive_seed(self.seed, "member", self.member)

    def choose_batch_size(self, epoch: int) -> int:
        """Return the images per optimizer step of an epoch."""
        own = self.branch_batch_size if self.is_after_fork(epoch) else None
        return self.train.batch_size if own is None else own

    @property
    def snapshot_span(self) -> int:
        """Epochs, up to any one, at whose ends are the models that averages look back at."""
        cycle = 1 if self.swa_start is None else self.averaging.cycle_length
        return count_snapshots(self.averages) * cycle

    def is_collecting(self, epoch: int) -> bool:
        """Whether averages of epoch ends take in the model of this epoch: from the fork on every one, with
        cycles those at their ends (the fork ends the first), and of a baseline every one."""
        if self.fork_epoch is None:
            return True
        return epoch >= self.fork_epoch and (epoch - self.fork_epoch) % self.averaging.cycle_length == 0


class Experiment(SpaceFile):
    """One experiment: what a space file describes."""

    _resolved: ResolvedSpace = PrivateAttr(default_factory=ResolvedSpace)

    @model_validator(mode="after")
    def _resolve_space(self) -> Experiment:
        self._resolved = resolve_space(self)
        raise_problems(check_budget(self, self.baseline_trials))
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
        if (count_space(self.baseline_parameters) or math.inf) > MAX_COMBINATIONS:
            return None
        combinations = self._baseline_combinations
        wanted = SMALL_BASELINE if self.baseline.trials == "auto" else self.baseline.trials
        if self.search.sampler == "grid":
            return combinations if self.baseline.trials == "auto" else combinations[:wanted]
        return combinations if len(combinations) <= wanted else None

    @property
    def swap(self) -> SwapSpec | None:
        """Settings of SWAP; None: no configuration gets further members."""
        return next((merge for merge in self.merge if merge.method == "swap"), None)

    @property
    def every_trunk_has_a_baseline(self) -> bool:
        """Whether the baselines are every combination of what is searched apart from SWA."""
        points = self.baseline_points
        return points is not None and len(points) == count_space(self.baseline_parameters)

    @property
    def baseline_trials(self) -> int:
        """Number of baseline runs."""
        if self.baseline_points is not None:
            return len(self.baseline_points)
        if self.baseline.trials != "auto":
            return self.baseline.trials
        if self.search.trials is None and self.search.epochs is not None:  # a fifth of its whole runs
            return max(1, self.search.epochs // self.train.epochs // 5)
        return max(1, self.swa_trials // 4)

    @cached_property
    def _baseline_combinations(self) -> tuple[Params, ...]:
        return tuple(enumerate_space(self.baseline_parameters))

    @property
    def swa_trials(self) -> int:
        """Number of SWA trials, the points included."""
        size = count_space(self.parameters)
        wanted = self.search.trials
        if wanted is None:
            wanted = self.search.epochs
        if wanted is None:
            wanted = size if self.search.sampler == "grid" else 24
        assert wanted is not None  # a grid is always countable
        return wanted if size is None else min(wanted, size)

    @property
    def reuses_trunks(self) -> bool:
        """Whether suggestions of the sampler go along trunks that are trained already."""
        if self.search.reuse is False or self.search.sampler not in REUSING_SAMPLERS:
            return False
        return count_space(self.baseline_parameters) is None

    @property
    def seed(self) -> int:
        """Training seed of the search stage."""
        return self.search.seed if self.train.seed is None else self.train.seed

    def check_configuration(self, params: Mapping[str, Value], *, swa: bool) -> None:
        """Refuse a recorded configuration that the space does not have.

        Raises:
            ValueError: it lacks a parameter, has another one, or a value that is outside.
        """
        domains = {p.name: p.domain for p in (self.parameters if swa else self.baseline_parameters)}
        missing = [name for name in domains if name not in params]
        if missing:
            raise ValueError(f"it has no {', '.join(missing)}")
        for name, value in params.items():
            if name in domains:
                known = domains[name].may_hold(value)
            else:
                known = name in self.constants and self.constants[name] == value
            if not known:
                raise ValueError(f"{name!r} is {value!r}, which the space does not have"[:200])

    def complete_configuration(self, params: Mapping[str, Value], *, swa: bool) -> Params:
        """Return the parameters that distinguish a trial: `lr`, `swa_start` and `swa_lr` wherever the space
        has them, then the other searched parameters. A baseline has no SWA settings."""
        known = {**self.constants, **params}
        core = {n: known[n] for n in CORE_PARAMETERS if n in known and (swa or n not in SWA_CORE)}
        return {**core, **{name: value for name, value in params.items() if name not in core}}

    def format_label(self, params: Mapping[str, Value], average: str | None = None, *, swa: bool) -> str:
        """Name a configuration in the tutorial's notation (see `format_label`)."""
        return format_label(self.complete_configuration(params, swa=swa), average)

    def list_extremes(self, name: str) -> list[Value]:
        """The values of a setting that a trial can have: all that are listed, or the ends of a range."""
        if name in self.constants:
            return [self.constants[name]]
        for parameter in self.parameters:
            if parameter.name == name:
                domain = parameter.domain
                if isinstance(domain, Choices):
                    return list(domain.values)
                return [domain.round_value(domain.low), domain.round_value(domain.high)]
        section, _, field = name.partition(".")
        value: Value = getattr(getattr(self, section), field)
        return [value]

    def order_space(self, names: Iterable[str]) -> Experiment:
        """The same experiment with the keys of its space in the order of `names`, then any others.

        Grids are counted, and samplers draw, in the order of the space.
        """
        order = {name: self.space[name] for name in [*names, *self.space] if name in self.space}
        if list(order) == list(self.space):
            return self
        dumped = self.model_dump(by_alias=True)
        space = {name: dumped["space"][name] for name in order}
        return Experiment.model_validate({**dumped, "space": space})

    def fixed_settings(self) -> dict[str, Any]:
        """Return what may not change between a run and its resumption, as plain JSON values."""
        dumped = self.model_dump(mode="json", by_alias=True, exclude={"resources", "confirm"})
        for key in ("trials", "epochs", "share", "checkpoint_every", "max_failures"):
            dumped["search"].pop(key, None)
        if not self.reuses_trunks:
            del dumped["search"]["reuse"]
        # a default path and the same path given on the command line are one experiment
        dumped["data"].pop("path", None)
        del dumped["data"]["layout"]  # nor do two ways to read a folder differ if they find the same images
        dumped["model"].pop("weights_key", None)  # the weights themselves are compared
        del dumped["data"]["suffixes"]  # which files were read, the images' fingerprint knows
        if dumped["data"]["grey_bits"] == 16:  # as it was before there was a choice
            del dumped["data"]["grey_bits"]
        # experiments of before there was a choice go on with the defaults
        for average in [*dumped["averages"], *dumped["baseline"]["averages"]]:
            if average.get("warmup", ...) is None:
                del average["warmup"]
        if not dumped["averages"]:
            del dumped["averages"]
        if not dumped["baseline"]["averages"]:
            del dumped["baseline"]["averages"]
        if dumped["train"]["arithmetic"] is None:
            del dumped["train"]["arithmetic"]
        for key in ("freeze", "head_lr_factor"):
            if dumped["train"][key] == TrainSpec.model_fields[key].default:
                del dumped["train"][key]
        if self.objective.of == "first":  # what is evaluated changes no result, where nothing is chosen by it
            del dumped["averaging"]["score"]
        for key in ("tail", "cycle_epochs", "cycle_low"):
            if dumped["averaging"][key] == AveragingSpec.model_fields[key].default:
                del dumped["averaging"][key]
        if dumped["data"]["duplicates"] != "group":  # the others leave the division as it is
            del dumped["data"]["duplicates"]
        return dumped

    def run_settings(
        self,
        kind: Literal["baseline", "swa"],
        params: Mapping[str, Value],
        seed: int | None = None,
        average: str | None = None,
        member: int = 0,
    ) -> RunSettings:
        """Build the settings of a run.

        Args:
            kind: of the run. A baseline has no SWA settings.
            params: every searched parameter of that kind.
            seed: of the training; None: the search's.
            average: label of the average that leads; None: the first one, or the best where one is chosen.
            member: number among the members of SWAP.

        Raises:
            ValueError: the settings, or the average, cannot be.
        """
        averages = self.averages if kind == "swa" else self.baseline.averages
        chooses = kind == "swa" and average is None and self.objective.of == "best"
        merged = {**self.constants, **params}
        sections: dict[str, dict[str, Value]] = {"train": {}, "averaging": {}}
        core: dict[str, Value] = {}
        for name, value in merged.items():
            section, _, field = name.partition(".")
            if field:
                sections[section][field] = value
            elif not (kind == "baseline" and name in SWA_CORE):
                core[name] = value
        return RunSettings.model_validate(
            {
                **core,
                "seed": self.seed if seed is None else seed,
                "model": self.model,
                "train": self.train.model_copy(update=sections["train"]),
                "averaging": self.averaging.model_copy(update=sections["averaging"]),
                "averages": averages if average is None else move_first(averages, average),
                "chosen_by": self.objective.metric if chooses else None,
                "member": member,
                "branch_batch_size": self.swap.batch_size if self.swap and kind == "swa" else None,
            }
        )
