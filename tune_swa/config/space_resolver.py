"""From a space as it is written to parameters and constants, with every problem that it has."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from tune_swa.config.domains import (
    ChoiceDomain,
    ConstantDomain,
    IntDomain,
    RangeDomain,
    UniformDomain,
)
from tune_swa.config.search_space import Choices, Parameter, Range, count_space
from tune_swa.config.sections import AveragingSpec, SchedulerSpec, Settings, TrainSpec
from tune_swa.config.space_file import SpaceFile
from tune_swa.config.validation_errors import told
from tune_swa.config.values import CORE_PARAMETERS, Params, Value, drop_repeated, format_value, is_swa_setting

NOT_SEARCHABLE = {
    "train.epochs": "rungs and curves are compared at the same epoch of the same schedule",
    "train.seed": "the search compares configurations on one seed",
    "train.precision": "numerics are resolved once for a whole experiment",
    "train.channels_last": "numerics are resolved once for a whole experiment",
    "train.fused": "numerics are resolved once for a whole experiment",
    "train.compile": "numerics are resolved once for a whole experiment",
}


MAX_GRID = 100_000
"""Points that a grid may have, all of which are written out."""
MAX_STEPS = 1_000_000
"""Values of a stepped range. With more than these, the steps are lost in a float's last bits."""
LARGEST = 2**63 - 1
"""What a whole number may be: the result files keep them in 64 bits."""


