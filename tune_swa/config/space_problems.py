"""Find settings of a space file that contradict one another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tune_swa.config.averages import CHOOSABLE, AverageSpec, list_choosable
from tune_swa.config.search_space import Choices, Parameter, Range, count_space
from tune_swa.config.sections import DEFAULT_CYCLE, SCHEDULE_FREE, SchedulerSpec, describe_misplaced
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


def check_budget(spec: SpaceFile, baselines: int) -> Iterator[SpaceProblem]:
    """A budget of epochs has to leave some for SWA trials; a grid is what it is."""
    budget, needed = spec.search.epochs, baselines * spec.train.epochs
    if budget is None:
        return
    loc = ("search", "epochs")
    if spec.search.sampler == "grid":
        message = "a grid is run as a whole; take epochs out, or use "
        yield SpaceProblem(message + OTHER_SAMPLERS, budget, loc)
    elif budget <= needed:
        message = (
            f"{baselines} baseline{'s' * (baselines > 1)} of {spec.train.epochs} epochs train {needed:,}, "
            f"which leaves none for SWA; give more than {needed:,}, or a smaller baseline.trials"
        )
        yield SpaceProblem(message, budget, loc)


def check_merging(spec: SpaceFile, parameters: list[Parameter], constants: Params) -> Iterator[SpaceProblem]:
    """What is merged are trials of one trunk, and values of a continuous range do not recur."""
    if spec.confirm.merges and not spec.merge:
        message = (
            "there is no merge to follow on fresh seeds: list one in merge (a soup, for one), or leave "
            "confirm.merges out"
        )
        yield SpaceProblem(message, True, ("confirm", "merges"))
    methods = {merge.method for merge in spec.merge}
    if not methods:
        return
    soups = "soup" in methods
    what = "a soup is made of several SWA trials of one trunk" if soups else "members of swap share a trunk"
    for parameter in parameters:
        if not parameter.swa and isinstance(parameter.domain, Range) and parameter.domain.step is None:
            message = (
                f"{what}, and from a continuous range each trial has a trunk of its own; give a choice of "
                "values or a step, or leave merge out"
            )
            yield SpaceProblem(message, loc=("space", parameter.name))
    for index, merge in enumerate(spec.merge):
        if merge.method == "swap":
            loc = ("merge", index, "batch_size")
            yield from _check_swap(spec, parameters, constants, merge.batch_size, loc)
    if soups and spec.search.trials == 1:
        yield SpaceProblem("a soup is made of several SWA trials; give 2 or more", 1, ("search", "trials"))


def _check_swap(
    spec: SpaceFile, parameters: list[Parameter], constants: Params, batch_size: int | None, loc: Loc
) -> Iterator[SpaceProblem]:
    """Members differ in the epochs after the fork, whose batches are no larger than those before it."""
    epochs = spec.train.epochs
    domains = {parameter.name: parameter.domain for parameter in parameters}
    latest = _find_largest("swa_start", domains, constants, 0)
    if latest > epochs - 3:
        most = f"give an swa_start of at most {epochs - 3}, or " if epochs > 2 else "give "
        yield SpaceProblem(
            f"swa_start {latest} of {epochs} epochs leaves none after the fork, in which the members of swap "
            f"could differ; {most}more train.epochs",
            loc=("space", "swa_start"),
        )
    if batch_size is None:
        return
    if spec.averaging.tail == "base":
        message = (
            "the base schedule goes on as in plain training, with its batches; leave batch_size out, or give "
            "averaging.tail constant or cyclic"
        )
        yield SpaceProblem(message, batch_size, loc)
    _, sizes = _locate_values(spec, parameters, constants, "batch_size")
    smallest = min(int(size) for size in sizes)  # type: ignore[arg-type]
    if batch_size > smallest:
        message = (
            f"the batches of the members are larger than those before the fork, where train.batch_size is "
            f"{smallest}; give {smallest} or less, or a larger train.batch_size"
        )
        yield SpaceProblem(message, batch_size, loc)


def check_warmup(spec: SpaceFile, parameters: list[Parameter], constants: Params) -> Iterator[SpaceProblem]:
    """A warm-up as long as the run would never reach the base rate."""
    # the two units differ too much for one bound
    if _locate_values(spec, parameters, constants, "unit")[1] != ("epoch",):
        return
    loc, values = _locate_values(spec, parameters, constants, "warmup_epochs")
    for value in values:
        if isinstance(value, int) and value >= spec.train.epochs:
            yield SpaceProblem(f"expected fewer than train.epochs ({spec.train.epochs})", value, loc)


def check_optimizers(
    spec: SpaceFile, parameters: list[Parameter], constants: Params
) -> Iterator[SpaceProblem]:
    """A schedule-free optimizer has no schedule, and takes gradients somewhat towards its average."""
    _, optimizers = _locate_values(spec, parameters, constants, "optimizer")
    free = [optimizer for optimizer in optimizers if optimizer in SCHEDULE_FREE]
    if not free:
        return
    if len(free) == len(optimizers):  # else a schedule is that of the others
        loc, schedules = _locate_values(spec, parameters, constants, "schedule")
        if "cosine" in schedules:
            yield SpaceProblem(
                f"{free[0]} trains at a constant rate; give train.schedule: constant", "cosine", loc
            )
        loc, lengths = _locate_values(spec, parameters, constants, "t_max")
        for length in (length for length in lengths if length is not None):
            yield SpaceProblem(f"{free[0]} trains at a constant rate; take t_max out", length, loc)
    loc, momenta = _locate_values(spec, parameters, constants, "momentum")
    if 0 in momenta:
        yield SpaceProblem(f"{free[0]} needs a momentum greater than 0; 0.9 is usual", 0, loc)


def check_averages(spec: SpaceFile, parameters: list[Parameter], constants: Params) -> Iterator[SpaceProblem]:
    """An average of the last models needs a branch, or a baseline, that has as many."""
    epochs = spec.train.epochs
    domains = {parameter.name: parameter.domain for parameter in parameters}
    latest = _find_largest("swa_start", domains, constants, 0)
    cycle = _find_largest("averaging.cycle_epochs", domains, constants, spec.averaging.cycle_length)
    models = (epochs - 2 - latest) // cycle + 1
    cycles = f" and cycles of {cycle}," if cycle > 1 else ""
    for index, average in enumerate(spec.averages):
        field, needed, beyond = _count_needed(average)
        if needed > models:
            most = models - beyond if models > 1 else None
            yield _name_shortage(
                average,
                f"with swa_start {latest} of {epochs} epochs{cycles} {models} "
                f"{'is' if models == 1 else 'are'} averaged",
                _advise_length(field, most, epochs - 2 - (needed - 1) * cycle),
                ("averages", index),
            )
    for index, average in enumerate(spec.baseline.averages):
        field, needed, _ = _count_needed(average)
        if needed > epochs:
            yield _name_shortage(
                average,
                f"a baseline has {epochs} (train.epochs)",
                f"give {field} {epochs} or less",
                ("baseline", "averages", index),
            )


def check_objective(spec: SpaceFile) -> Iterator[SpaceProblem]:
    """What chooses the best average needs several that it can choose among, one of them first."""
    if spec.objective.of != "best":
        return
    choosable, methods = list_choosable(spec.averages), f"{', '.join(CHOOSABLE[:-1])} or {CHOOSABLE[-1]}"
    if len(choosable) < 2:
        listed = f"there is {choosable[0]} alone" if choosable else "there is none"
        message = (
            f"the best is chosen among averages of one set of weights that nothing but training has chosen "
            f"({methods}), and {listed}: list two or more under averages, or take `of` out"
        )
        yield SpaceProblem(message, "best", ("objective", "of"))
    elif spec.averages[0].label not in choosable:
        message = (
            f"{spec.averages[0].label} cannot lead where objective.of is best, which chooses {methods}; list "
            f"{choosable[0]} before it"
        )
        yield SpaceProblem(message, loc=("averages", 0))


def _count_needed(average: AverageSpec) -> tuple[str, int, int]:
    """Return the setting that asks for models, how many, and how many of these are beyond its value."""
    if average.method == "lawa":
        return "last", average.last, 0
    if average.method == "swad":  # with fewer losses its window cannot begin
        return "converge", average.converge, 0
    if average.method == "swag":  # of one model there is no variance
        return ("diagonal", 2, 0) if average.diagonal else ("rank", average.rank, 0)
    if average.method == "subspace":  # the first model is the mean: it has no deviation
        return "rank", average.rank + 1, 1
    return "method", 1, 0


def _name_shortage(average: AverageSpec, have: str, advice: str, loc: Loc) -> SpaceProblem:
    """Say that an average needs more models than there are; of a default, which the file does not have, its
    value too."""
    field, needed, beyond = _count_needed(average)
    value = needed - beyond
    if field in average.model_fields_set:
        return SpaceProblem(f"{field} needs {needed} models, but {have}; {advice}", value, (*loc, field))
    return SpaceProblem(
        f"{field} is {value} by default and needs {needed} models, but {have}; {advice}", loc=loc
    )


def _advise_length(field: str, most: int | None, latest: int) -> str:
    """Return what to give where there are fewer models than needed.

    Args:
        field: the setting that asks for too many.
        most: value that the models are enough for; None: they are not enough for any.
        latest: the last epoch at which averaging could start with enough of them; negative: there is none.
    """
    ways = []
    if most is not None and field != "diagonal":
        ways.append(f"{field} {most} or less")
    if latest >= 0:
        ways.append(f"an swa_start of at most {latest}")
    return f"give {', or '.join(ways)}" if ways else "train more epochs (train.epochs)"


def _locate_values(
    spec: SpaceFile, parameters: list[Parameter], constants: Params, field: str
) -> tuple[Loc, tuple[Value, ...]]:
    """Return where a setting of `train` is given, and its values: all listed ones, or the ends of a range."""
    name = f"train.{field}"
    for parameter in parameters:
        if parameter.name == name:
            domain = parameter.domain
            if isinstance(domain, Choices):
                return ("space", name), domain.values
            return ("space", name), (domain.round_value(domain.low), domain.round_value(domain.high))
    if name in constants:
        return ("space", name), (constants[name],)
    return ("train", field), (getattr(spec.train, field),)


def check_tail(spec: SpaceFile, name: str) -> None:
    """Refuse a parameter of the space that has no effect with the tail of the experiment.

    Raises:
        SpaceProblem: with what to do.
    """
    tail = spec.averaging.tail
    if name == "swa_lr" and tail == "base":
        message = (
            "has no effect, since averaging.tail is base: the base schedule goes on. Take swa_lr out of the "
            "space, or give averaging.tail constant or cyclic"
        )
        raise SpaceProblem(message)
    problem = describe_misplaced(name.removeprefix("averaging."), tail)
    if name.startswith("averaging.") and problem is not None:
        raise SpaceProblem(problem)


def check_cycles(spec: SpaceFile, parameters: list[Parameter], constants: Params) -> Iterator[SpaceProblem]:
    """At least one cycle has to fit between each fork and the end of the run."""
    if spec.averaging.tail != "cyclic":
        return
    domains = {parameter.name: parameter.domain for parameter in parameters}
    latest = _find_largest("swa_start", domains, constants, 0)
    longest = _find_largest("averaging.cycle_epochs", domains, constants, spec.averaging.cycle_length)
    problem = describe_long_cycle(spec.train.epochs, latest, longest)
    if problem is not None:
        yield SpaceProblem(problem, loc=("space", "swa_start"))


def describe_long_cycle(epochs: int, swa_start: int, cycle: int) -> str | None:
    """Return why no cycle of so many epochs ends before the end of a run; None: one does."""
    left = epochs - 2 - swa_start
    if cycle <= left:
        return None
    start = f"take swa_start up to {epochs - 2 - cycle}, or " if cycle <= epochs - 2 else "take "
    return (
        f"swa_start {swa_start} leaves {left} of {epochs} epochs after the fork, and a cycle takes {cycle} "
        f"(averaging.cycle_epochs): {start}shorter cycles, or more train.epochs"
    )


def _find_largest(name: str, domains: Mapping[str, Choices | Range], constants: Params, default: int) -> int:
    """The largest value of a whole number that a trial can have."""
    domain = domains.get(name)
    values: tuple[Value, ...] = (constants.get(name, default),)
    if isinstance(domain, Choices):
        values = domain.values
    elif domain is not None:
        values = (int(domain.high),)
    # a cycle that is listed as null has the length by default
    return max(DEFAULT_CYCLE if value is None else int(value) for value in values)  # type: ignore[arg-type]


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
