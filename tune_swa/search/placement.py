"""How many trials run at once, and what each of them gets: checked before anything starts."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from tune_swa.errors import RequestError
from tune_swa.spec import Experiment, ResourcesSpec, format_value


def usable_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Node:
    """One computer of a cluster."""

    name: str
    gpus: int
    cpus: int
    ray_id: str = ""


@dataclass(frozen=True)
class Machine:
    """What there is to use."""

    gpus: int
    cpus: int
    where: str = "this machine"
    nodes: tuple[Node, ...] = ()
    """The computers of a cluster; none for this machine alone."""

    @classmethod
    def local(cls) -> Machine:
        """The GPUs that torch sees and the cores that this process may use."""
        import torch

        return cls(gpus=torch.cuda.device_count(), cpus=usable_cores())

    @classmethod
    def of_nodes(cls, nodes: tuple[Node, ...], where: str) -> Machine:
        """A cluster."""
        return cls(sum(n.gpus for n in nodes), sum(n.cpus for n in nodes), where, nodes)

    def room(self, cpus_each: int, per_gpu: int | None) -> int:
        """Trials that fit at once; a trial runs on one computer, so what is left on each is lost.

        Args:
            cpus_each: cores of a trial.
            per_gpu: trials on a GPU; None: they run on the CPU.
        """

        def fit(node: Node) -> int:
            by_cpu = node.cpus // cpus_each
            return by_cpu if per_gpu is None else min(by_cpu, per_gpu * node.gpus)

        return sum(map(fit, self.nodes or (Node(self.where, self.gpus, self.cpus),)))


@dataclass(frozen=True)
class Placement:
    """What the search uses, and its division into slots."""

    gpus: int
    cpus: int
    slots: int
    """Trials that run at once."""
    gpus_per_trial: float
    cpus_per_trial: int

    @property
    def device(self) -> str:
        return "cuda" if self.gpus else "cpu"

    def resources(self, gpus: float) -> dict[str, float]:
        """Ray's resources of a trial with so much of a GPU."""
        cpus: dict[str, float] = {"CPU": self.cpus_per_trial}
        return {**cpus, "GPU": gpus} if self.gpus else cpus

    @property
    def slots_per_gpu(self) -> int:
        """Slots that a trial takes which has a whole GPU."""
        return max(1, self.slots // self.gpus) if self.gpus else 1


def place(
    resources: ResourcesSpec,
    machine: Machine,
    *,
    trials: int,
    gpus: int | None = None,
    cpus: int | None = None,
) -> Placement:
    """Divide a machine into slots.

    Args:
        resources: what one trial asks for.
        machine: what there is.
        trials: how many there are to run. With fewer trials than slots the fraction of a GPU is
            raised, since Ray packs fractions on the first GPU and would leave others idle.
        gpus: how many to use; default: all.
        cpus: how many cores to use; default: all.

    Raises:
        RequestError: more is asked for than there is, or no trial fits.
    """
    gpus = machine.gpus if gpus is None else gpus
    cpus = machine.cpus if cpus is None else cpus
    if gpus < 0 or cpus < 1:
        option, value, low = ("--gpus", gpus, 0) if gpus < 0 else ("--cpus", cpus, 1)
        raise RequestError(f"{option} {value}: expected at least {low}")
    if gpus > machine.gpus:
        have = f"{machine.where} has {machine.gpus or 'none'}"
        instead = f"--gpus {machine.gpus}" if machine.gpus else "--gpus 0 to run on the CPU"
        raise RequestError(
            f"--gpus {gpus}: {have} (torch.cuda.device_count() is {machine.gpus}). Use {instead}"
            + ("" if machine.gpus else ", or start it where the GPUs are")
        )
    if cpus > machine.cpus:
        raise RequestError(f"--cpus {cpus}: {machine.where} has {machine.cpus}. Use --cpus {machine.cpus}")
    each = resources.cpus_per_trial
    if each > cpus:
        raise RequestError(
            f"resources.cpus_per_trial: one trial asks for {each} cores, but only {cpus} may be used. "
            f"Lower it (--set resources.cpus_per_trial={cpus})"
        )
    by_cpu = cpus // each
    fraction = resources.gpus_per_trial
    per_gpu = math.floor(1 / fraction + 1e-9) if gpus else None
    room = machine.room(each, per_gpu)
    if room == 0:
        gpu = f" and {format_value(fraction)} of a GPU" if gpus else ""
        raise RequestError(
            f"resources.cpus_per_trial: one trial asks for {each} cores{gpu}, which none of the "
            f"{len(machine.nodes)} computers of {machine.where} has. Lower it, or add larger ones"
        )
    slots = min(by_cpu, room, max(1, trials))
    if per_gpu is None:
        return Placement(0, cpus, slots, 0.0, each)
    slots = min(slots, per_gpu * gpus)
    # Ray packs fractions on the first GPU, so slots are a multiple of the GPUs, and each fills its share
    each_gpu = max(1, slots // gpus)
    slots = min(slots, each_gpu * gpus, machine.room(each, each_gpu))
    fraction = max(fraction, 1 / each_gpu)
    return Placement(gpus, cpus, slots, fraction, each)


def describe(placement: Placement) -> str:
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
