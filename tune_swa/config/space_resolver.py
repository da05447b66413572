"""Resolve the space as it is written to parameters and constants, and collect every problem in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from tune_swa.config.domains import ChoiceDomain, ConstantDomain, RangeDomain
from tune_swa.config.parameter_values import build_range, convert_value, list_bounds
from tune_swa.config.search_space import Choices, Parameter, Range
from tune_swa.config.sections import AveragingSpec, TrainSpec
from tune_swa.config.settings_model import Settings
from tune_swa.config.space_file import SpaceFile
from tune_swa.config.space_problems import (
    Loc,
    SpaceProblem,
    check_averages,
    check_cycles,
    check_grid,
    check_merging,
    check_objective,
    check_optimizers,
    check_point_count,
    check_scheduler,
    check_tail,
    check_warmup,
)
from tune_swa.config.values import CORE_PARAMETERS, Params, Value, drop_repeated, format_value, is_swa_setting

NOT_SEARCHABLE = {
    "train.epochs": "rungs and curves are compared at the same epoch of the same schedule",
    "train.seed": "the search compares configurations on one seed",
    "train.precision": "numerics are resolved once for a whole experiment",
    "train.channels_last": "numerics are resolved once for a whole experiment",
    "train.fused": "numerics are resolved once for a whole experiment",
    "train.compile": "numerics are resolved once for a whole experiment",
    "train.eval_batch_size": "it changes nothing that is learned",
    "train.arithmetic": "searches with and without it are compared as two experiments",
    "averaging.score": "it changes no result",
    "averaging.tail": "each has settings of its own; run one search for each, and `tune-swa compare` them",
}
SECTIONS: dict[str, type[Settings]] = {"train": TrainSpec, "averaging": AveragingSpec}
"""Sections whose fields can be searched."""
_FIXED_SECTIONS = {
    "model": "a search has one network, and one set of weights to start from",
    "data": "all trials of a search see the same images",
}
"""Why fields of other sections cannot be."""


@dataclass
class ResolvedSpace:
    """The space of an experiment in the types of its parameters."""

    parameters: list[Parameter] = field(default_factory=list)
    """Searched parameters, in the order of the file."""
    constants: Params = field(default_factory=dict)
    """Parameters with one value."""
    swa_points: list[Params] = field(default_factory=list)
    baseline_points: list[Params] | None = None
    """None: the space file gives none."""


def resolve_space(spec: SpaceFile) -> ResolvedSpace:
    """Resolve the space of a space file.

    Raises:
        ValidationError: with every problem found.
    """
    resolver = _Resolver(spec)
    resolver.resolve_parameters()
    if not resolver.problems:  # else the others would follow from these
        resolver.resolve_points()
    if resolver.problems:
        raise ValidationError.from_exception_data("Experiment", resolver.problems)
    return resolver.found


def raise_problems(problems: Iterable[SpaceProblem]) -> None:
    """Raise all of the problems as one error, if there are any.

    Raises:
        ValidationError: with every one.
    """
    details = [_describe_problem(problem) for problem in problems]
    if details:
        raise ValidationError.from_exception_data("Experiment", details)


def _describe_problem(problem: SpaceProblem) -> InitErrorDetails:
    # braces in a user's value must not be taken for the template's
    escaped = problem.message.replace("{", "{{").replace("}", "}}")
    return InitErrorDetails(type=PydanticCustomError("space", escaped), loc=problem.loc, input=problem.value)


def explain_fixed(name: str) -> str | None:
    """Return why a setting has one value in a whole search; None: it can be searched, or is no setting."""
    section, _, setting = name.partition(".")
    model = SpaceFile.model_fields[section].annotation if section in SpaceFile.model_fields else None
    if section in SECTIONS or setting not in getattr(model, "model_fields", {}):
        return NOT_SEARCHABLE.get(name)
    if section in _FIXED_SECTIONS:
        return f"{_FIXED_SECTIONS[section]}; run one search for each, and `tune-swa compare` them"
    return "it is no setting of a trial, but of the whole search"


class _Resolver:
    def __init__(self, spec: SpaceFile) -> None:
        self.spec = spec
        self.found = ResolvedSpace()
        self.problems: list[InitErrorDetails] = []

    def resolve_parameters(self) -> None:
        for core in CORE_PARAMETERS:
            if core not in self.spec.space and not (core == "swa_lr" and self.spec.averaging.tail == "base"):
                self._report(SpaceProblem(f"{core} is missing; give it a domain or a value", loc=("space",)))
        for name, domain in self.spec.space.items():
            with self._collect_problem("space", name):
                reason = explain_fixed(name)
                if reason is not None:
                    raise SpaceProblem(f"cannot be searched: {reason}; set it in its section")
                if self._check_name(name):
                    check_tail(self.spec, name)
                    self._resolve_domain(name, domain)

    def resolve_points(self) -> None:
        """Complete the points, and check what depends on several settings."""
        spec, found = self.spec, self.found
        self._report(*check_grid(spec, found.parameters))
        self._report(*check_merging(spec, found.parameters, found.constants))
        self._report(*check_objective(spec))
        self._report(*check_warmup(spec, found.parameters, found.constants))
        self._report(*check_optimizers(spec, found.parameters, found.constants))
        cycles = list(check_cycles(spec, found.parameters, found.constants))
        # where not one cycle fits, there are no models to count
        self._report(*(cycles or check_averages(spec, found.parameters, found.constants)))
        found.swa_points = self._complete_points(("points",), spec.points, found.parameters, found.constants)
        self._report(*check_point_count(spec, found.swa_points))
        if spec.baseline.points is not None:
            parameters = [p for p in found.parameters if not p.swa]
            constants = {n: v for n, v in found.constants.items() if not is_swa_setting(n)}
            points = self._complete_points(
                ("baseline", "points"), spec.baseline.points, parameters, constants
            )
            found.baseline_points = drop_repeated(tuple(points))
        self._report(*check_scheduler(spec))

    def _check_name(self, name: str) -> bool:
        known = [*CORE_PARAMETERS, *(f"{s}.{f}" for s, m in SECTIONS.items() for f in m.model_fields)]
        if name in known:
            return True
        context = {"allowed": [n for n in known if n not in NOT_SEARCHABLE]}
        kind = PydanticCustomError("unknown_parameter", "not a parameter", context)
        self.problems.append(InitErrorDetails(type=kind, loc=("space", name), input=None))
        return False

    def _resolve_domain(self, name: str, domain: Any) -> None:
        if isinstance(domain, ChoiceDomain):
            values = self._convert_each(name, domain.choice, ("space", name, "choice"))
            if values is not None:
                _check_distinct(values, domain)
                self._add_domain(name, Choices(tuple(values)))
        elif isinstance(domain, RangeDomain):
            key, bounds = list_bounds(domain)
            ends = self._convert_each(name, bounds, ("space", name, key))
            if ends is not None:
                self._add_domain(name, build_range(name, domain, ends))
        else:
            value = domain.constant if isinstance(domain, ConstantDomain) else domain
            self.found.constants[name] = convert_value(self.spec, name, value)

    def _add_domain(self, name: str, domain: Choices | Range) -> None:
        if isinstance(domain, Choices) and len(domain.values) == 1:
            self.found.constants[name] = domain.values[0]
        elif isinstance(domain, Range) and domain.low == domain.high:
            self.found.constants[name] = int(domain.low) if domain.integer else domain.low
        else:
            self.found.parameters.append(Parameter(name, domain, swa=is_swa_setting(name)))

    def _convert_each(self, name: str, values: Iterable[Any], loc: Loc) -> list[Value] | None:
        """Convert all values; None where any of them has a problem."""
        before, converted = len(self.problems), []
        for index, value in enumerate(values):
            with self._collect_problem(*loc, index):
                converted.append(convert_value(self.spec, name, value))
        return converted if len(self.problems) == before else None

    def _complete_points(
        self,
        loc: Loc,
        points: Sequence[Mapping[str, Any]],
        parameters: list[Parameter],
        constants: Params,
    ) -> list[Params]:
        """Give the points every parameter of the space; those with a problem are left out."""
        completed = []
        for index, point in enumerate(points):
            before = len(self.problems)
            self._check_point((*loc, index), point, [p.name for p in parameters], constants)
            params: Params = {}
            for parameter in parameters:
                with self._collect_problem(*loc, index):
                    params[parameter.name] = self._read_parameter(point, parameter)
            if len(self.problems) == before:
                completed.append(params)
        return completed

    def _check_point(
        self, loc: Loc, point: Mapping[str, Any], searched: list[str], constants: Params
    ) -> None:
        """Check the values of a point that are not searched."""
        for name, raw in point.items():
            if name in searched:
                continue
            with self._collect_problem(*loc, name):
                if name not in constants:
                    allowed = ", ".join([*searched, *constants])
                    raise SpaceProblem(f"not a parameter of the space; allowed: {allowed}", raw)
                if convert_value(self.spec, name, raw) != constants[name]:
                    raise SpaceProblem(f"the space fixes it at {format_value(constants[name])}", raw)

    def _read_parameter(self, point: Mapping[str, Any], parameter: Parameter) -> Value:
        name = parameter.name
        loc: Loc = ()
        if name in point:
            loc = (name,)
            try:
                value = convert_value(self.spec, name, point[name])
            except SpaceProblem as problem:
                raise SpaceProblem(problem.message, problem.value, loc) from None
        elif "." in name:
            section, _, setting = name.partition(".")
            value = getattr(getattr(self.spec, section), setting)
        else:
            raise SpaceProblem(f"{name} is missing", dict(point))
        if value not in parameter.domain:
            allowed = parameter.domain.describe_values()
            raise SpaceProblem(f"{name} is outside the space; allowed: {allowed}", value, loc)
        return parameter.round_value(value)

    @contextmanager
    def _collect_problem(self, *loc: str | int) -> Iterator[None]:
        """Report what is raised inside, at `loc` or below it, and go on."""
        try:
            yield
        except SpaceProblem as problem:
            self._report(SpaceProblem(problem.message, problem.value, (*loc, *problem.loc)))

    def _report(self, *problems: SpaceProblem) -> None:
        self.problems.extend(map(_describe_problem, problems))


def _check_distinct(values: list[Value], domain: ChoiceDomain) -> None:
    seen: set[tuple[type, Value]] = set()
    for value in values:
        if (type(value), value) in seen:
            message = f"{format_value(value)} is listed twice"
            raise SpaceProblem(message, list(domain.choice), ("choice",))
        seen.add((type(value), value))
