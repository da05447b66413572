"""Work out what a search would do, for `--dry-run`: nothing is decoded or trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.status import Status

from tune_swa.config import Experiment
from tune_swa.data.dataset import Estimate, estimate_dataset
from tune_swa.errors import RequestError
from tune_swa.execution.gpu_share import measure_trial
from tune_swa.execution.ray_runtime import open_machine
from tune_swa.execution.request import Request, show_status
from tune_swa.execution.site import Measure, measure_placement, survey_cluster
from tune_swa.execution.slots import Machine, Measured, Placement, plan_placement, total_trials
from tune_swa.experiment.folder import check_writable
from tune_swa.search.confirm_cost import max_fresh_states, max_tested_plain_arms
from tune_swa.search.samplers import quiet_optuna
from tune_swa.search.trunk_sharing import max_states, planned_epochs

RESNET18_WEIGHTS = 11_176_512
"""Parameters of torchvision's ResNet-18 without its classifier."""
CLASSIFIER_INPUTS = 512
IMAGENET_CLASSES = 1000
"""Taken for the size of a checkpoint where the images are not here yet."""
MANY = 1_000_000
"""Images, where it is not known how many there are: then no batch is taken to be smaller than asked for."""


@dataclass(frozen=True)
class Plan:
    """The search as planned."""

    experiment: Experiment
    placement: Placement
    images: Estimate | str
    """The images, or where they come from while they are not here."""
    epochs: int
    """Epochs that all trials train by themselves if none is stopped early."""
    stages: int | None
    """Epochs if every trunk is trained once; None: the sampler decides, or nothing is shared."""
    confirm: bool
    """Whether fresh seeds follow."""
    checkpoint_bytes: int
    """Peak size of all checkpoints together."""


def plan_request(request: Request) -> Plan:
    """Work out the plan of a request on its machine or cluster.

    Raises:
        RequestError: the images are missing or cannot be split, the resources are not there, or the results
            could not be written.
    """
    check_writable(request.folder)
    waiting = show_status(request, "looking at the machine")
    with waiting, open_machine(request.address, request.gpus) as machine:
        measure: Measure = measure_trial
        if machine.nodes:
            machine, _, measure = survey_cluster(machine, request.gpus, request.console.print)
        if isinstance(waiting, Status) and machine.gpus:
            waiting.update("trying out what a trial takes of a GPU")
        return make_plan(
            request.experiment,
            request.data_dir,
            machine=machine,
            gpus=request.gpus,
            cpus=request.cpus,
            confirm=request.confirm,
            measure=measure,
        )


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
    """Work out the plan of an experiment.

    Args:
        experiment: what is planned.
        data_dir: folder of the images or the download.
        machine: what is available.
        gpus: how many to use; default: all.
        cpus: how many cores to use; default: all.
        confirm: whether fresh seeds follow.
        measure: tries a trial out on the GPU of a number; without it `auto` is a whole GPU.

    Raises:
        RequestError: as `plan_request`.
    """
    quiet_optuna()

    def place_trials(measured: Measured | None) -> Placement:
        trials = total_trials(experiment)
        return plan_placement(
            experiment.resources, machine, trials=trials, gpus=gpus, cpus=cpus, measured=measured
        )

    placement = place_trials(None)
    images = _estimate_images(experiment, data_dir)
    classes = IMAGENET_CLASSES if isinstance(images, str) else images.num_classes
    if placement.gpus and measure is not None:
        counts = (MANY, MANY) if isinstance(images, str) else (images.train, images.val)
        placement = place_trials(measure_placement(experiment, machine, placement, classes, counts, measure))
    return Plan(
        experiment=experiment,
        placement=placement,
        images=images,
        epochs=total_trials(experiment) * experiment.train.epochs,
        stages=planned_epochs(experiment) if experiment.search.share else None,
        confirm=confirm,
        checkpoint_bytes=_checkpoint_bytes(experiment, placement.slots, classes, confirm=confirm),
    )


def _estimate_images(experiment: Experiment, data_dir: Path | None) -> Estimate | str:
    """Describe the images, or where they come from if they can still be downloaded."""
    try:
        return estimate_dataset(experiment.data, data_dir)
    except RequestError as error:
        if data_dir is not None or experiment.data.path is not None:
            raise
        return str(error)


def _checkpoint_bytes(experiment: Experiment, slots: int, classes: int, *, confirm: bool) -> int:
    """Peak size of all checkpoints together."""
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
