"""Networks of several kinds through what a search does with one: resume, a shared trunk, export."""

from __future__ import annotations

import copy
import io
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.drawn_arrays import draw_dataset
from helpers.resumed_runs import NUMERICS, assert_same_weights, facts
from tune_swa.averaging.frozen_statistics import list_refreshed
from tune_swa.config import ModelSpec, RunSettings, TrainSpec
from tune_swa.data.dataset import Dataset
from tune_swa.training.model_export import export_model
from tune_swa.training.networks import list_arguments
from tune_swa.training.numerics import describe_hardware
from tune_swa.training.run import Run

# the smallest images that each takes
SIZES = {
    "mobilenet_v3_small": 32,
    "convnext_tiny": 32,
    "efficientnet_b0": 16,
    "vit_b_16": 16,
    "regnet_y_400mf": 16,
    "timm/resnet18": 16,
}
DRAWING = ("mobilenet_v3_small", "convnext_tiny", "efficientnet_b0")


def copy_state(state: dict[str, Any]) -> dict[str, Any]:
    """As it comes back from a file."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def describe_run(run: Run, data: Dataset, arch: str, size: int) -> dict[str, Any]:
    assert run.record is not None
    arguments = list_arguments(arch, size)
    return {
        "arch": arch, **({"arch_arguments": arguments} if arguments else {}), "num_classes": data.num_classes,
        "class_names": list(data.class_names),
        "preprocessing": {
            "image_size": size, "resize": "squash", "exif_rotation": False,
            "mean": list(data.mean), "std": list(data.std),
        },
        "trial": "swa-0000", "kind": "swa", "configuration": "SWA", "params": {},
        "validation": {"accuracy": run.record.accuracy}, "test": None,
        "numerics": NUMERICS.as_dict(), "hardware": describe_hardware(),
        "versions": {"torch": str(torch.__version__).partition("+")[0]},
    }  # fmt: skip


@pytest.mark.parametrize("arch", SIZES)
def test_a_network_is_trained_resumed_branched_and_exported(
    arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    size = SIZES[arch]
    data = draw_dataset(train=8, val=6, test=4, size=size)
    train = TrainSpec(epochs=3, batch_size=4, optimizer="sgd", momentum=0)
    settings = RunSettings(
        model=ModelSpec(arch=arch), lr=1e-2, swa_start=0, swa_lr=5e-3, seed=3, train=train
    )  # after epochs 1 and 2 there is an average
    straight = Run(settings, data, NUMERICS)
    records = [facts(straight.run_epoch())]
    trunk = Run(settings.model_copy(update={"swa_start": None, "swa_lr": None}), data, NUMERICS)
    trunk.load_state_dict(copy_state(straight.state_dict()))  # a baseline that resumes
    records.append(facts(straight.run_epoch()))
    resumed = Run(settings, data, NUMERICS)
    resumed.load_state_dict(copy_state(straight.state_dict()))
    records.append(facts(straight.run_epoch()))
    assert facts(resumed.run_epoch()) == records[2]
    assert_same_weights(resumed.model, straight.model)
    assert_same_weights(resumed.shipped_model, straight.shipped_model)
    del resumed

    trunk.begin_epoch()  # the last one before the fork
    branch = Run(settings, data, NUMERICS)
    branch.load_state_dict(copy_state(trunk.trunk_state()))
    del trunk
    assert [facts(record) for record in branch] == records[1:]
    assert_same_weights(branch.shipped_model, straight.shipped_model)
    assert (straight.record is not None and straight.record.bn_seconds > 0) == bool(
        list_refreshed(straight.model)
    )
    del branch

    about = describe_run(straight, data, arch, size)
    formats = ("state_dict", "torch.export")
    report = export_model(copy.deepcopy(straight.shipped_model).eval(), about, train, formats, tmp_path, data)
    assert report.differences == ()
    drawn = np.random.default_rng(0).integers(0, 255, (size, size, 3), dtype=np.uint8)
    Image.fromarray(drawn).save(tmp_path / "new.png")
    monkeypatch.setattr(sys, "argv", ["classify.py", str(tmp_path / "new.png")])
    with torch.random.fork_rng():
        runpy.run_path(str(tmp_path / "classify.py"))
    with torch.no_grad():
        pixels = torch.from_numpy(drawn).permute(2, 0, 1)[None] / 255
        probability, index = straight.shipped_model.eval()(pixels).softmax(dim=1)[0].max(dim=0)
    assert capsys.readouterr().out == (
        f"{tmp_path / 'new.png'}: {data.class_names[int(index)]} ({100 * probability:.1f} %)\n"
    )
    assert json.loads((tmp_path / "model.json").read_text())["arch"] == arch


@pytest.mark.parametrize("arch", DRAWING)
def test_the_refresh_and_the_training_draw_by_the_seed_alone(arch: str) -> None:
    data = draw_dataset(train=8, val=6, test=4, size=32)
    train = TrainSpec(epochs=2, batch_size=4)
    settings = RunSettings(model=ModelSpec(arch=arch), lr=1e-3, swa_start=0, swa_lr=1e-3, train=train)
    runs = []
    for number in (1, 2):
        torch.manual_seed(number)
        runs.append(Run(settings, data, NUMERICS))
        before = torch.random.get_rng_state()
        assert len(list(runs[-1])) == 2
        assert torch.equal(before, torch.random.get_rng_state())
    assert_same_weights(runs[0].shipped_model, runs[1].shipped_model)


@pytest.mark.parametrize(("arch", "refreshed"), [("resnet18", True), ("convnext_tiny", False)])
@pytest.mark.usefixtures("narrow_network")
def test_a_baseline_without_batch_norm_is_not_tested_twice(
    arch: str, refreshed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tune_swa.execution import trial_reports

    data = draw_dataset(train=8, val=6, test=4, size=32)
    settings = RunSettings(model=ModelSpec(arch=arch), lr=1e-3, train=TrainSpec(epochs=2, batch_size=4))
    run = Run(settings, data, NUMERICS)
    assert len(list(run)) == 2
    reported: dict[str, Any] = {}
    monkeypatch.setattr(trial_reports, "report_message", lambda **message: reported.update(message))
    trial_reports.report_test(run)
    assert (reported["refreshed"] is not None) is refreshed


@pytest.mark.parametrize("arch", ["mobilenet_v3_small", "timm/convnext_atto"])
def test_every_average_and_optimizer_works_on_it(arch: str) -> None:
    data = draw_dataset(train=12, val=6, test=6, size=32)
    listed = [{"method": "swa"}, {"method": "ema", "horizon": 1}, {"method": "lawa", "last": 2}]
    drawing = [{"method": "swag", "rank": 2, "samples": 2}, {"method": "subspace", "rank": 1}]
    given: dict[str, Any] = {
        "model": {"arch": arch}, "lr": 1e-3, "swa_start": 0, "swa_lr": 1e-3,
    }  # fmt: skip
    train = {"epochs": 4, "batch_size": 6}
    run = Run(
        RunSettings.model_validate({**given, "train": train, "averages": listed + drawing}), data, NUMERICS
    )
    assert len(list(run)) == 4
    assert len(run.scores) == len(run.predict_with_averages()) == 5
    for changes in (
        {"optimizer": "sgd", "arithmetic": {"bits": 8, "rounding": "stochastic"}},
        {"optimizer": "schedulefree_adamw", "schedule": "constant"},
    ):
        settings = RunSettings.model_validate({**given, "train": {**train, "epochs": 2, **changes}})
        assert len(list(Run(settings, data, NUMERICS))) == 2
