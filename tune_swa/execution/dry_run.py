"""What a search would do, for `--dry-run`: nothing is decoded, trained or started."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tune_swa.config import Choices, Experiment, Params, count_space, format_value
from tune_swa.data.dataset import Estimate, estimate_dataset
from tune_swa.errors import RequestError
from tune_swa.execution.site import Measure, measure_placement
from tune_swa.execution.slots import Machine, Measured, Placement, describe, place, total_trials
from tune_swa.inference.looks import plan_looks
from tune_swa.search.arms import max_baselines
from tune_swa.search.asha import branch_rungs, trunk_rungs
from tune_swa.search.confirm_cost import (
    Cost,
    looks_cost,
    max_fresh_states,
    max_tested_plain_arms,
    planned_rounds,
    race_configurations,
    race_cost,
)
from tune_swa.search.samplers import quiet_optuna
from tune_swa.search.trunk_sharing import max_states, planned_epochs, trunks_recur
from tune_swa.text import format_bytes

RESNET18_WEIGHTS = 11_176_512
"""Parameters of torchvision's ResNet-18 without its classifier."""
CLASSIFIER_INPUTS = 512
MANY = 1_000_000
"""Images, where it is not known how many there are."""


@dataclass(frozen=True)
class Plan:
    """The search as planned."""

    experiment: Experiment
    placement: Placement
    images: Estimate | str
    """What the images are, or where they come from while they are not here."""
    epochs: int
    """Epochs that all trials train by themselves if none is stopped early."""
    stages: int | None
    """Epochs if every trunk is trained once; None: the sampler will decide, or nothing is shared."""
    confirm: bool
    """Whether fresh seeds follow."""
    checkpoint_bytes: int
    """Most that checkpoints take at one time."""


def make_plan(
    experiment: Experiment,
    data_dir: Path | None = None,
    *,
    machine: Machine,
    gpus: int | None = None,
    cpus: int | None = None,
    confirm: bool = True,
    measure: Measure | None = None,
) -> Plan:
    """Work out the plan.

    Args:
        experiment: what is planned.
        data_dir: folder of the images or the download.
        machine: what there is.
        gpus: how many to use; default: all.
        cpus: how many cores to use; default: all.
        confirm: whether fresh seeds follow.
        measure: tries a trial out on the GPU of a number; without it `auto` is a whole GPU.

    Raises:
        RequestError: the images are missing or cannot be divided, or the resources are not there.
    """
    quiet_optuna()

    def divide(measured: Measured | None) -> Placement:
        trials = total_trials(experiment)
        return place(experiment.resources, machine, trials=trials, gpus=gpus, cpus=cpus, measured=measured)

    placement = divide(None)
    images: Estimate | str
    try:
        images = estimate_dataset(experiment.data, data_dir)
        classes = images.num_classes
    except RequestError as error:
        if data_dir is not None or experiment.data.path is not None:
            raise
        images, classes = str(error), 1000  # ImageNet's, for the size of a checkpoint
    if placement.gpus and measure is not None:
        # without the images, no batch is taken to be smaller than it is asked for
        counts = (MANY, MANY) if isinstance(images, str) else (images.train, images.val)
        measured = measure_placement(experiment, machine, placement, classes, counts, measure)
        placement = divide(measured)
    return Plan(
        experiment=experiment,
        placement=placement,
        images=images,
        epochs=total_trials(experiment) * experiment.train.epochs,
        stages=planned_epochs(experiment) if experiment.search.share else None,
        confirm=confirm,
        checkpoint_bytes=_checkpoint_bytes(experiment, placement.slots, classes, confirm=confirm),
    )


