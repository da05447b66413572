"""How a machine is divided, and what a request that does not fit is answered with."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tune_swa.config import ResourcesSpec
from tune_swa.errors import RequestError
from tune_swa.execution.slots import Machine, Measured, Node, check_gpus, describe_placement, plan_placement
from tune_swa.hardware.gpu_memory import CONTEXT_BYTES
from tune_swa.hardware.torch_probe import Gpu, GpuSurvey
from tune_swa.training.step_probe import TrialCost

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
    placement = plan_placement(quarter(), machine, trials=trials, **asked)  # type: ignore[arg-type]
    assert (placement.slots, placement.gpus_per_trial) == (slots, fraction)
    assert placement.ray_resources(placement.gpus_per_trial).get("GPU", 0.0) == fraction
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
            plan_placement(resources, machine, trials=trials)
        return
    placement = plan_placement(resources, machine, trials=trials)
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
            r"--gpus 4: this machine has none .*--gpus 0 to run on the CPU",
        ),
        (Machine(2, 8), {"gpus": 4}, quarter(), r"--gpus 4: this machine has 2 .*Use --gpus 2"),
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
        plan_placement(resources, machine, trials=10, **asked)  # type: ignore[arg-type]


# ------------------------------------------------------------------------- GPUs that were looked at

GB = 1_000_000_000
CARD = Gpu("Card", 80 * GB, 79 * GB, "9.0", bf16=True)
SMALL_CARD = Gpu("Small card", 16 * GB, 15_500_000_000, "7.5", bf16=False)
BROKEN = replace(CARD, name="Old card", error="no kernel image is available")


def machine_with(*gpus: Gpu, cpus: int = 64) -> Machine:
    return Machine(len(gpus), cpus, survey=GpuSurvey(gpus=gpus), facts=gpus)


LAUNCH_BOUND = TrialCost("Card", 80 * GB, 2_900_000_000, 500_000_000, host_seconds=0.01, device_seconds=0.003)
AUTO = ResourcesSpec()


@pytest.mark.parametrize(
    ("machine", "gpus", "trials", "slots", "fraction"),
    [
        (machine_with(CARD), None, 48, 4, 0.25),
        (machine_with(CARD, CARD), None, 48, 8, 0.25),
        (machine_with(CARD, CARD), None, 2, 2, 1.0),
        (machine_with(CARD, cpus=2), None, 48, 2, 0.5),
        (machine_with(SMALL_CARD), None, 48, 4, 0.25),
        (machine_with(replace(SMALL_CARD, memory=8 * GB, free=8 * GB)), None, 48, 2, 0.5),
        (machine_with(CARD, replace(SMALL_CARD, memory=8 * GB, free=8 * GB)), None, 48, 4, 0.5),
        (machine_with(CARD, replace(SMALL_CARD, memory=8 * GB, free=8 * GB)), 1, 48, 4, 0.25),
        (machine_with(replace(CARD, free=8 * GB)), None, 48, 2, 0.5),  # others have the rest
    ],
)
def test_auto_divides_the_smallest_gpu_by_what_was_measured(
    machine: Machine, gpus: int | None, trials: int, slots: int, fraction: float
) -> None:
    measured = Measured(LAUNCH_BOUND, image_bytes=100_000_000)
    placement = plan_placement(AUTO, machine, trials=trials, gpus=gpus, measured=measured)
    assert (placement.slots, placement.gpus_per_trial) == (slots, fraction)
    assert (placement.context_bytes, placement.trial_bytes) == (500_000_000, 2_900_000_000)
    assert placement.memory_line is not None
    assert f"{round(1 / fraction)} trial" in placement.memory_line


def test_auto_is_a_whole_gpu_before_anything_is_measured() -> None:
    placement = plan_placement(AUTO, machine_with(CARD, CARD), trials=48)
    assert (placement.slots, placement.gpus_per_trial) == (2, 1.0)
    assert (placement.context_bytes, placement.trial_bytes) == (CONTEXT_BYTES, None)
    assert placement.memory_line is None


def test_a_given_fraction_is_kept_where_it_holds_a_trial_and_refused_elsewhere() -> None:
    measured = Measured(LAUNCH_BOUND, image_bytes=0)
    assert plan_placement(quarter(), machine_with(CARD), trials=48, measured=measured).gpus_per_trial == 0.25
    with pytest.raises(RequestError, match=r"0\.25 of Card \(12 GB\) leaves 2\.5 GB .* needs 2\.9 GB"):
        plan_placement(
            quarter(), machine_with(CARD, replace(CARD, memory=12 * GB)), trials=48, measured=measured
        )


def test_what_was_measured_is_for_the_journal() -> None:
    found = plan_placement(AUTO, machine_with(CARD), trials=48, measured=Measured(LAUNCH_BOUND, 0)).as_dict()
    assert found["gpus_per_trial"] == 0.25
    assert found["measured"]["trial_bytes"] == 2_900_000_000
    assert found["reason"] == "one trial keeps the GPU busy 30 % of the time"


def test_the_smallest_gpu_of_those_that_are_used() -> None:
    machine = machine_with(CARD, SMALL_CARD, replace(CARD, free=5 * GB))
    assert [machine.smallest_gpu(gpus) for gpus in (1, 2, 3)] == [0, 1, 2]
    assert Machine(gpus=2, cpus=1).smallest_gpu(2) == 0


TOO_OLD = GpuSurvey(cuda="13.0", driver_cuda="12.4", error="The NVIDIA driver on your system is too old")


@pytest.mark.parametrize(
    ("machine", "gpus", "message"),
    [
        (
            Machine(0, 2, survey=TOO_OLD),
            4,
            r"^--gpus 4: the driver .* up to CUDA 12\.4, and torch is built with CUDA 13\.0\. Update the "
            r"driver, or install a build of torch for CUDA 12\.4, or use --gpus 0 to run on the CPU$",
        ),
        (Machine(0, 2, survey=TOO_OLD), None, r"^the driver of the GPUs is too old"),
        (
            Machine(0, 2, survey=GpuSurvey(error="no answer within 120 seconds")),
            None,
            r"CUDA cannot be used \(no answer within 120 seconds\)",
        ),
        (
            machine_with(CARD, BROKEN),
            2,
            r"^--gpus 2: torch cannot train on GPU 1, Old card \(no kernel",
        ),
        (machine_with(CARD, BROKEN), None, r"^torch cannot train on GPU 1.*CUDA_VISIBLE_DEVICES.*--gpus 0"),
    ],
)
def test_gpus_that_cannot_be_used_are_refused(machine: Machine, gpus: int | None, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        plan_placement(AUTO, machine, trials=10, gpus=gpus)
    assert plan_placement(AUTO, machine, trials=10, gpus=0).device == "cpu"


def test_a_gpu_that_is_not_used_may_be_broken() -> None:
    check_gpus(machine_with(CARD, BROKEN), 1)


def test_a_list_of_gpus_that_are_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    none = Machine(
        0, 2, survey=GpuSurvey(cuda="13.0", driver_cuda="13.0", error="No CUDA GPUs are available")
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    with pytest.raises(RequestError, match=r"CUDA_VISIBLE_DEVICES=7 names no GPU .* Unset"):
        check_gpus(none, None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    check_gpus(none, None)  # a driver, and no card: the search runs on the CPU


def test_gpus_that_are_hidden_are_not_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = Machine(0, 2, survey=GpuSurvey(driver_cuda="13.0", hidden=True))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    with pytest.raises(RequestError, match=r"^--gpus 1: CUDA_VISIBLE_DEVICES=-1 hides all GPUs\. Unset"):
        check_gpus(hidden, 1)
    check_gpus(hidden, None)


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
    assert plan_placement(resources, machine, trials=48).slots == slots


def test_no_computer_of_the_cluster_is_large_enough() -> None:
    with pytest.raises(RequestError, match=r"asks for 3 cores, which none of the 2 nodes of the cluster"):
        plan_placement(quarter(3), cluster((0, 2), (0, 2)), trials=10)


def test_description() -> None:
    assert describe_placement(plan_placement(quarter(2), FOUR, trials=48)) == (
        "4 GPUs, 64 CPU cores: 16 trials at once, 0.25 GPU and 2 cores each"
    )
    assert (
        describe_placement(plan_placement(quarter(), Machine(0, 1), trials=48))
        == "1 CPU core: 1 trial at once, 1 core each"
    )
