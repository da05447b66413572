"""Decide where the trials of a session run: how many at once, on which GPUs, with which numerics."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from tune_swa.config import Experiment
from tune_swa.data.dataset import Dataset
from tune_swa.execution import cluster_check, ray_runtime
from tune_swa.execution.first_worker import list_modules
from tune_swa.execution.gpu_share import largest_workload, measure_trial
from tune_swa.execution.request import Request, print_note, show_status
from tune_swa.execution.slots import Machine, Measured, Placement, plan_placement, total_trials
from tune_swa.experiment.state import ExperimentState
from tune_swa.experiment.trial_state import TrialState
from tune_swa.hardware.torch_probe import Gpu, GpuSurvey
from tune_swa.plugins import list_sources
from tune_swa.search.confirm_cost import count_members, max_runs_per_step
from tune_swa.search.members import plan_step
from tune_swa.training.numerics import Numerics, decide_numerics
from tune_swa.training.trial_cost import TrialCost, Workload

Measure = Callable[[Workload, int], TrialCost]
"""Runs a test trial on the GPU with the given index."""


@dataclass(frozen=True)
class Site:
    """The machine and slots that the trials of a session run on."""

    placement: Placement
    machine: Machine
    surveys: tuple[GpuSurvey, ...] = ()
    """Surveys of this machine's GPUs that are used, or of a GPU of each node; none: on the CPU."""


@contextmanager
def open_site(
    request: Request,
    state: ExperimentState,
    machine: Machine | None,
    await_images: Callable[[], Dataset],
) -> Iterator[Site]:
    """Start Ray with the slots of the request: our own on `machine`, or join a cluster where that is None.

    Args:
        request: a request that was checked.
        state: of the experiment.
        machine: this machine.
        await_images: returns the images when they are decoded. Our own Ray starts meanwhile.

    Raises:
        RequestError: what is asked for is not there, or does not hold a trial.
        SearchFailed: Ray cannot be started, or a trial that was tried out failed.
    """

    def place_measured(machine: Machine, measure: Measure) -> Placement:
        placement = place_trials(request, state, machine)
        if not placement.gpus:
            return placement
        data = await_images()
        counts = len(data.train), len(data.val)
        with show_status(request, "trying out what a trial takes of a GPU"):
            measured = measure_placement(
                request.experiment, machine, placement, data.num_classes, counts, measure
            )
        return place_trials(request, state, machine, measured)

    if machine is not None:
        with ExitStack() as waiting:

            def wait_for_images() -> None:
                await_images()
                waiting.enter_context(show_status(request, "starting the first workers"))

            # its cores and GPUs; their division follows from what a trial takes
            planned = place_trials(request, state, machine)
            with ray_runtime.start_local_ray(planned, wait_for_images, list_modules(planned)):
                waiting.close()
                placement = place_measured(machine, measure_trial)
                if placement.slots != planned.slots:
                    ray_runtime.set_environment(placement.slots)
                yield _describe_site(machine, placement)
        return
    assert request.address is not None
    await_images()
    with ray_runtime.join_cluster(request.address) as machine:
        with show_status(request, "looking at the GPUs of the cluster"):
            machine, surveys, measure = survey_cluster(
                machine, request.gpus, lambda text: print_note(request, text)
            )
        placement = place_measured(machine, measure)
        ray_runtime.set_environment(placement.slots)
        yield Site(placement, machine, surveys)


def _describe_site(machine: Machine, placement: Placement) -> Site:
    """Return this machine with the GPUs that are used."""
    used = machine.used_facts(placement.gpus)
    surveys: tuple[GpuSurvey, ...] = ()
    if machine.survey is not None and used:
        surveys = (replace(machine.survey, gpus=used),)
    return Site(placement, machine, surveys)


def survey_cluster(
    machine: Machine, gpus: int | None, say: Callable[[str], object]
) -> tuple[Machine, tuple[GpuSurvey, ...], Measure]:
    """Look at a GPU of every node of a cluster, unless none is asked for.

    Returns:
        The machine with what is known of its GPUs, the surveys behind that, and what tries a trial out there.

    Raises:
        RequestError: a GPU cannot be used.
    """
    surveys = {} if gpus == 0 else cluster_check.survey_nodes(machine.nodes, say)
    facts = tuple(survey.gpus[0] for survey in surveys.values())

    def measure(workload: Workload, _: int) -> TrialCost:
        return cluster_check.measure_on_nodes(surveys, workload, say)

    return replace(machine, facts=facts), tuple(surveys.values()), measure


