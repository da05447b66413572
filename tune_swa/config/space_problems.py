"""Find settings of a space file that contradict one another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tune_swa.config.search_space import Choices, Parameter, Range, count_space
from tune_swa.config.sections import SchedulerSpec
from tune_swa.config.space_file import SpaceFile
from tune_swa.config.values import Params, Value, drop_repeated

MAX_GRID = 100_000
"""Points that a grid may have, all of which are written out."""
OTHER_SAMPLERS = "another search.sampler (tpe, random, qmc, gp, cmaes)"

Loc = tuple[str | int, ...]


class SpaceProblem(Exception):  # noqa: N818 - also collected without being raised
    """Something that is wrong in a space file.

    Args:
        message: what is wrong, or what was expected.
        value: what the file has there, to be quoted.
        loc: path of keys and indices; of a raised problem, below the place that is being read.
    """

    def __init__(self, message: str, value: Any = None, loc: Loc = ()) -> None:
        super().__init__(message)
        self.message, self.value, self.loc = message, value, loc


def check_grid(spec: SpaceFile, parameters: list[Parameter]) -> Iterator[SpaceProblem]:
    """A grid has to be finite, and small enough to be written out."""
    if spec.search.sampler != "grid":
        return
    for parameter in parameters:
        if isinstance(parameter.domain, Range) and parameter.domain.step is None:
            message = f"a grid takes choice and stepped ranges only; list values, or use {OTHER_SAMPLERS}"
            yield SpaceProblem(message, loc=("space", parameter.name))
    size = count_space(tuple(parameters))
    if size is not None and size > MAX_GRID:
        message = f"the grid has {size:,} points; allowed: {MAX_GRID:,}. Take fewer values, or "
        yield SpaceProblem(message + OTHER_SAMPLERS, loc=("space",))


def check_warmup(spec: SpaceFile, parameters: list[Parameter], constants: Params) -> Iterator[SpaceProblem]:
    """A warm-up as long as the run would never reach the base rate."""
    searched = {parameter.name: parameter.domain for parameter in parameters}
    # the two units differ too much for one bound
    if "train.unit" in searched or constants.get("train.unit", spec.train.unit) != "epoch":
        return
    name = "train.warmup_epochs"
    loc: Loc = ("space", name)
    values: tuple[Value, ...]
    if name in constants:
        values = (constants[name],)
    elif name in searched:
        domain = searched[name]
        values = domain.values if isinstance(domain, Choices) else (int(domain.high),)
    else:
        loc, values = ("train", "warmup_epochs"), (spec.train.warmup_epochs,)
    for value in values:
        if isinstance(value, int) and value >= spec.train.epochs:
            yield SpaceProblem(f"expected fewer than train.epochs ({spec.train.epochs})", value, loc)


def check_point_count(spec: SpaceFile, swa_points: list[Params]) -> Iterator[SpaceProblem]:
    """Points count as trials, so there must be as many."""
    points, trials = len(drop_repeated(tuple(swa_points))), spec.search.trials
    if trials is not None and points > trials:
        yield SpaceProblem(
            f"there are {points}, but search.trials is {trials}; raise it to {points}, or take points out",
            loc=("points",),
        )


def check_scheduler(spec: SpaceFile) -> Iterator[SpaceProblem]:
    """Rungs must rise and end before the last epoch, and the grace period must fit in a run."""
    epochs = spec.train.epochs
    for field in ("trunk_rungs", "branch_rungs"):
        rungs = getattr(spec.scheduler, field)
        if rungs != "auto" and (list(rungs) != sorted(set(rungs)) or rungs[-1:] >= (epochs - 1,)):
            message = f"expected rising epochs between 0 and {epochs - 2}"
            yield SpaceProblem(message, list(rungs), ("scheduler", field))
    grace = spec.scheduler.grace_epochs
    # the default is no mistake of the user's: a run that is as short has no rung
    if spec.scheduler.asha and grace > max(epochs, SchedulerSpec().grace_epochs):
        message = f"expected at most train.epochs ({epochs})"
        yield SpaceProblem(message, grace, ("scheduler", "grace_epochs"))
