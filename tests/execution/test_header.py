"""What a resumed search is told when its surroundings have changed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tune_swa.config import Experiment
from tune_swa.data.dataset import Dataset
from tune_swa.errors import RequestError
from tune_swa.execution import header as headers
from tune_swa.execution.header import (
    PACKAGES,
    build_header,
    check_unchanged,
    describe_gpus,
    describe_sampler_changes,
    package_versions,
)
from tune_swa.experiment.events import ExperimentCreated
from tune_swa.hardware.torch_probe import Gpu, GpuSurvey
from tune_swa.training.numerics import Numerics

NUMERICS = Numerics("cpu", "fp32", threads=1, channels_last=True, fused=True, compile=False)


def test_versions_of_what_the_numbers_depend_on() -> None:
    assert {"python", "tune_swa", *PACKAGES} == set(package_versions())


@pytest.fixture
def begun(tiny_data: Dataset) -> ExperimentCreated:
    space = {"lr": 1e-3, "swa_start": 3, "swa_lr": 1e-3}
    experiment = Experiment.model_validate({"name": "x", "space": space})
    return build_header(experiment, tiny_data, None, NUMERICS)


def test_samplers_of_another_version_are_told(begun: ExperimentCreated) -> None:
    assert describe_sampler_changes(begun) is None
    now = package_versions()["optuna"]
    begun.versions["optuna"] = "0.1"
    assert describe_sampler_changes(begun) == (
        f"optuna was 0.1, is {now}: what is suggested from here on may differ from what would have been"
    )


def test_the_gpus_of_the_search_are_recorded() -> None:
    assert describe_gpus([]) == {"gpus": []}
    cards = (Gpu("Card", 80, 79, "9.0", bf16=True), Gpu("Other", 24, 23, "8.9", bf16=True))
    survey = GpuSurvey(cards, "13.0", "13.1", "580.65.06", 92400)
    assert describe_gpus([survey]) == {
        "gpus": ["Card", "Other"],
        "gpu_memory": [80, 24],
        "driver": "580.65.06",
        "driver_cuda": "13.1",
        "cuda": "13.0",
        "cudnn": 92400,
    }
    nodes = [replace(survey, gpus=cards[:1]), replace(survey, gpus=cards[1:], driver="575.1")]
    assert describe_gpus(nodes)["gpus"] == ["Card", "Other"]
    assert describe_gpus(nodes)["driver"] == ["580.65.06", "575.1"]


def test_the_same_surroundings_are_the_same(begun: ExperimentCreated, tiny_data: Dataset) -> None:
    check_unchanged(begun, tiny_data, None, NUMERICS)
    begun.loop = None  # as older journals are
    check_unchanged(begun, tiny_data, None, NUMERICS)


def test_other_images_weights_numerics_and_torch_are_refused(
    begun: ExperimentCreated, tiny_data: Dataset
) -> None:
    with pytest.raises(RequestError, match=r"the images are not those .* another --name"):
        check_unchanged(begun, replace(tiny_data, fingerprint="others"), None, NUMERICS)
    with pytest.raises(RequestError, match=r"model\.weights: the starting weights are not those"):
        check_unchanged(begun, tiny_data, {"conv1.weight": torch.ones(1)}, NUMERICS)
    with pytest.raises(RequestError, match=r"other numerics .*\(threads was 1, is 2\).*cpus_per_trial"):
        check_unchanged(begun, tiny_data, None, replace(NUMERICS, threads=2))
    begun.versions["torch"] = "0.1"
    with pytest.raises(RequestError, match=r"other numerics .*\(torch was 0\.1, is "):
        check_unchanged(begun, tiny_data, None, NUMERICS)


def test_another_loop_is_refused(
    begun: ExperimentCreated, tiny_data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(headers, "LOOP_VERSION", headers.LOOP_VERSION + 1)
    with pytest.raises(RequestError, match=r"trains in another way .* Use tune_swa \d.*, or start a new"):
        check_unchanged(begun, tiny_data, None, NUMERICS)


def test_the_library_of_schedule_free_optimizers_has_to_be_the_same(
    begun: ExperimentCreated, tiny_data: Dataset
) -> None:
    assert "schedulefree" not in begun.versions
    space = {"lr": 1e-3, "swa_start": 3, "swa_lr": 1e-3}
    experiment = Experiment.model_validate(
        {"name": "x", "space": space, "train": {"optimizer": "schedulefree_sgd"}}
    )
    free = build_header(experiment, tiny_data, None, NUMERICS)
    check_unchanged(free, tiny_data, None, NUMERICS)
    free.versions["schedulefree"] = "0.1"
    with pytest.raises(RequestError, match=r"other numerics .*\(schedulefree was 0\.1, is .*versions"):
        check_unchanged(free, tiny_data, None, NUMERICS)
