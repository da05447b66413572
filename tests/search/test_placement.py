"""How a machine is divided, and what a request that does not fit is answered with."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tune_swa.errors import RequestError
from tune_swa.search.placement import Machine, Node, describe, place
from tune_swa.spec import ResourcesSpec

FOUR = Machine(gpus=4, cpus=64)


def quarter(cpus: int = 1) -> ResourcesSpec:
    return ResourcesSpec(gpus_per_trial=0.25, cpus_per_trial=cpus)


@pytest.mark.parametrize(
    ("machine", "asked", "trials", "slots", "fraction"),
    [
        (FOUR, {}, 48, 16, 0.25),
        (FOUR, {"gpus": 2}, 48, 8, 0.25),
        (FOUR, {}, 4, 4, 1.0),  # Ray would pack four quarters on the first GPU
        (FOUR, {}, 3, 3, 1.0),
        (FOUR, {}, 6, 4, 1.0),  # halves would be packed on three of the four
        (FOUR, {}, 1, 1, 1.0),
        (FOUR, {"cpus": 8}, 48, 8, 0.5),
        (FOUR, {"gpus": 0}, 48, 48, 0.0),
        (Machine(0, 2), {}, 48, 2, 0.0),
        (Machine(0, 2), {"cpus": 1}, 48, 1, 0.0),
        (Machine(1, 1), {}, 48, 1, 1.0),
    ],
)
def test_slots_and_fractions(
    machine: Machine, asked: dict[str, int], trials: int, slots: int, fraction: float
) -> None:
    placement = place(quarter(), machine, trials=trials, **asked)  # type: ignore[arg-type]
    assert (placement.slots, placement.gpus_per_trial) == (slots, fraction)
    assert placement.resources(placement.gpus_per_trial).get("GPU", 0.0) == fraction
    assert placement.device == ("cuda" if fraction else "cpu")


@given(
    gpus=st.integers(0, 8),
    cpus=st.integers(1, 64),
    trials=st.integers(1, 100),
    fraction=st.sampled_from([1.0, 0.5, 0.34, 0.33, 0.25, 0.2, 0.1]),
    each=st.integers(1, 4),
)
def test_the_slots_fit_the_machine(gpus: int, cpus: int, trials: int, fraction: float, each: int) -> None:
    resources = ResourcesSpec(gpus_per_trial=fraction, cpus_per_trial=each)
    machine = Machine(gpus, cpus)
    if each > cpus:
        with pytest.raises(RequestError):
            place(resources, machine, trials=trials)
        return
    placement = place(resources, machine, trials=trials)
    assert 1 <= placement.slots <= trials
    assert placement.slots * each <= cpus
    if gpus:
        assert placement.gpus_per_trial >= fraction
        per_gpu = int(1 / placement.gpus_per_trial + 1e-9)
        assert placement.slots <= per_gpu * gpus
        # packed one GPU after the other, the slots reach as many GPUs as they can
        assert -(-placement.slots // per_gpu) == min(gpus, placement.slots)


@pytest.mark.parametrize(
    ("machine", "asked", "resources", "message"),
    [
        (
            Machine(0, 2),
            {"gpus": 4},
            quarter(),
            r"--gpus 4: this machine has none .* --gpus 0 to run on the CPU",
        ),
        (Machine(2, 8), {"gpus": 4}, quarter(), r"--gpus 4: this machine has 2 .* Use --gpus 2"),
        (Machine(0, 2), {"gpus": -1}, quarter(), r"--gpus -1: expected at least 0"),
        (Machine(0, 2), {"cpus": 0}, quarter(), r"--cpus 0: expected at least 1"),
        (Machine(0, 2), {"cpus": 3}, quarter(), r"--cpus 3: this machine has 2"),
        (Machine(0, 2), {}, quarter(3), r"cpus_per_trial: one trial asks for 3 cores, but only 2"),
        (Machine(0, 8, "the cluster at x"), {"gpus": 1}, quarter(), r"the cluster at x has none"),
    ],
)
def test_what_does_not_fit_is_refused(
    machine: Machine, asked: dict[str, int], resources: ResourcesSpec, message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        place(resources, machine, trials=10, **asked)  # type: ignore[arg-type]


def cluster(*sizes: tuple[int, int]) -> Machine:
    nodes = tuple(Node(f"n{i}", gpus, cpus) for i, (gpus, cpus) in enumerate(sizes))
    return Machine.of_nodes(nodes, "the cluster")


@pytest.mark.parametrize(
    ("machine", "resources", "slots"),
    [
        (cluster((0, 3), (0, 3)), quarter(2), 2),  # six cores, but no third trial fits on one computer
        (cluster((0, 4), (0, 1)), quarter(2), 2),
        (cluster((1, 8), (1, 8)), quarter(1), 8),
        (cluster((1, 2), (1, 8)), quarter(1), 5),  # thirds, so that the second GPU is full
        (cluster((2, 8), (0, 8)), quarter(1), 8),  # on the second computer there is no GPU
    ],
)
def test_a_trial_runs_on_one_computer(machine: Machine, resources: ResourcesSpec, slots: int) -> None:
    assert place(resources, machine, trials=48).slots == slots


def test_no_computer_of_the_cluster_is_large_enough() -> None:
    with pytest.raises(RequestError, match=r"asks for 3 cores, which none of the 2 computers of the cluster"):
        place(quarter(3), cluster((0, 2), (0, 2)), trials=10)


def test_description() -> None:
    assert describe(place(quarter(2), FOUR, trials=48)) == (
        "4 GPUs, 64 CPU cores: 16 trials at once, 0.25 GPU and 2 cores each"
    )
    assert describe(place(quarter(), Machine(0, 1), trials=48)) == "1 CPU core: 1 trial at once, 1 core each"
