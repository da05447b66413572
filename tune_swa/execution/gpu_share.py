"""Decide how much of a GPU one trial gets, from what a trial of the space takes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tune_swa.child_process import Child, ChildError
from tune_swa.config import (
    AverageSpec,
    Choices,
    Experiment,
    RunSettings,
    Value,
    count_tracked,
    format_value,
)
from tune_swa.errors import RequestError, SearchFailed
from tune_swa.hardware.gpu_survey import select_gpu
from tune_swa.plugins import list_sources
from tune_swa.text import format_bytes
from tune_swa.training.numerics import Numerics
from tune_swa.training.trial_cost import EPOCHS, TrialCost, Workload

PROBE_SECONDS = 600.0
"""Seconds to try a trial out. Most take ten; compiling a network takes minutes."""
MARGIN = 1.1
"""Times what was measured, a trial has room: other batches leave other holes in the memory."""
MOST_TRIALS = 4
"""Most trials on one GPU. Processes take turns on it, so each one more adds less than the one before."""
WORTH = 1.1
"""A further trial is worth it where those before leave the GPU idle for more than this over what it works."""
BY_MEMORY = ("schedulefree_adamw", "adam", "adamw", "schedulefree_sgd", "sgd")
"""Optimizers by what they take: the Adams keep two states, and a schedule-free step needs room of its own."""
SMALLER = "a smaller train.batch_size or train.eval_batch_size, or a smaller data.image_size"


@dataclass(frozen=True)
class Share:
    """Division of a GPU among trials."""

    trials: int
    """Trials at once on one GPU."""
    reason: str
    """The deciding reason, for people to read."""
    resident: bool
    """Whether each of them can keep the images on the GPU."""

    @property
    def fraction(self) -> float:
        """Share of a GPU for each trial."""
        return 1 / self.trials


def choose_fraction(cost: TrialCost, memory: int, image_bytes: int, cores: int) -> Share:
    """Divide a GPU among as many trials as it holds and as it takes to keep it busy.

    A GPU that waits for the process which sends it work has time for a second process. So the number of
    trials that are of use is what a step takes of the host over what it takes of the GPU.

    Args:
        cost: what a trial takes.
        memory: bytes of the GPU that trials may take, all together.
        image_bytes: what all training and validation images take on it, once for each trial.
        cores: CPU cores for the trials of this GPU, over what each of them asks for.

    Raises:
        RequestError: not one trial fits.
    """
    need = math.ceil(cost.trial_bytes * MARGIN) + cost.context_bytes
    resident = need + image_bytes <= memory
    holds = memory // (need + image_bytes if resident else need)
    if holds == 0:
        raise RequestError(
            f"one trial needs {format_bytes(cost.trial_bytes)} of a GPU and "
            f"{format_bytes(cost.context_bytes)} for CUDA itself, and {cost.device} has "
            f"{format_bytes(memory)} to give. Use {SMALLER}; or leave that GPU out with "
            "CUDA_VISIBLE_DEVICES, if there are larger ones"
        )
    busy = math.ceil(cost.host_seconds / cost.device_seconds / WORTH)
    trials = max(1, min(holds, busy, MOST_TRIALS, cores))
    if busy <= 1:
        reason = "one trial keeps the GPU busy"
    else:
        part = round(100 * cost.device_seconds / cost.host_seconds)
        reason = f"one trial keeps the GPU busy {part} % of the time"
        if trials == holds and holds < min(busy, MOST_TRIALS):
            reason += ", and more do not fit into its memory"
    return Share(trials, reason, resident)


def check_fraction(fraction: float, cost: TrialCost, memory: int) -> None:
    """See to it that a given fraction of a GPU holds a trial.

    Raises:
        RequestError: it does not; says what each of them is, and what would do.
    """
    has = fraction * memory - cost.context_bytes
    if has >= cost.trial_bytes:
        return
    least = math.ceil(100 * (cost.trial_bytes * MARGIN + cost.context_bytes) / memory) / 100
    enough = f"auto, at least {format_value(least)}, or " if least <= 1 else ""
    raise RequestError(
        f"resources.gpus_per_trial: {format_value(fraction)} of {cost.device} ({format_bytes(memory)}) "
        f"leaves {format_bytes(max(0.0, has))} to a trial ({format_bytes(cost.context_bytes)} go to CUDA "
        f"itself), but it needs {format_bytes(cost.trial_bytes)}. Use {enough}{SMALLER}"
    )


def check_memory(cost: TrialCost, workload: Workload) -> TrialCost:
    """See to it that the trial could be tried out at all.

    Raises:
        RequestError: the memory of the GPU was exhausted.
    """
    if cost.exhausted is None:
        return cost
    side, evaluated = workload.image_size, min(workload.settings.train.eval_batch_size, workload.val_images)
    others = ""
    if cost.free < 0.8 * cost.memory:
        others = f" Only {format_bytes(cost.free)} of it are free: see with nvidia-smi what else runs there."
    raise RequestError(
        f"one trial does not fit {cost.device} ({format_bytes(cost.memory)}; batches of "
        f"{workload.batch_size} images to train and {evaluated} to evaluate, of {side} x {side} pixels): "
        f"{cost.exhausted}.{others} Use {SMALLER}"
    )


def describe_cost(cost: TrialCost, trials: int, fraction: float, reason: str) -> str:
    """One line on what was measured, and what the search makes of it."""
    return (
        f"a trial takes {format_bytes(cost.trial_bytes)} (measured on {cost.device}, "
        f"{format_bytes(cost.memory)}) and {format_bytes(cost.context_bytes)} for CUDA itself: {trials} "
        f"trial{'s' * (trials != 1)} a GPU, {format_value(round(fraction, 4))} each; {reason}"
    )


def largest_workload(
    experiment: Experiment, numerics: Numerics, num_classes: int, train_images: int, val_images: int
) -> Workload:
    """The trial of the space that takes most of a GPU."""
    train: dict[str, Any] = {"epochs": EPOCHS, "warmup_epochs": 0, "t_max": None, "seed": None}
    for field in ("batch_size", "eval_batch_size"):
        train[field] = max(map(int, _numbers(_possible(experiment, f"train.{field}"))))
    optimizers = _possible(experiment, "train.optimizer")
    train["optimizer"] = next(name for name in BY_MEMORY if name in optimizers)
    frozen = _possible(experiment, "train.freeze")
    train["freeze"] = next(what for what in ("none", "bn", "backbone") if what in frozen)
    train["augment"] = max(_possible(experiment, "train.augment"), key=_count_operations)
    # update_bn takes training batches where it is given no size of its own
    refresh = _possible(experiment, "averaging.bn_batch_size")
    sizes = [*map(int, _numbers(refresh)), *([train["batch_size"]] if None in refresh else [])]
    # all tails take the same memory, and a cycle might not fit in so few epochs
    tail = {"tail": "constant", "cycle_epochs": None, "cycle_low": None}
    averaging = {"bn_batch_size": max(sizes), "bn_batches": 2, **tail}
    averages = max((experiment.averages, experiment.baseline.averages), key=_count_copies)
    # the chosen average is one copy more; a larger list of baselines takes as much
    chooses = experiment.objective.of == "best" and averages is experiment.averages
    settings = RunSettings(
        lr=1e-6,  # no loss may become infinite here
        swa_start=0,
        swa_lr=1e-6,
        model=experiment.model.model_copy(update={"weights": "none"}),
        train=experiment.train.model_copy(update=train),
        averaging=experiment.averaging.model_copy(update=averaging),
        averages=averages,
        chosen_by=experiment.objective.metric if chooses else None,
    )
    side, plugins = experiment.data.image_size, list_sources()
    return Workload(settings, numerics, side, num_classes, train_images, val_images, plugins)


def measure_trial(workload: Workload, gpu: int) -> TrialCost:
    """Try a trial out on the GPU of this number, in a process of its own.

    Raises:
        RequestError: it does not fit the GPU.
        SearchFailed: it crashed, or did not end.
    """
    call = "tune_swa.training.step_probe:measure_trial"
    with Child(call, workload.as_dict(), environment=select_gpu(gpu)) as child:
        try:
            cost = TrialCost(**child.result(PROBE_SECONDS))
        except ChildError as error:
            raise SearchFailed(
                f"a trial was tried out on GPU {gpu} before the search, and failed: {error}. `tune-swa "
                "doctor` looks at the GPUs; with --gpus 0 the search runs on the CPU"
            ) from None
    return check_memory(cost, workload)


def _possible(experiment: Experiment, name: str) -> list[Value]:
    """Values that a setting takes in trials of the space: all that are listed, or the ends of a range."""
    section, _, field = name.partition(".")
    points: Iterable[dict[str, Value]] = (*experiment.swa_points, *(experiment.baseline_points or ()))
    values: list[Value] = [point[name] for point in points if name in point]
    for parameter in experiment.parameters:
        if parameter.name == name:
            domain = parameter.domain
            ends = domain.values if isinstance(domain, Choices) else (domain.low, domain.high)
            return [*values, *ends]
    fixed = experiment.constants.get(name, getattr(getattr(experiment, section), field))
    return [*values, fixed]


def _numbers(values: list[Value]) -> list[float]:
    return [value for value in values if isinstance(value, int | float)]


def _count_copies(averages: Sequence[AverageSpec]) -> int:
    """Sets of weights that averages keep on the GPU, those that they are evaluated in included."""
    resident = ("ema", "swad", "swag", "subspace")
    kept = sum(average.method in resident for average in averages) + count_tracked(averages)
    return kept + (2 if averages and averages[0].method != "swa" else bool(averages))


def _count_operations(augment: Value) -> int:
    return len(augment) if isinstance(augment, tuple) else 0
