"""Print the plan of a search as a table."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from tune_swa.config import Choices, Experiment, Params, count_space, format_value, list_choosable
from tune_swa.config.cautions import list_cautions
from tune_swa.data.dataset import Estimate
from tune_swa.data.folder_names import name_classes
from tune_swa.execution.dry_run import Plan
from tune_swa.execution.slots import describe_placement
from tune_swa.inference.looks import plan_looks
from tune_swa.search.arms import max_baselines
from tune_swa.search.asha import PhaseAsha
from tune_swa.search.confirm_cost import (
    Cost,
    looks_cost,
    max_tested_plain_arms,
    members_cost,
    merges_cost,
    planned_rounds,
    race_configurations,
    race_cost,
)
from tune_swa.search.trunk_sharing import trunks_recur
from tune_swa.text import format_bytes


def print_plan(console: Console, plan: Plan) -> None:
    """Print the plan as a person reads it."""
    experiment, images = plan.experiment, plan.images
    table = Table(title=f"Plan of {experiment.name}", show_header=False, box=None, title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in (
        ("images", _describe_images(images)),
        *_describe_classes(images),
        *_describe_notes(images),
        *([("--epochs", "\n".join(plan.rescaled))] if plan.rescaled else []),
        ("space", _describe_space(experiment)),
        ("sampler", f"{experiment.search.sampler}, seed {experiment.search.seed}"),
        ("trials", _describe_trials(experiment)),
        *([("averages", _describe_averages(experiment))] if experiment.averages else []),
        *([("objective", "nll, lower is better")] if experiment.objective.metric == "nll" else []),
        ("epochs", _describe_epochs(plan)),
        ("early stopping", _describe_stopping(experiment)),
        *([("SWAP", _describe_members(experiment))] if experiment.swap else []),
        *(
            [("race", _describe_race(experiment)), ("fresh seeds", _describe_fresh_seeds(experiment))]
            if plan.confirm
            else []
        ),
        *([("merges", _describe_merges(experiment))] if plan.confirm and experiment.confirm.merges else []),
        ("machine", describe_placement(plan.placement)),
        *[("caution", text) for text in list_cautions(experiment)],
        *([("GPU memory", line)] if (line := plan.placement.memory_line) else []),
        ("disk", _describe_disk(plan)),
        *[("network", text) for text in plan.network_notes],
        *([("weights", f"not here yet: {plan.missing_weights}")] if plan.missing_weights else []),
        *([("name", plan.name_taken)] if plan.name_taken else []),
    ):
        table.add_row(name, text)
    console.print(table, markup=False)


def _describe_images(images: Estimate | str) -> str:
    if isinstance(images, str):
        return f"not here yet. {images}"
    return (
        f"{images.name}: {images.train:,} to train on, {images.val:,} to validate, "
        f"{images.test:,} to test, {images.num_classes} classes"
    )


def _describe_classes(images: Estimate | str) -> Iterator[tuple[str, str]]:
    """Their names, from which a person sees whether the folders were understood."""
    if isinstance(images, str):
        return
    if images.class_names:
        yield "classes", name_classes(images.class_names)
    if images.folder_notes:
        yield "folders", "\n".join(images.folder_notes)


def _describe_notes(images: Estimate | str) -> list[tuple[str, str]]:
    """Rows on files left out and, if the images are decoded already, on what was found in them."""
    if isinstance(images, str):
        return []
    notes = images.image_notes
    rows = [
        ("left out", notes.format_left_out()),
        ("unusual", "\n".join(filter(None, (notes.format_decoded(), *notes.format_warnings())))),
        ("duplicates", notes.duplicates.format_plan() if notes.duplicates else ""),
    ]
    return [(name, text) for name, text in rows if text]


def _describe_space(experiment: Experiment) -> str:
    lines = [f"{p.name}: {p.domain.describe_values()}" for p in experiment.parameters]
    lines += [f"{name}: {format_value(value)}" for name, value in experiment.constants.items()]
    size = count_space(experiment.parameters)
    if size is not None:
        lines.append(f"{size:,} combination{'s' if size > 1 else ''}")
    return "\n".join(lines)


def _describe_averages(experiment: Experiment) -> str:
    first, *others = (average.label for average in experiment.averages)
    listed = f"{first}, which leads" + "".join(f", {label}" for label in others)
    if experiment.objective.of == "best":
        choosable = list_choosable(experiment.averages)
        listed = f"the best of {', '.join(choosable)} on the validation images, chosen in each trial"
        beside = [label for label in (first, *others) if label not in choosable]
        listed += f"; beside them {', '.join(beside)}" if beside else ""
    of_baselines = ", ".join(average.label for average in experiment.baseline.averages)
    return f"{listed}; of baselines {of_baselines}" if of_baselines else listed


def _describe_trials(experiment: Experiment) -> str:
    points = len({tuple(p.items()) for p in experiment.swa_points})
    given = f" ({points} of them given as points)" if points else ""
    baselines = f"{experiment.baseline_trials} baseline{_describe_tuning(experiment)}"
    if experiment.search.epochs is not None:
        most = "" if experiment.search.trials is None else f", at most {experiment.swa_trials}"
        return f"as many with SWA as the epochs allow{most}{given}, {baselines}"
    return f"{experiment.swa_trials} with SWA{given}, {baselines}"


_REUSE = "trials go on from known trunks while branches have taken fewer epochs than trunks"


def _describe_epochs(plan: Plan) -> str:
    experiment = plan.experiment
    budget, whole = experiment.search.epochs, experiment.train.epochs
    if budget is not None:
        text = f"{budget:,} to train ({whole} per trial): no trial begins once these are trained or under way"
        return f"{text}; {_REUSE}" if experiment.search.share and experiment.reuses_trunks else text
    text = f"at most {plan.epochs:,} to train ({experiment.train.epochs} per trial)"
    if plan.stages is not None and plan.stages < plan.epochs:
        shared = f"{plan.epochs - plan.stages:,} of {plan.epochs:,}"
        return f"at most {plan.stages:,} to train, since trials share {shared}"
    if experiment.search.share and plan.stages is None and trunks_recur(experiment):
        return f"{text}; fewer, since trials share what they train before averaging"
    if experiment.search.share and experiment.reuses_trunks:
        return f"{text}; fewer, since {_REUSE}"
    return text


def _describe_members(experiment: Experiment) -> str:
    """Describe what SWAP takes after the search."""
    swap = experiment.swap
    assert swap is not None
    number = min(swap.top, experiment.swa_trials)
    best = f"each of the {number} best SWA configurations" if number > 1 else "the best SWA configuration"
    batches = "" if swap.batch_size is None else f"; after the fork, batches of {swap.batch_size} images"
    cost = _describe_cost(members_cost(experiment))
    return f"{swap.members} members of {best}, the first one a trial of the search: {cost}{batches}"


def _describe_race(experiment: Experiment) -> str:
    number = race_configurations(experiment)
    rounds = planned_rounds(experiment, number)
    if not rounds:
        return _explain_no_race(experiment)
    first, last = rounds[0], rounds[-1]
    seeds = "a fresh seed" if last.seeds == 1 else f"up to {last.seeds} fresh seeds"
    least, most = max_baselines(experiment), first.plain
    plain = _count_things(most, "plain one") if least == most else f"{least} to {most} plain ones"
    sides = f"{_count_things(first.swa, 'SWA configuration')} and {plain}"
    return f"{sides} on {seeds}, validation images alone: {_describe_cost(race_cost(experiment))}"


def _explain_no_race(experiment: Experiment) -> str:
    confirm, trials = experiment.confirm, experiment.swa_trials
    if confirm.race and trials <= confirm.top:
        return "none: there are no more SWA configurations than finalists"
    if confirm.race and confirm.race.configurations == "auto":
        return (
            "none: it would take more than half of what the search and the first look take "
            "(confirm.race.configurations asks for one)"
        )
    return "none: the best of the search are the finalists"


def _describe_fresh_seeds(experiment: Experiment) -> str:
    confirm = experiment.confirm
    looks = plan_looks(confirm.seeds, confirm.most_seeds)
    finalists = _count_things(min(confirm.top, experiment.swa_trials), "finalist")
    if len(looks) == 1:
        seeds = f"{looks[0]} fresh seed{'s' * (looks[0] > 1)}"
    else:
        seeds = f"{looks[0]} fresh seeds, and on up to {looks[-1]} while the answer is open (looks at "
        seeds += f"{', '.join(map(str, looks[:-1]))} and {looks[-1]})"
    plain = max_tested_plain_arms(experiment)
    number = f"up to {plain} plain ones" if plain > 1 else "a plain one"
    return f"{finalists} and {number} on {seeds}, tested: {_describe_cost(looks_cost(experiment))}"


def _describe_merges(experiment: Experiment) -> str:
    cost, seeds = merges_cost(experiment), experiment.confirm.most_seeds
    kinds = " and of the best ".join(spec.label for spec in experiment.merge)
    return (
        f"the recipe of the best {kinds} on {_count_things(seeds, 'fresh seed')}, tested: up to "
        f"{cost.runs[1]:,} runs and {cost.epochs[1]:,} epochs more, at most "
        f"{_count_things(cost.epochs[1] // seeds, 'epoch')} a seed"
    )


def _count_things(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number > 1)}"


def _describe_cost(cost: Cost) -> str:
    """Runs and epochs, at least and at most where these differ."""
    (least, runs), (fewest, epochs) = cost.runs, cost.epochs
    between = f"{least:,} to {runs:,}" if least < runs else f"{runs:,}"
    spent = f"{fewest:,} to {epochs:,}" if fewest < epochs else f"{epochs:,}"
    return f"{between} runs, {spent} epochs to train"


def _describe_tuning(experiment: Experiment) -> str:
    fixed: tuple[Params, ...] | None = experiment.baseline_points
    plural = "s" if experiment.baseline_trials > 1 else ""
    if fixed is None:
        return f"{plural} from the same sampler"
    if len(fixed) == 1:
        return plural
    names = [p.name for p in experiment.baseline_parameters if isinstance(p.domain, Choices)]
    return f"{plural}, one for each {' x '.join(names) or 'point'}"


def _describe_stopping(experiment: Experiment) -> str:
    if not experiment.scheduler.asha:
        return "none: every trial runs to its end"
    asha, ladders = PhaseAsha.of_experiment(experiment), []
    for rungs, what in ((asha.trunk_rungs, "not averaged yet"), (asha.branch_rungs, "averaged")):
        if rungs:
            ladders.append(f"after epochs {', '.join(map(str, sorted(rungs)))} ({what})")
    if not ladders:
        return "none: no rung lies inside the run"
    factor = format_value(float(experiment.scheduler.reduction_factor))
    return f"ASHA keeps the top 1/{factor} {' and '.join(ladders)}; baselines are never stopped"


def _describe_disk(plan: Plan) -> str:
    if isinstance(plan.images, str):
        cache = "what the decoded images take is not known yet"
    elif plan.images.cached:
        cache = "images are decoded already"
    else:
        cache = f"{format_bytes(plan.images.cache_bytes)} for decoded images"
    return f"{cache}; at most {format_bytes(plan.checkpoint_bytes)} for checkpoints at a time"
