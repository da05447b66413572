"""Plan how many trials run at once, and what each of them gets, before anything starts."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass
from typing import Any

from tune_swa.config import Experiment, ResourcesSpec, format_value
from tune_swa.errors import RequestError
from tune_swa.execution.gpu_share import Share, check_fraction, choose_fraction, describe_cost
from tune_swa.hardware.gpu_memory import CONTEXT_BYTES
from tune_swa.hardware.gpu_survey import VISIBLE, explain_missing_gpus, survey_gpus
from tune_swa.hardware.limits import count_cores, read_cpu_quota
from tune_swa.hardware.torch_probe import Gpu, GpuSurvey
from tune_swa.training.trial_cost import TrialCost


def usable_cores() -> int:
    """The cores that this process may use."""
    return count_cores()


@dataclass(frozen=True)
class Node:
    """One node of a cluster."""

    name: str
    gpus: int
    cpus: int
    ray_id: str = ""


@dataclass(frozen=True)
class Machine:
    """Nodes, GPUs and cores that a search may use."""

    gpus: int
    cpus: int
    where: str = "this machine"
    nodes: tuple[Node, ...] = ()
    """The nodes of a cluster; none for this machine alone."""

    survey: GpuSurvey | None = None
    """The GPUs of this machine; None: nobody has looked, or it is a cluster."""
    facts: tuple[Gpu, ...] = ()
    """Its GPUs, in the order in which they are used; for a cluster one of each node."""
    quota: float | None = None
    """Cores' worth of time that a container allows this machine's processes; None: no limit, or a cluster."""

    @classmethod
    def local(cls) -> Machine:
        """The GPUs that CUDA finds and the cores that this process may use."""
        survey = survey_gpus()
        cores, quota = usable_cores(), read_cpu_quota()
        return cls(len(survey.gpus), cores, survey=survey, facts=survey.gpus, quota=quota)

    @classmethod
    def without_gpus(cls) -> Machine:
        """The cores that this process may use. Nothing of CUDA is touched."""
        return cls(gpus=0, cpus=usable_cores(), quota=read_cpu_quota())

    @classmethod
    def of_nodes(cls, nodes: tuple[Node, ...], where: str) -> Machine:
        """A cluster."""
        return cls(sum(n.gpus for n in nodes), sum(n.cpus for n in nodes), where, nodes)

    def count_slots(self, cpus_each: int, per_gpu: int | None) -> int:
        """Trials that fit at once; a trial runs on one node, so what is left on each is lost.

        Args:
            cpus_each: cores of a trial.
            per_gpu: trials on a GPU; None: they run on the CPU.
        """

        def fit(node: Node) -> int:
            by_cpu = node.cpus // cpus_each
            return by_cpu if per_gpu is None else min(by_cpu, per_gpu * node.gpus)

        return sum(map(fit, self.nodes or (Node(self.where, self.gpus, self.cpus),)))

    def used_facts(self, gpus: int) -> tuple[Gpu, ...]:
        """Return the survey of the GPUs that a search may use; Ray takes the first ones."""
        return self.facts if self.nodes else self.facts[:gpus]

    def smallest_gpu(self, gpus: int) -> int:
        """The number of the GPU with the least memory among those."""
        used = self.used_facts(gpus)
        return min(range(len(used)), key=lambda index: usable_bytes(used[index]), default=0)


def usable_bytes(gpu: Gpu) -> int:
    """Memory of a GPU that trials can have: other programs keep theirs, our own look at it had a context."""
    return min(gpu.memory, gpu.free + CONTEXT_BYTES)


@dataclass(frozen=True)
class Measured:
    """Resources that a trial of the space takes."""

    cost: TrialCost
    image_bytes: int
    """Bytes of all training and validation images."""


@dataclass(frozen=True)
class Placement:
    """Resources of the search, and their division into slots."""

    gpus: int
    cpus: int
    slots: int
    """Trials that run at once."""
    gpus_per_trial: float
    cpus_per_trial: int
    cost: TrialCost | None = None
    """Cost of a trial on a GPU; None: not measured, or none is used."""
    share: Share | None = None
    """The measurement's advice on the division; None: as above."""

    @property
    def context_bytes(self) -> int:
        """Return the bytes that each process takes of a GPU for CUDA itself."""
        return CONTEXT_BYTES if self.cost is None else self.cost.context_bytes

    @property
    def trial_bytes(self) -> int | None:
        """Return the bytes that a trial takes of a GPU besides; None: not measured."""
        return None if self.cost is None else self.cost.trial_bytes

    @property
    def memory_line(self) -> str | None:
        """Describe the measurement and its consequence; None: nothing was measured."""
        if self.cost is None or self.share is None:
            return None
        trials = math.floor(1 / self.gpus_per_trial + 1e-9)
        return describe_cost(self.cost, trials, self.gpus_per_trial, self.share.reason)

    def as_dict(self) -> dict[str, Any]:
        """Each trial's part of a GPU, and what was measured for it, for the journal."""
        return {
            "gpus_per_trial": self.gpus_per_trial,
            "measured": None if self.cost is None else asdict(self.cost),
            "reason": None if self.share is None else self.share.reason,
        }

    @property
    def device(self) -> str:
        return "cuda" if self.gpus else "cpu"

    def ray_resources(self, gpus: float) -> dict[str, float]:
        """Ray's resources of a trial with so much of a GPU."""
        cpus: dict[str, float] = {"CPU": self.cpus_per_trial}
        return {**cpus, "GPU": gpus} if self.gpus else cpus

    @property
    def slots_per_gpu(self) -> int:
        """Slots taken by a trial that has a whole GPU."""
        return max(1, self.slots // self.gpus) if self.gpus else 1


def plan_placement(
    resources: ResourcesSpec,
    machine: Machine,
    *,
    trials: int,
    gpus: int | None = None,
    cpus: int | None = None,
    measured: Measured | None = None,
) -> Placement:
    """Divide a machine into slots.

    Args:
        resources: what one trial asks for.
        machine: where the trials run.
        trials: how many there are to run. With fewer trials than slots the fraction of a GPU is
            raised, since Ray packs fractions on the first GPU and would leave others idle.
        gpus: how many to use; default: all.
        cpus: how many cores to use; default: all, or as many as a container's quota is worth.
        measured: what a trial takes; without it `auto` is a whole GPU, and a given fraction is believed.

    Raises:
        RequestError: more is asked for than there is, or no trial fits.
    """
    if resources.gpus_per_trial == 0:
        gpus = 0
    check_gpus(machine, gpus)
    gpus = machine.gpus if gpus is None else gpus
    each = resources.cpus_per_trial
    cpus = _count_cores(machine, cpus, each)
    if each > cpus:
        raise RequestError(
            f"resources.cpus_per_trial: one trial asks for {each} cores, but only {cpus} may be used. "
            f"Lower it (--set resources.cpus_per_trial={cpus})"
        )
    by_cpu = cpus // each
    share = None
    fraction = 1.0 if resources.gpus_per_trial == "auto" else resources.gpus_per_trial
    if gpus and measured is not None:
        share = _divide_gpu(resources, machine, gpus, by_cpu, measured)
        fraction = share.fraction if resources.gpus_per_trial == "auto" else fraction
    per_gpu = math.floor(1 / fraction + 1e-9) if gpus else None
    room = machine.count_slots(each, per_gpu)
    if room == 0:
        gpu = f" and {format_value(fraction)} of a GPU" if gpus else ""
        raise RequestError(
            f"resources.cpus_per_trial: one trial asks for {each} cores{gpu}, which none of the "
            f"{len(machine.nodes)} nodes of {machine.where} has. Lower it, or add larger ones"
        )
    slots = min(by_cpu, room, max(1, trials))
    if per_gpu is None:
        return Placement(0, cpus, slots, 0.0, each)
    slots = min(slots, per_gpu * gpus)
    # Ray packs fractions on the first GPU, so slots are a multiple of the GPUs, and each fills its share
    each_gpu = max(1, slots // gpus)
    slots = min(slots, each_gpu * gpus, machine.count_slots(each, each_gpu))
    fraction = max(fraction, 1 / each_gpu)
    return Placement(gpus, cpus, slots, fraction, each, None if measured is None else measured.cost, share)


def check_gpus(machine: Machine, gpus: int | None) -> None:
    """Check that the GPUs which are asked for exist and can train.

    Args:
        machine: where the trials run.
        gpus: how many are asked for; None: all. A search does not fall back on the CPU by itself where
            there are GPUs that cannot be used: it would take days before somebody wondered.

    Raises:
        RequestError: they are not, or cannot.
    """
    if gpus == 0:
        return
    if gpus is not None and gpus < 0:
        raise RequestError(f"--gpus {gpus}: expected at least 0")
    asked = "" if gpus is None else f"--gpus {gpus}: "
    on_cpu = "use --gpus 0 to run on the CPU"
    missing = explain_missing_gpus(machine.survey) if machine.survey else None
    if missing is not None:
        why, remedy = missing
        raise RequestError(f"{asked}{why}. {remedy}, or {on_cpu}")
    if gpus is not None and gpus > machine.gpus:
        raise RequestError(f"--gpus {gpus}: {_explain_too_few_gpus(machine, on_cpu)}")
    for index, gpu in enumerate(machine.used_facts(machine.gpus if gpus is None else gpus)):
        if gpu.error is not None:
            raise RequestError(
                f"{asked}torch cannot train on GPU {index}, {gpu.name} ({gpu.error}). Leave it out with "
                f"CUDA_VISIBLE_DEVICES, or {on_cpu}; `tune-swa doctor` says more"
            )


def _explain_too_few_gpus(machine: Machine, on_cpu: str) -> str:
    """Why there are fewer GPUs than were asked for, and what to do."""
    if machine.survey is not None and machine.survey.hidden:
        return f"{VISIBLE}={os.environ.get(VISIBLE, '')} hides all GPUs. Unset {VISIBLE}, or {on_cpu}"
    seen = "" if machine.nodes else " that CUDA can use"
    if not machine.gpus:
        return (
            f"{machine.where} has none{seen}. Use --gpus 0 to run on the CPU, or start it where the GPUs are"
        )
    return f"{machine.where} has {machine.gpus}{seen}. Use --gpus {machine.gpus}"


def _count_cores(machine: Machine, cpus: int | None, each: int) -> int:
    """Count the cores to use. A container's quota refuses nothing that is asked for: it slows it down."""
    if cpus is None and machine.quota is not None:
        return min(machine.cpus, max(each, int(machine.quota)))
    if cpus is None:
        return machine.cpus
    if cpus < 1:
        raise RequestError(f"--cpus {cpus}: expected at least 1")
    if cpus > machine.cpus:
        raise RequestError(f"--cpus {cpus}: {machine.where} has {machine.cpus}. Use --cpus {machine.cpus}")
    return cpus


def _divide_gpu(
    resources: ResourcesSpec, machine: Machine, gpus: int, slots: int, measured: Measured
) -> Share:
    """Divide the smallest of the GPUs by what was measured, and check a fraction that is given.

    Raises:
        RequestError: no trial fits, or none fits the fraction.
    """
    cost, used = measured.cost, machine.used_facts(gpus)
    memory = min((gpu.memory for gpu in used), default=cost.memory)
    usable = min(map(usable_bytes, used), default=cost.memory)
    share = choose_fraction(cost, usable, measured.image_bytes, max(1, slots // gpus))
    if resources.gpus_per_trial != "auto":
        check_fraction(resources.gpus_per_trial, cost, memory)
    return share


def describe_placement(placement: Placement) -> str:
    """One line for the plan."""
    what = f"{placement.cpus} CPU core{'s' if placement.cpus > 1 else ''}"
    if placement.gpus:
        what = f"{placement.gpus} GPU{'s' if placement.gpus > 1 else ''}, {what}"
    share = f"{placement.cpus_per_trial} core{'s' if placement.cpus_per_trial > 1 else ''}"
    if placement.gpus:
        share = f"{format_value(round(placement.gpus_per_trial, 4))} GPU and {share}"
    return f"{what}: {placement.slots} trial{'s' if placement.slots > 1 else ''} at once, {share} each"


def total_trials(experiment: Experiment) -> int:
    """Baselines and SWA trials of the search."""
    return experiment.baseline_trials + experiment.swa_trials