def place_trials(
    request: Request, state: ExperimentState, machine: Machine, measured: Measured | None = None
) -> Placement:
    """Divide a machine among the trials that are left.

    Raises:
        RequestError: more is asked for than there is, or no trial fits.
    """
    trials = max(1, _count_left(request, state))
    resources, gpus, cpus = request.experiment.resources, request.gpus, request.cpus
    return plan_placement(resources, machine, trials=trials, gpus=gpus, cpus=cpus, measured=measured)


def _count_left(request: Request, state: ExperimentState) -> int:
    """Trials that this session's places are for: all of its stages have the same ones.

    A few that are left of the search do not take the places from the runs on fresh seeds after them,
    nor do these many runs make the places smaller than a search from the start would have them. Trials
    that failed with less than a whole GPU for want of its memory may be tried again, so they count.
    """
    experiment = request.experiment

    def has_ended(trial: TrialState) -> bool:
        return trial.ended and (trial.exhausted is None or trial.exhausted >= 1)

    searched = [has_ended(trial) for trial in state.trials.values() if trial.stage == "search"]
    total = max(total_trials(experiment), len(searched))
    left = total - sum(searched)
    if left:
        after = max(max_runs_per_step(experiment) if request.confirm else 0, count_members(experiment))
        return max(left, min(total, after))
    # whether a look that has ended is the last one is not known yet: the places do for one more
    step = plan_step(experiment, state, lambda look: state.stops.get(look.look), confirm=request.confirm)
    names = step.names if step else []
    return sum(name not in state.trials or not has_ended(state.trials[name]) for name in names)


def measure_placement(
    experiment: Experiment,
    machine: Machine,
    placement: Placement,
    num_classes: int,
    images: tuple[int, int],
    measure: Measure,
) -> Measured:
    """Try out what a trial takes of the smallest GPU.

    Args:
        experiment: the trials are of.
        machine: that they run on.
        placement: which of its GPUs are used.
        num_classes: of the images.
        images: how many there are to train on, and to validate.
        measure: tries a trial out.

    Raises:
        RequestError: it does not fit.
        SearchFailed: it fails otherwise.
    """
    numerics = decide_numerics(
        experiment.train,
        experiment.data.image_size,
        device="cuda",
        threads=placement.cpus_per_trial,
        gpus=machine.used_facts(placement.gpus),
    )
    workload = largest_workload(experiment, numerics, num_classes, *images)
    cost = measure(workload, machine.smallest_gpu(placement.gpus))
    return Measured(cost, 3 * experiment.data.image_size**2 * sum(images))


def resolve_numerics(request: Request, placement: Placement, machine: Machine) -> Numerics:
    """The numerics of trials on this machine.

    Raises:
        RequestError: it cannot run the precision that is asked for.
    """
    experiment = request.experiment
    return decide_numerics(
        experiment.train,
        experiment.data.image_size,
        device=placement.device,
        threads=placement.cpus_per_trial,
        gpus=_facts(placement, machine),
    )


def agree_on_numerics(request: Request, site: Site, data: Dataset) -> tuple[Numerics, str]:
    """Numerics and torch of where the trials run: on a cluster, the driver's machine may differ.

    Raises:
        RequestError: a node cannot take part, or they differ.
    """
    placement, machine = site.placement, site.machine
    if request.address is None:
        import torch

        return resolve_numerics(request, placement, machine), torch.__version__
    store, probe = request.store, f"probe-{uuid.uuid4().hex}"
    store.write(probe, lambda path: path.write_text(probe))
    try:
        with show_status(request, f"looking at the nodes of the cluster ({len(machine.nodes)})"):
            question = cluster_check.Question(
                request.experiment,
                request.images_dir,
                placement.device,
                placement.cpus_per_trial,
                store,
                probe,
                _facts(placement, machine),
                list_sources(),
            )
            answers = cluster_check.ask_all(
                machine.nodes, placement, question, lambda text: print_note(request, text)
            )
    finally:
        store.remove(probe)
    numerics = cluster_check.agree(answers, data.fingerprint, store)
    return numerics, next(iter(answers.values())).torch


def _facts(placement: Placement, machine: Machine) -> tuple[Gpu, ...] | None:
    """Return the survey of the GPUs that trials may run on; None: they run on the CPU."""
    return machine.used_facts(placement.gpus) if placement.gpus else None
