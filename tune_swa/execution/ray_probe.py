"""Whether Ray works here. To be called in a process of its own: Ray ends its process when it fails."""

from __future__ import annotations

from typing import Any

from tune_swa.execution import ray_runtime
from tune_swa.execution.slots import Placement


def start() -> str:
    """Start a Ray as a search does, run a task, and stop it; return the address that it had.

    Raises:
        SearchFailed: it cannot be started.
    """
    with ray_runtime.start_local_ray(
        Placement(gpus=0, cpus=1, slots=1, gpus_per_trial=0.0, cpus_per_trial=1)
    ):
        import ray

        if ray.get(ray.remote(_task).remote(), timeout=60) != 42:
            raise RuntimeError("a task gave a wrong result")
        return str(ray.nodes()[0]["NodeManagerAddress"])


def join(address: str) -> list[dict[str, Any]]:
    """The nodes of the cluster at `address`, with their names, GPUs and cores.

    Raises:
        RequestError: there is no cluster, or it lets nobody in.
    """
    with ray_runtime.open_machine(address) as machine:
        return [{"name": node.name, "gpus": node.gpus, "cpus": node.cpus} for node in machine.nodes]


def _task() -> int:
    return 42