def _checkpoint_bytes(experiment: Experiment, slots: int, classes: int, *, confirm: bool) -> int:
    weights = 4 * (RESNET18_WEIGHTS + (CLASSIFIER_INPUTS + 1) * classes)
    optimizer = weights * (1 if experiment.train.optimizer == "sgd" else 2)
    running = 2 * weights + optimizer  # live model and average
    ended = 2 * weights
    states = 0
    if experiment.search.share:
        # a stage begins when the states of the one before are gone
        most = max(max_states(experiment), max_fresh_states(experiment) if confirm else 0)
        states = most * (weights + optimizer)
    if experiment.search.keep_checkpoints == "all":
        every = experiment.search.checkpoint_every
        each = -(-experiment.train.epochs // (1 if every == "auto" else every))
        return total_trials(experiment) * each * running + states
    # a running trial has two, and a third while it is written; of those that have ended as many as there
    # are finalists are kept, the best baseline, and the best run of each arm that is tested
    top = experiment.confirm.top
    kept = top + 1 + (top + max_tested_plain_arms(experiment) if confirm else 0)
    return slots * 3 * running + kept * ended + states


def print_plan(console: Console, plan: Plan) -> None:
    """Print the plan as a person reads it."""
    experiment, images = plan.experiment, plan.images
    table = Table(title=f"Plan of {experiment.name}", show_header=False, box=None, title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in (
        ("images", _divided(images)),
        *_duplicates(images),
        ("space", _space(experiment)),
        ("sampler", f"{experiment.search.sampler}, seed {experiment.search.seed}"),
        ("trials", _trials(experiment)),
        ("epochs", _epochs(plan)),
        ("early stopping", _stopping(experiment)),
        *([("race", _race(experiment)), ("fresh seeds", _fresh(experiment))] if plan.confirm else []),
        ("machine", describe(plan.placement)),
        *([("GPU memory", line)] if (line := plan.placement.memory_line) else []),
        ("disk", _disk(plan)),
    ):
        table.add_row(name, text)
    console.print(table, markup=False)


def _divided(images: Estimate | str) -> str:
    if isinstance(images, str):
        return f"not here yet. {images}"
    return (
        f"{images.name}: {images.train:,} to train on, {images.val:,} to validate, "
        f"{images.test:,} to test, {images.num_classes} classes"
    )


def _duplicates(images: Estimate | str) -> list[tuple[str, str]]:
    """Known where the images are decoded already."""
    if isinstance(images, str) or images.duplicates is None:
        return []
    return [("duplicates", images.duplicates.format_plan())]


def _space(experiment: Experiment) -> str:
    lines = [f"{p.name}: {p.domain.describe_values()}" for p in experiment.parameters]
    lines += [f"{name}: {format_value(value)}" for name, value in experiment.constants.items()]
    size = count_space(experiment.parameters)
    if size is not None:
        lines.append(f"{size:,} combination{'s' if size > 1 else ''}")
    return "\n".join(lines)


def _trials(experiment: Experiment) -> str:
    points = len({tuple(p.items()) for p in experiment.swa_points})
    given = f" ({points} of them given as points)" if points else ""
    return (
        f"{experiment.swa_trials} with SWA{given}, {experiment.baseline_trials} baseline{_tuned(experiment)}"
    )


def _epochs(plan: Plan) -> str:
    experiment = plan.experiment
    text = f"at most {plan.epochs:,} to train ({experiment.train.epochs} per trial)"
    if plan.stages is not None and plan.stages < plan.epochs:
        shared = f"{plan.epochs - plan.stages:,} of {plan.epochs:,}"
        return f"at most {plan.stages:,} to train, since trials share {shared}"
    if experiment.search.share and plan.stages is None and trunks_recur(experiment):
        return f"{text}; fewer, since trials share what they train before averaging"
    return text


def _race(experiment: Experiment) -> str:
    number = race_configurations(experiment)
    rounds = planned_rounds(experiment, number)
    if not rounds:
        return _no_race(experiment)
    first, last = rounds[0], rounds[-1]
    seeds = "a fresh seed" if last.seeds == 1 else f"up to {last.seeds} fresh seeds"
    least, most = max_baselines(experiment), first.plain
    plain = _counted(most, "plain one") if least == most else f"{least} to {most} plain ones"
    sides = f"{_counted(first.swa, 'SWA configuration')} and {plain}"
    return f"{sides} on {seeds}, validation images alone: {_spent(race_cost(experiment))}"


def _no_race(experiment: Experiment) -> str:
    confirm, trials = experiment.confirm, experiment.swa_trials
    if confirm.race and trials <= confirm.top:
        return "none: there are no more SWA configurations than finalists"
    if confirm.race and confirm.race.configurations == "auto":
        return (
            "none: it would take more than half of what the search and the first look take "
            "(confirm.race.configurations asks for one)"
        )
    return "none: the best of the search are the finalists"


def _fresh(experiment: Experiment) -> str:
    confirm = experiment.confirm
    looks = plan_looks(confirm.seeds, confirm.most_seeds)
    finalists = _counted(min(confirm.top, experiment.swa_trials), "finalist")
    if len(looks) == 1:
        seeds = f"{looks[0]} fresh seed{'s' * (looks[0] > 1)}"
    else:
        seeds = f"{looks[0]} fresh seeds, and on up to {looks[-1]} while the answer is open (looks at "
        seeds += f"{', '.join(map(str, looks[:-1]))} and {looks[-1]})"
    plain = max_tested_plain_arms(experiment)
    number = f"up to {plain} plain ones" if plain > 1 else "a plain one"
    return f"{finalists} and {number} on {seeds}, tested: {_spent(looks_cost(experiment))}"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number > 1)}"


def _spent(cost: Cost) -> str:
    """Runs and epochs, at least and at most where these differ."""
    (least, runs), (fewest, epochs) = cost.runs, cost.epochs
    between = f"{least:,} to {runs:,}" if least < runs else f"{runs:,}"
    spent = f"{fewest:,} to {epochs:,}" if fewest < epochs else f"{epochs:,}"
    return f"{between} runs, {spent} epochs to train"


def _tuned(experiment: Experiment) -> str:
    fixed: tuple[Params, ...] | None = experiment.baseline_points
    plural = "s" if experiment.baseline_trials > 1 else ""
    if fixed is None:
        return f"{plural} from the same sampler"
    if len(fixed) == 1:
        return plural
    names = [p.name for p in experiment.baseline_parameters if isinstance(p.domain, Choices)]
    return f"{plural}, one for each {' x '.join(names) or 'point'}"


def _stopping(experiment: Experiment) -> str:
    if not experiment.scheduler.asha:
        return "none: every trial runs to its end"
    epochs, ladders = experiment.train.epochs, []
    for rungs, what in (
        (
            trunk_rungs(experiment.scheduler, epochs, experiment.every_trunk_has_a_baseline),
            "not averaged yet",
        ),
        (branch_rungs(experiment.scheduler, epochs), "averaged"),
    ):
        if rungs:
            ladders.append(f"after epochs {', '.join(map(str, rungs))} ({what})")
    if not ladders:
        return "none: no rung lies inside the run"
    factor = format_value(float(experiment.scheduler.reduction_factor))
    return f"ASHA keeps the top 1/{factor} {' and '.join(ladders)}; baselines are never stopped"


def _disk(plan: Plan) -> str:
    if isinstance(plan.images, str):
        cache = "what the decoded images take is not known yet"
    elif plan.images.cached:
        cache = "images are decoded already"
    else:
        cache = f"{format_bytes(plan.images.cache_bytes)} for decoded images"
    return f"{cache}; at most {format_bytes(plan.checkpoint_bytes)} for checkpoints at a time"
