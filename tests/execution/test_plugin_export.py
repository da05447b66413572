"""Exports of networks that plugins build: the files, what classify.py says, and whose code builds them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tune_swa
from helpers.journals import SPACE, experiment
from helpers.plugin_files import write_plugin
from helpers.programs import ROOT
from helpers.trained_experiment import TrainedExperiment, read_description
from tune_swa import plugins
from tune_swa.cli import main
from tune_swa.data.dataset import Dataset

# weights that two layers share, and one that lies in memory the other way round
NETWORK = """\
import torch
import tune_swa


class Odd(torch.nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.head = torch.nn.Linear(4, classes)
        self.body = torch.nn.Sequential(
            torch.nn.Conv2d(3, 6, 3, 2), torch.nn.BatchNorm2d(6), torch.nn.AdaptiveAvgPool2d(1)
        )
        self.one, self.two = torch.nn.Linear(6, 6, bias=False), torch.nn.Linear(6, 6, bias=False)
        self.two.weight = self.one.weight
        self.turned = torch.nn.Parameter(torch.randn(4, 6).t())

    def forward(self, images):
        features = self.two(self.one(self.body(images).flatten(1)).relu())
        return self.head(features @ self.turned)


tune_swa.register_model("odd", Odd, head="head")
"""
PARAMS, PLAIN = {"lr": 1e-3, "swa_start": 0, "swa_lr": 1e-2}, {"lr": 1e-3}


@pytest.fixture(autouse=True)
def _nothing_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(plugins, "_recorded", {})
    yield
    plugins.load_plugins([])


def train_experiment(
    folder: Path, text: str, data: Dataset, monkeypatch: pytest.MonkeyPatch, *, tested: int = 0
) -> tuple[Path, Path]:
    """Train the network of a plugin called classify.py; its file, and the folder of the experiment."""
    path = write_plugin(folder, text, "classify")
    plugins.load_plugins([str(path)])
    spec = experiment(
        name="made-up",
        model={"arch": "odd"},
        data={"image_size": 16},
        train={"epochs": 3, "batch_size": 8},
        space={**SPACE, "swa_start": {"choice": [0]}},
        averages=[{"method": "swa"}, {"method": "lawa", "last": 2}],
        confirm={"seeds": 3, "ensemble": 2},
    )
    writer = TrainedExperiment(folder / "made-up", spec, data)
    writer.train("base-0", PLAIN)
    writer.train("swa-0", PARAMS)
    if tested:
        arms = [
            {"name": "swa-0", "kind": "swa", "params": PARAMS, "roles": ["finalist"]},
            {"name": "base-0", "kind": "baseline", "params": PLAIN, "roles": ["baseline", "trunk"]},
        ]
        writer.planned_look(arms, range(8, 11))
        for seed in range(8, 8 + tested):
            writer.train(f"base-0-seed{seed}", PLAIN, seed)
            writer.train(f"swa-0-seed{seed}", PARAMS, seed)
    exported = writer.hand_over(monkeypatch)
    plugins.load_plugins([])
    return path, exported


def classify_image(folder: Path, image: Path) -> str:
    """What classify.py of an export prints, run where it lies."""
    done = subprocess.run(
        [sys.executable, "classify.py", image], capture_output=True, text=True, cwd=folder, timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_export_classifies_with_the_code_beside_it(
    tiny_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, folder = train_experiment(tmp_path, NETWORK, tiny_data, monkeypatch, tested=3)
    pixels = np.random.default_rng(1).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "new.png")
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    for which, members in ((), 1), (("--average", "lawa-2"), 1), (("--ensemble", "MultiSWA"), 2):
        output = tmp_path / f"export-{len(which)}-{members}"
        given = ["export-model", str(folder), *which, "--output", str(output), "--plugin", str(path)]
        assert main(given) == 0, capsys.readouterr()
        said = " ".join(capsys.readouterr().out.split())
        assert f"{output}/plugin_classify.py builds the network, with tune_swa" in said
        about = read_description(output)
        assert about.get("members", 1) == members
        with torch.no_grad():
            model = torch.export.load(output / "model.pt2").module()
            probability, index = model(images).softmax(dim=1)[0].max(dim=0)
        name = about["class_names"][int(index)]
        expected = f"{tmp_path / 'new.png'}: {name} ({100 * float(probability):.1f} %)\n"
        assert classify_image(output, tmp_path / "new.png") == expected


def test_only_the_code_that_built_a_network_builds_it_again(
    tiny_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, folder = train_experiment(tmp_path, NETWORK, tiny_data, monkeypatch)
    results = tune_swa.load_results(folder)
    with pytest.raises(tune_swa.RequestError, match="odd is built by a plugin. Add --plugin"):
        results.best_model()
    plugins.load_plugins([str(path)])
    assert type(results.best_model()).__name__ == "Odd"
    other = write_plugin(tmp_path, NETWORK.replace(".relu()", ""), "other")
    plugins.load_plugins([str(other)])
    with pytest.raises(
        tune_swa.RequestError, match="odd is built by --plugin other here, and was built by c"
    ):
        results.best_model()
    path.write_text(NETWORK.replace(".relu()", ""))
    plugins.load_plugins([str(path)])
    with pytest.raises(tune_swa.RequestError, match="classify.py has changed since odd was trained. Restore"):
        results.best_model()
    given = ["export-model", str(folder), "--format", "state_dict", "--plugin"]
    assert main([*given, str(other)]) == 2
    assert "was built by classify. Leave --plugin other out" in " ".join(capsys.readouterr().err.split())


def test_a_network_that_torch_export_does_not_bear_is_exported_without_it(
    tiny_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = NETWORK.replace(
        "        features", "        images = images if images.sum() > 0 else -images\n        features"
    )
    path, folder = train_experiment(tmp_path, text, tiny_data, monkeypatch)
    given = ["export-model", str(folder), "--plugin", str(path)]
    assert main(given) == 0
    out, err = capsys.readouterr()
    assert "No file for torch.export: it cannot write odd (" in out
    assert err == ""  # no pages of the compiler's
    assert sorted(file.name for file in (folder / "export").iterdir()) == [
        "classify.py", "model.json", "model.pt", "model.safetensors", "plugin_classify.py",
    ]  # fmt: skip
    assert set(read_description(folder / "export")["files"]) == {"state_dict", "safetensors"}
    assert main([*given, "--format", "torch.export"]) == 2
    assert "--format torch.export: it cannot write odd (" in capsys.readouterr().err
