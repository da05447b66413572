"""Models of a GPU, exported on a machine with another one, with a broken one, or with none."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_up_gpus import Card, a100_80gb, t4_16gb  # type: ignore[import-not-found]

from helpers.trained_model import Handed, train_model
from tune_swa.errors import SearchFailed
from tune_swa.training import model_export
from tune_swa.training.export_numerics import choose_numerics
from tune_swa.training.numerics import Numerics

A100 = a100_80gb()


@pytest.fixture(scope="module")
def handed() -> Handed:
    return train_model()


def of_a_gpu(handed: Handed, precision: str) -> dict[str, Any]:
    """What `best_model.json` says of a model that an A100 has trained."""
    about = copy.deepcopy(handed.about)
    about["numerics"] |= {"device": "cuda", "precision": precision}
    about["hardware"]["gpus"] = [A100.name]
    return about


@pytest.mark.parametrize(
    ("card", "driver", "precision", "why"),
    [
        (t4_16gb(), 13000, "bf16", "Tesla T4 has no bf16"),
        (t4_16gb(), 13000, "tf32", "Tesla T4 has no TF32"),
        (A100, 12080, "bf16", "The NVIDIA driver on your system is too old (found version 12080)"),
        (A100, 12080, "fp16", "The NVIDIA driver on your system is too old (found version 12080)"),
        (None, 13000, "fp16", "No CUDA GPUs are available"),
        (None, None, "bf16", "Found no NVIDIA driver on your system"),
        (None, None, "fp16", "Found no NVIDIA driver on your system"),
        (None, None, "tf32", "Found no NVIDIA driver on your system"),
    ],
)
@pytest.mark.filterwarnings("ignore:CUDA initialization")
def test_where_no_gpu_can_the_cpu_exports_it(
    card: Card | None,
    driver: int | None,
    precision: str,
    why: str,
    handed: Handed,
    tmp_path: Path,
    make_up_gpus: Callable[..., Any],
) -> None:
    make_up_gpus(*([card] if card else []), driver=driver)
    report = handed.export(tmp_path, ("state_dict",), about=of_a_gpu(handed, precision))
    assert report.differences[:2] == (
        f"device was cuda, is cpu ({why})",
        f"precision was {precision}, is fp32",
    )
    assert (tmp_path / "model.pt").is_file()
    assert report.outcomes[0].accuracy["test"] == handed.about["test"]["accuracy"]


@pytest.mark.parametrize(
    ("card", "precision"),
    [(A100, "bf16"), (A100, "tf32"), (A100, "fp16"), (t4_16gb(), "fp16"), (t4_16gb(), "fp32")],
)
def test_a_gpu_that_can_is_used(
    card: Card, precision: str, handed: Handed, make_up_gpus: Callable[..., Any]
) -> None:
    make_up_gpus(card)
    numerics, why_not = choose_numerics(of_a_gpu(handed, precision)["numerics"], handed.train, 16)
    assert (numerics.device, numerics.precision, why_not) == ("cuda", precision, None)


def test_a_model_of_a_cpu_needs_no_gpu_to_work(
    handed: Handed, tmp_path: Path, make_up_gpus: Callable[..., Any]
) -> None:
    gpus = make_up_gpus(A100, driver=12080)
    report = handed.export(tmp_path, ("state_dict",))
    assert report.differences == ()
    assert not any(use.has_context for use in gpus.uses)


def test_a_gpu_that_fails_at_it_is_no_obstacle(
    handed: Handed, tmp_path: Path, make_up_gpus: Callable[..., Any]
) -> None:
    """A made-up card runs no kernel: the first tensor that goes there is an error of torch's, a real one."""
    make_up_gpus(A100)
    report = handed.export(tmp_path, ("state_dict",), about=of_a_gpu(handed, "bf16"))
    first = report.differences[0]
    assert first.startswith("device was cuda, is cpu (")
    assert "has no bf16" not in first
    assert report.outcomes[0].accuracy["test"] == handed.about["test"]["accuracy"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["classify.py", "model.json", "model.pt"]


@pytest.mark.parametrize(
    ("device", "images", "refused"), [("cuda", 1, False), ("cuda", 2, True), ("cpu", 1, True)]
)
def test_on_a_gpu_an_image_on_the_border_may_change_sides(
    device: str, images: int, refused: bool, handed: Handed, make_up_gpus: Callable[..., Any]
) -> None:
    make_up_gpus(A100)
    numerics = Numerics(**{**handed.about["numerics"], "device": device})
    judge = model_export._Evaluator(handed.data, 16, numerics, 256)
    recorded = {part: handed.about[part]["accuracy"] for part in ("validation", "test")}
    found = {**recorded, "test": recorded["test"] - images / len(handed.data.test)}
    if refused:
        with pytest.raises(SearchFailed, match="on the test images, recorded were"):
            judge.check_recorded(found, recorded, "best_model.pt")
    else:
        judge.check_recorded(found, recorded, "best_model.pt")
