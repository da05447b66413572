"""What the product finds on machines that are not at hand: old drivers, slices, cards of different kinds."""

from __future__ import annotations

from collections.abc import Callable

import made_up_gpus  # type: ignore[import-not-found]
import pytest
import torch
from made_up_gpus import Card, MadeUpGpus

from tune_swa.config import TrainSpec
from tune_swa.errors import RequestError
from tune_swa.execution.slots import Machine
from tune_swa.hardware.gpu_survey import survey_gpus
from tune_swa.training.numerics import decide_numerics

MakeUpGpus = Callable[..., MadeUpGpus]


@pytest.fixture
def machine(make_up_gpus: MakeUpGpus, monkeypatch: pytest.MonkeyPatch) -> MakeUpGpus:
    """Call it with cards: they are those of this process and of all that it starts."""

    def set_up_machine(*cards: Card, **options: object) -> MadeUpGpus:
        gpus = make_up_gpus(*cards, **options)
        for name, value in gpus.environment().items():
            monkeypatch.setenv(name, value)
        return gpus

    return set_up_machine


def test_the_machine_has_the_gpus_that_initialise(machine: MakeUpGpus) -> None:
    machine(*(made_up_gpus.a100_80gb() for _ in range(4)))
    assert Machine.local().gpus == 4


@pytest.mark.skipif(torch.version.cuda is None, reason="this torch is built for no GPU")
def test_a_driver_that_is_too_old_leaves_no_gpu(machine: MakeUpGpus) -> None:
    machine(*(made_up_gpus.a100_80gb() for _ in range(4)), driver=11040)
    assert Machine.local().gpus == 0


@pytest.mark.parametrize(
    ("cards", "wanted", "expected"),
    [
        ([made_up_gpus.h100_80gb, made_up_gpus.a100_80gb], "auto", "bf16"),
        ([made_up_gpus.t4_16gb], "auto", "fp16"),
        ([made_up_gpus.a100_80gb, made_up_gpus.t4_16gb], "auto", "fp16"),  # what all of them can
        ([made_up_gpus.a100_80gb, made_up_gpus.t4_16gb], "fp32", "fp32"),
    ],
)
def test_the_precision_is_one_that_every_gpu_runs(
    cards: list[Callable[[], Card]], wanted: str, expected: str, make_up_gpus: MakeUpGpus
) -> None:
    make_up_gpus(*(card() for card in cards))
    train = TrainSpec.model_validate({"precision": wanted})
    assert decide_numerics(train, 32, device="cuda", threads=1).precision == expected


def test_bf16_is_refused_if_one_gpu_has_none(make_up_gpus: MakeUpGpus) -> None:
    make_up_gpus(made_up_gpus.a100_80gb(), made_up_gpus.t4_16gb())
    with pytest.raises(RequestError, match="Tesla T4"):
        decide_numerics(TrainSpec(precision="bf16"), 32, device="cuda", threads=1)


def test_the_doctor_finds_the_cards(machine: MakeUpGpus) -> None:
    machine(made_up_gpus.a100_80gb(taken=60 * made_up_gpus.GIB))
    survey = survey_gpus()
    assert survey.driver_cuda == "13.0"
    (gpu,) = survey.gpus
    assert (gpu.name, gpu.capability, gpu.bf16) == ("NVIDIA A100-SXM4-80GB", "8.0", True)
    assert 19 * made_up_gpus.GIB < gpu.free < 20 * made_up_gpus.GIB
