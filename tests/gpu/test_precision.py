"""Which precision a search gets on cards of different kinds."""

from __future__ import annotations

from collections.abc import Callable

import made_up_gpus  # type: ignore[import-not-found]
import pytest
from made_up_gpus import Card, MadeUpGpus

from tune_swa.errors import RequestError
from tune_swa.spec import TrainSpec
from tune_swa.training.numerics import resolve

MakeUpGpus = Callable[..., MadeUpGpus]


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
    assert resolve(train, 32, device="cuda", threads=1).precision == expected


def test_bf16_is_refused_if_one_gpu_has_none(make_up_gpus: MakeUpGpus) -> None:
    make_up_gpus(made_up_gpus.a100_80gb(), made_up_gpus.t4_16gb())
    with pytest.raises(RequestError, match="Tesla T4"):
        resolve(TrainSpec(precision="bf16"), 32, device="cuda", threads=1)
