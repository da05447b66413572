"""GPUs are counted as CUDA counts them, whatever NVML says, by processes other than the search's."""

from __future__ import annotations

import os
from collections.abc import Callable

import made_up_gpus  # type: ignore[import-not-found]
import pytest
import torch
from made_up_gpus import Card, MadeUpGpus

from tune_swa.config import ResourcesSpec
from tune_swa.execution import ray_runtime
from tune_swa.execution.slots import Machine, plan_placement
from tune_swa.hardware.gpu_survey import Surveyor, explain_missing_gpus, select_gpu, survey_gpus

MakeUpGpus = Callable[..., MadeUpGpus]


@pytest.fixture
def machine_of(make_up_gpus: MakeUpGpus, monkeypatch: pytest.MonkeyPatch) -> MakeUpGpus:
    """Made-up GPUs that child processes see, too."""

    def install(*cards: Card, visible: str | None = None, **options: object) -> MadeUpGpus:
        gpus = make_up_gpus(*cards, **options)
        for name, value in gpus.environment().items():
            monkeypatch.setenv(name, value)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        return gpus

    return install


def test_four_gpus_are_found_without_a_context_in_this_process(machine_of: MakeUpGpus) -> None:
    gpus = machine_of(
        made_up_gpus.a100_80gb(), made_up_gpus.rtx_24gb(), made_up_gpus.t4_16gb(), made_up_gpus.a100_80gb()
    )
    survey = survey_gpus()
    assert [gpu.name for gpu in survey.gpus] == [card.name for card in gpus.cards]
    assert [gpu.memory for gpu in survey.gpus] == [card.memory for card in gpus.cards]
    assert [gpu.capability for gpu in survey.gpus] == ["8.0", "8.9", "7.5", "8.0"]
    assert [gpu.bf16 for gpu in survey.gpus] == [True, True, False, True]
    assert all(gpu.free == gpu.memory - 500_000_000 for gpu in survey.gpus)  # less the looking process's own
    assert len({gpu.uuid for gpu in survey.gpus}) == 4
    assert survey.cuda == (torch.version.cuda or torch.version.hip)
    assert not torch.cuda.is_initialized()
    assert not any(use.has_context for use in gpus.uses)


@pytest.mark.parametrize(
    ("visible", "names"), [("1", ["two"]), ("2,0", ["three", "one"]), ("0,7,1", ["one"])]
)
def test_the_list_of_visible_gpus_is_followed(visible: str, names: list[str], machine_of: MakeUpGpus) -> None:
    machine_of(Card("one"), Card("two"), Card("three"), visible=visible)
    assert [gpu.name for gpu in survey_gpus().gpus] == names
    assert [select_gpu(i)["CUDA_VISIBLE_DEVICES"] for i in range(len(names))] == visible.split(",")[
        : len(names)
    ]


@pytest.mark.parametrize("visible", ["", "-1", "NoDevFiles"])
def test_where_all_gpus_are_hidden_nobody_is_asked(visible: str, machine_of: MakeUpGpus) -> None:
    machine_of(Card(), visible=visible)
    surveyor = Surveyor()
    assert not surveyor._children
    survey = surveyor.result()
    assert (survey.gpus, survey.hidden) == ((), True)
    assert explain_missing_gpus(survey) is None


def test_without_a_driver_nobody_is_asked(machine_of: MakeUpGpus) -> None:
    machine_of(driver=None)
    surveyor = Surveyor()
    assert not surveyor._children
    assert surveyor.result().driver_cuda is None


def test_every_slice_of_a_gpu_counts(machine_of: MakeUpGpus) -> None:
    """A process sees the first of them alone, and NVML counts the GPU: asked once, torch says 1."""
    slices = [Card(f"A100 MIG {i}", 10**10, (8, 0), uuid=f"MIG-{i}") for i in range(3)]
    machine_of(*slices, visible="MIG-2,MIG-0")
    survey = survey_gpus()
    assert [gpu.name for gpu in survey.gpus] == ["A100 MIG 2", "A100 MIG 0"]
    assert select_gpu(1) == {"CUDA_VISIBLE_DEVICES": "MIG-0"}


def test_a_slice_that_is_not_there_or_listed_twice_is_named(machine_of: MakeUpGpus) -> None:
    machine_of(Card("slice", uuid="MIG-0"), visible="MIG-0,MIG-9,MIG-0")
    first, missing, again = survey_gpus().gpus
    assert first.name == again.name == "slice"
    assert (missing.name, missing.error) == ("MIG-9", "No CUDA GPUs are available")
    assert again.error == "CUDA_VISIBLE_DEVICES lists it twice"


@pytest.mark.skipif(
    (torch.backends.cudnn.version() or 0) < 91100,  # type: ignore[no-untyped-call]
    reason="this cuDNN works on every GPU",
)
def test_a_gpu_that_is_too_old_for_cudnn_does_not_hide_the_others(machine_of: MakeUpGpus) -> None:
    """torch refuses to name cuDNN's version there; whether a GPU can train is asked of each."""
    machine_of(made_up_gpus.a100_80gb(), made_up_gpus.v100_16gb())
    survey = survey_gpus()
    assert survey.error is None
    assert [gpu.capability for gpu in survey.gpus] == ["8.0", "7.0"]
    assert survey.cudnn == torch._C._cudnn.getVersionInt()  # type: ignore[attr-defined]


def test_a_driver_that_is_too_old_is_told_before_anything_else(machine_of: MakeUpGpus) -> None:
    """NVML counts four GPUs there."""
    if torch.version.cuda is None:
        pytest.skip("this torch is built for the CPU")
    machine_of(*(Card() for _ in range(4)), driver=11040)
    assert torch.cuda.device_count() == 4
    survey = survey_gpus()
    assert survey.gpus == ()
    assert survey.driver_too_old
    why, remedy = explain_missing_gpus(survey) or ("", "")
    assert f"up to CUDA 11.4, and torch is built with CUDA {torch.version.cuda}" in why
    assert remedy == "Update the driver, or install a build of torch for CUDA 11.4"


def test_a_request_without_gpus_never_touches_cuda(
    machine_of: MakeUpGpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine_of(*(Card() for _ in range(4)), driver=11040)

    def fail() -> None:
        raise AssertionError("GPUs were asked for")

    monkeypatch.setattr(torch._C, "_cuda_init", fail)
    monkeypatch.setattr(torch._C, "_cuda_getDeviceCount", fail)
    monkeypatch.setattr("tune_swa.execution.slots.survey_gpus", fail)
    machine = ray_runtime.inspect_machine(0)
    assert plan_placement(ResourcesSpec(), machine, trials=3, gpus=0).device == "cpu"


def test_a_list_of_slices_has_as_many_as_ray_counts(machine_of: MakeUpGpus) -> None:
    from ray._private.accelerators import NvidiaGPUAcceleratorManager

    machine_of(*(Card(uuid=f"MIG-{i}") for i in range(3)), visible="MIG-2,MIG-0,MIG-1")
    listed = NvidiaGPUAcceleratorManager.get_current_process_visible_accelerator_ids()
    assert listed == os.environ["CUDA_VISIBLE_DEVICES"].split(",")
    assert Machine.local().gpus == len(listed)