class Resolver:
    """Turns the space as written into parameters and constants, collecting every problem."""

    def __init__(self, experiment: SpaceFile) -> None:
        self.experiment = experiment
        self.parameters: list[Parameter] = []
        self.constants: Params = {}
        self.swa_points: list[Params] = []
        self.baseline_points: list[Params] | None = None
        self.problems: list[InitErrorDetails] = []

    def __eq__(self, other: object) -> bool:
        """Experiments compare their private parts too, and this one follows from the others."""
        return isinstance(other, Resolver)

    __hash__ = None  # type: ignore[assignment]

    def run(self) -> Resolver:
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
        self._points_fit()
        if spec.baseline.points is not None:
            self.baseline_points = []
            parameters = [p for p in self.parameters if not p.swa]
            constants = {n: v for n, v in self.constants.items() if not is_swa_setting(n)}
            for index, point in enumerate(spec.baseline.points):
                completed = self._point(("baseline", "points", index), point, parameters, constants)
                if completed is not None:
                    self.baseline_points.append(completed)
            self.baseline_points = drop_repeated(tuple(self.baseline_points))
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
        grace = spec.scheduler.grace_epochs
        # the default is no mistake of the user's: a run that is as short has no rung
        if spec.scheduler.asha and grace > max(spec.train.epochs, SchedulerSpec().grace_epochs):
            self._problem(
                ("scheduler", "grace_epochs"), f"expected at most train.epochs ({spec.train.epochs})", grace
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
            seen: set[tuple[type, Value]] = set()
            for value in values:
                if (type(value), value) in seen:
                    self._problem(
                        (*loc, "choice"), f"{format_value(value)} stands twice", list(domain.choice)
                    )
                    return
                seen.add((type(value), value))
            self._add(name, Choices(tuple(values)))
        elif isinstance(domain, RangeDomain):
            resolved = self._range(name, domain)
            if resolved is not None:
                self._add(name, resolved)
        else:
            bare = domain.constant if isinstance(domain, ConstantDomain) else domain
            value = self._value(name, bare, loc)
            if len(self.problems) == before:
                self.constants[name] = value

    def _add(self, name: str, domain: Choices | Range) -> None:
        if isinstance(domain, Choices) and len(domain.values) == 1:
            self.constants[name] = domain.values[0]
        elif isinstance(domain, Range) and domain.low == domain.high:
            self.constants[name] = int(domain.low) if domain.integer else domain.low
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
            if number is None or number <= 0:
                self._problem(loc, "expected a number greater than 0", value)
                return None
            return number
        section, _, field = name.partition(".")
        current: Settings = getattr(self.experiment, section)
        try:
            validated = type(current).model_validate({**current.model_dump(), field: value})
        except ValidationError as error:
            self._problem(loc, told(error.errors()[0]), value)
            return None
        result: Value = getattr(validated, field)
        if isinstance(result, int) and result > LARGEST:
            self._problem(loc, "expected a number that fits in 64 bits", value)
            return None
        return result

    def _range(self, name: str, domain: RangeDomain) -> Range | None:
        """The range in the parameter's type, or None and a problem."""
        key, bounds, step, log = _range_parts(domain)
        loc = ("space", name, key)
        ends = self._ends(name, key, bounds)
        if ends is None:
            return None
        low, high = ends
        if low > high:
            self._problem(loc, "expected the lower bound first", list(bounds))
            return None
        if log:
            if low <= 0:
                self._problem(loc, "expected bounds greater than 0 for a logarithm", list(bounds))
                return None
            if step not in (None, 1):
                self._problem((*loc[:2], "step"), "a step and log exclude each other; leave one out", step)
                return None
            return Range(low, high, None, log, key == "int")
        if step is not None:
            reached = self._reached(name, low, high, step, bounds, loc)
            if reached is None:
                return None
            high = reached
        return Range(low, high, step, log, key == "int")

    def _ends(self, name: str, key: str, bounds: tuple[float, float]) -> tuple[float, float] | None:
        """Both bounds as values of the parameter, if a range of this kind fits its type."""
        loc = ("space", name, key)
        before = len(self.problems)
        ends = [self._value(name, bound, (*loc, i)) for i, bound in enumerate(bounds)]
        if len(self.problems) > before:
            return None
        low, high = (v if isinstance(v, int | float) and not isinstance(v, bool) else None for v in ends)
        if name == "swa_start" and key != "int":
            self._problem(loc[:2], "expected choice or int: averaging starts at an epoch", key)
        elif low is None or high is None:
            self._problem(loc[:2], "expected choice: the values are not numbers", key)
        elif key == "int" and (low != int(low) or high != int(high)):
            self._problem(
                loc, "expected whole numbers; for real ones write uniform or log_uniform", list(bounds)
            )
        elif key != "int" and isinstance(low, int) and isinstance(high, int):
            self._problem(loc[:2], "expected choice or int: the values are whole numbers", key)
        else:
            return float(low), float(high)
        return None

    def _reached(
        self,
        name: str,
        low: float,
        high: float,
        step: float,
        bounds: tuple[float, float],
        loc: tuple[str, ...],
    ) -> float | None:
        """The last value in steps from `low`, which has to be `high`."""
        steps = (high - low) / step
        if steps >= MAX_STEPS:
            self._problem(
                loc, f"the range has more than {MAX_STEPS:,} values; take a larger step", list(bounds)
            )
            return None
        if name == "swa_start" and any(0 < bound < 1 for bound in bounds):
            # nobody can be asked to write fractions that are a number of steps apart
            return low + math.floor(steps + 1e-9) * step
        if abs(steps - round(steps)) > 1e-6:
            reach = low + math.floor(steps) * step
            self._problem(
                loc,
                f"{format_value(bounds[1])} is not reached from {format_value(low)} in steps of "
                f"{format_value(step)}; write {format_value(reach)}",
                list(bounds),
            )
            return None
        return high

    # -- checks across parameters

    def _grid_is_countable(self) -> None:
        if self.experiment.search.sampler != "grid":
            return
        for parameter in self.parameters:
            domain = parameter.domain
            if isinstance(domain, Range) and (domain.step is None):
                self._problem(
                    ("space", parameter.name),
                    "a grid takes choice and stepped ranges only; list values, or use another "
                    "search.sampler (tpe, random, qmc, gp, cmaes)",
                    None,
                )
        size = count_space(tuple(self.parameters))
        if size is not None and size > MAX_GRID:
            self._problem(
                ("space",),
                f"the grid has {size:,} points; allowed: {MAX_GRID:,}. Take fewer values, or another "
                "search.sampler (tpe, random, qmc, gp, cmaes)",
                None,
            )

    def _points_fit(self) -> None:
        """Points count as trials, so there must be as many."""
        points, trials = len(drop_repeated(tuple(self.swa_points))), self.experiment.search.trials
        if trials is not None and points > trials:
            self._problem(
                ("points",),
                f"there are {points}, but search.trials is {trials}; raise it to {points}, or take points "
                "out",
                None,
            )

    def _warmup_fits(self) -> None:
        """A warm-up as long as the run would never reach the base rate."""
        train = self.experiment.train
        candidates: list[tuple[tuple[str, ...], Value]] = [(("train", "warmup_epochs"), train.warmup_epochs)]
        for parameter in self.parameters:
            if parameter.name == "train.warmup_epochs":
                domain = parameter.domain
                values = domain.values if isinstance(domain, Choices) else (int(domain.high),)
                candidates = [(("space", parameter.name), value) for value in values]
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
            if value not in parameter.domain:
                self._problem(
                    (*loc, name) if name in point else loc,
                    f"{name} is outside the space; allowed: {parameter.domain.describe_values()}",
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


def _number(value: Any) -> float | None:
    """A finite number, also if it is written as text ("5e-5", which YAML 1.1 takes for a string)."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):  # a whole number can be larger than any float
        return None
    return number if math.isfinite(number) else None


def _range_parts(domain: RangeDomain) -> tuple[str, tuple[float, float], float | None, bool]:
    """What the file says: the key, the bounds, the step and whether it is logarithmic."""
    if isinstance(domain, IntDomain):
        return "int", domain.bounds, domain.step, domain.log
    if isinstance(domain, UniformDomain):
        return "uniform", domain.uniform, domain.step, False
    return "log_uniform", domain.log_uniform, None, True
