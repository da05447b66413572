"""Work out what a search would do, for `--dry-run`: nothing is decoded or trained."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rich.status import Status

from tune_swa.config import Experiment, count_snapshots, count_weights
from tune_swa.config.network_names import TIMM
from tune_swa.data.dataset import Estimate, estimate_dataset, prepare_dataset
from tune_swa.errors import RequestError
from tune_swa.execution.ensemble_size import check_ensemble_size
from tune_swa.execution.gpu_share import measure_trial
from tune_swa.execution.header import check_unchanged
from tune_swa.execution.ray_runtime import open_machine
from tune_swa.execution.request import Request, print_note, show_status
from tune_swa.execution.request_checks import CheckedRequest, check_request, check_resources
from tune_swa.execution.site import Measure, measure_placement, place_trials, resolve_numerics, survey_cluster
from tune_swa.execution.slots import Machine, Measured, Placement, plan_placement, total_trials
from tune_swa.experiment.events import ExperimentCreated
from tune_swa.experiment.folder import NameTakenError, lock_experiment
from tune_swa.experiment.state import ExperimentState
from tune_swa.hardware.pretrained_weights import locate_imagenet_weights
from tune_swa.search.confirm_cost import (
    count_members,
    looks_cost,
    max_fresh_states,
    max_tested_plain_arms,
    merges_cost,
)
from tune_swa.search.samplers import quiet_optuna
from tune_swa.search.trunk_sharing import max_states, planned_epochs
from tune_swa.training.model import StateDict, resolve_weights
from tune_swa.training.network_checks import count_weights_of, list_network_notes

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
    missing_weights: str | None = None
    """Where the starting weights go that are not here yet."""
    name_taken: str | None = None
    """Why the search needs another name, or `--resume`."""
    rescaled: tuple[str, ...] = ()
    """What became of the settings that count epochs where `--epochs` changed them, a line each."""
    network_notes: tuple[str, ...] = ()
    """What is different with the network."""


def plan_request(request: Request) -> Plan:
    """Work out the plan of a request on its machine or cluster, with the checks that its search makes first.

    Nothing is downloaded, decoded or left behind.

    Raises:
        RequestError: the search would refuse the request.
    """
    quiet_optuna()
    checked, name_taken = _check_as_search(request)
    request = checked.request
    weights = _find_weights(request)
    waiting = show_status(request, "looking at the machine")
    here = nullcontext(checked.machine) if checked.machine is not None else open_machine(request.address)
    with waiting, here as machine:
        measure: Measure = measure_trial
        if machine.nodes:
            machine, _, measure = survey_cluster(machine, request.gpus, request.console.print)
        if isinstance(waiting, Status) and machine.gpus:
            waiting.update("trying out what a trial takes of a GPU")
        plan = make_plan(
            request.experiment,
            request.data_dir,
            machine=machine,
            gpus=request.gpus,
            cpus=request.cpus,
            confirm=request.confirm,
            measure=measure,
        )
    if checked.state.header is not None:
        _check_resumable(checked, checked.state.header, plan.images, weights)
    missing = f"{weights}, which the search downloads" if isinstance(weights, Path) else None
    return replace(plan, missing_weights=missing, name_taken=name_taken, rescaled=request.rescaled)


def _check_as_search(request: Request) -> tuple[CheckedRequest, str | None]:
    """Check the request in its folder; of a name that is taken, return why the search will refuse it."""
    try:
        with lock_experiment(request.folder):
            return check_request(request), None
    except NameTakenError as error:
        if request.resume:
            raise
        request, state = replace(request, storage=None), ExperimentState()  # which is taken as well
        return CheckedRequest(request, [], state, check_resources(request, state)), str(error)


def _find_weights(request: Request) -> StateDict | Path | None:
    """The starting weights; the file that they will be downloaded to if they are not here yet."""
    model = request.experiment.model
    if model.weights == "imagenet":
        if model.arch.startswith(TIMM):  # timm alone knows its files
            return None
        _, file = locate_imagenet_weights(model.arch)
        if not file.exists():
            return file
    return resolve_weights(model, partial(print_note, request), request.experiment.data.image_size)


def _check_resumable(
    checked: CheckedRequest,
    begun: ExperimentCreated,
    images: Estimate | str,
    weights: StateDict | Path | None,
) -> None:
    """Compare what is here with what the search began with; on a cluster, its nodes would have to be asked.

    Raises:
        RequestError: something differs.
    """
    request, machine = checked.request, checked.machine
    if machine is None or isinstance(weights, Path):
        return
    data = None
    if isinstance(images, Estimate) and images.cached:
        data = prepare_dataset(request.experiment.data, request.images_dir, download=False)
    placement = place_trials(request, checked.state, machine)
    check_unchanged(begun, data, weights, resolve_numerics(request, placement, machine))


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
    if isinstance(images, Estimate):
        check_ensemble_size(experiment, images.test, classes)
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
        network_notes=tuple(list_network_notes(experiment)),
    )


def _estimate_images(experiment: Experiment, data_dir: Path | None) -> Estimate | str:
    """Describe the images, or where they come from if they can still be downloaded."""
    data = experiment.data
    try:
        return estimate_dataset(data, data_dir)
    except RequestError as error:
        if data.dataset == "folder" and data_dir is None and data.path is None:  # whose plan may come first
            return str(error)
        raise


def _checkpoint_bytes(experiment: Experiment, slots: int, classes: int, *, confirm: bool) -> int:
    """Peak size of all checkpoints together."""
    model, size = experiment.model, experiment.data.image_size
    weights, head = (4 * count for count in count_weights_of(model.arch, classes, size))
    trained = head if set(experiment.list_extremes("train.freeze")) == {"backbone"} else weights
    adams = set(experiment.list_extremes("train.optimizer")) - {"sgd", "schedulefree_sgd"}
    optimizer = trained * (2 if adams else 1)  # moments, or the schedule-free ones' other point
    if experiment.train.arithmetic:
        optimizer += trained  # the gradient accumulators
    averages = _count_averages(experiment) * weights
    running = 2 * weights + optimizer + averages  # live model and SWA's average
    ended = 2 * weights + averages
    length = max(map(count_snapshots, (experiment.averages, experiment.baseline.averages)))
    soups = sum(merge.method == "soup" for merge in experiment.merge)
    merged = soups * (experiment.swa_trials // 2) * weights  # of two trials at least
    members, swap = count_members(experiment), experiment.swap
    if swap is not None:
        merged += min(swap.top, experiment.swa_trials) * weights
    states = 0
    if experiment.search.share:
        # a stage begins when the states of the one before are gone
        most = max(max_states(experiment, slots), max_fresh_states(experiment) if confirm else 0)
        states = most * (weights + optimizer)
    if experiment.search.keep_checkpoints == "all":
        every = experiment.search.checkpoint_every
        each = -(-experiment.train.epochs // (1 if every == "auto" else every))
        bank = (experiment.train.epochs if length else 0) * weights
        return (total_trials(experiment) + members) * (each * running + bank) + states + merged
    # a running trial has two, and a third while it is written; of those that have ended as many as there
    # are finalists are kept, the best baseline, and the best run of each arm that is tested, or all of them
    top = experiment.confirm.top
    kept = top + 1
    if confirm:
        arms = top + max_tested_plain_arms(experiment)
        kept += looks_cost(experiment).runs[1] if experiment.confirm.keep_weights else arms
        kept += merges_cost(experiment).runs[1]  # until a merge on a fresh seed has all of its members
    candidates = experiment.swa_trials if soups else swap.top if swap else 0
    kept += max(0, min(candidates, experiment.swa_trials) - top) + members
    bank = min(3 * length, experiment.train.epochs) * weights  # of each checkpoint, most of them the same
    return slots * (3 * running + bank) + kept * (ended + length * weights) + states + merged


def _count_averages(experiment: Experiment) -> int:
    """Sets of weights in a checkpoint beside the live model and SWA's average: what averages keep
    besides the bank, and of a leader other than SWA, or of a choice, what is shipped."""
    led = experiment.averages
    shipped = bool(led and (led[0].method != "swa" or experiment.objective.of == "best"))
    return max(count_weights(led) + shipped, count_weights(experiment.baseline.averages))
