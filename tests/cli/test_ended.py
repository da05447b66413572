"""What one does with a search that has ended: the commands, on a real one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tune_swa
from helpers.programs import TUNE_SWA, run_program
from helpers.serial_search import never_interrupted
from tune_swa.config import yaml_file
from tune_swa.data.dataset import prepare_dataset


@pytest.fixture(scope="module")
def searched(module_path: Path, decoded: None) -> Path:
    """The folder of a small search of the network as it is."""
    return never_interrupted(module_path, 2, wide=True) / "crash"


@pytest.fixture
def ended(searched: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(searched, tmp_path / "crash"))


def tune_swa_does(*arguments: object) -> str:
    """Run a command as a user does; returns its output."""
    result = run_program([TUNE_SWA, *arguments], env={**os.environ, "COLUMNS": "160"})
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    return result.stdout


def test_compare(ended: Path) -> None:
    other = Path(shutil.copytree(ended, ended.parent / "other"))
    out = tune_swa_does("compare", ended, other)
    best = tune_swa.load_results(ended).leaderboard()
    swa = best[best.kind == "swa"].iloc[0]
    assert out.count(f"{100 * swa.accuracy:.2f}") >= 2
    assert "the images are not the same" not in out


def test_report(ended: Path) -> None:
    (ended / "report.html").unlink()
    assert tune_swa_does("report", ended).strip() == str(ended / "report.html")
    page = (ended / "report.html").read_text()
    assert tune_swa.load_results(ended).comparison.configuration[0] in page
    assert not list(ended.glob(".*.tmp"))


def test_analysis(ended: Path) -> None:
    results = tune_swa.load_results(ended)
    averaged = results.epochs[results.epochs.n_averaged > 0]
    gain = results.gain()
    assert set(gain.columns) == set(averaged.trial)
    assert gain.notna().sum().sum() == len(averaged)
    data = prepare_dataset(results.experiment.data)
    about = json.loads((ended / "best_model.json").read_text())
    images = torch.from_numpy(data.images[data.val]).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(about["preprocessing"][k])[:, None, None] for k in ("mean", "std"))
    with torch.no_grad():
        predicted = results.best_model()(((images - mean) / std).float()).argmax(1).numpy()
    assert (predicted == data.labels[data.val]).mean() == about["validation"]["accuracy"]


STRANGER = """
import json, sys
import numpy as np, torch, torchvision
from safetensors.torch import load_file
torch.set_num_threads(1)
assert "tune_swa" not in sys.modules
about = json.load(open("export/model.json"))
given = np.load("images.npz")
mean, std = (torch.tensor(about["preprocessing"][k])[:, None, None] for k in ("mean", "std"))
pixels = (torch.from_numpy(given["images"]).permute(0, 3, 1, 2) / 255 - mean) / std
for name, file in about["files"].items():
    model = torchvision.models.resnet18(num_classes=about["num_classes"]).eval()
    if name == "torch.export":
        model = torch.export.load("export/" + file).module()
    else:
        read = load_file if name == "safetensors" else torch.load
        model.load_state_dict(read("export/" + file))
    with torch.no_grad():
        right = model(pixels).argmax(1).numpy() == given["labels"]
    print(name, int(right.sum()) / len(right))
"""


def test_export_model(ended: Path, tmp_path: Path) -> None:
    """Three formats, each with the recorded accuracy in a process that imports nothing of ours."""
    out = tune_swa_does("export-model", ended, "--output", tmp_path / "export")
    assert "That is the recorded accuracy." in out
    recorded: dict[str, Any] = json.loads((ended / "best_model.json").read_text())
    assert recorded["configuration"] in out
    data = prepare_dataset(yaml_file.load_experiment(ended / "space.yaml").data)
    np.savez(tmp_path / "images.npz", images=data.images[data.val], labels=data.labels[data.val])
    said = subprocess.run(
        [sys.executable, "-c", STRANGER],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    ).stdout.splitlines()  # fmt: skip
    accuracy = recorded["validation"]["accuracy"]
    assert said == [f"{name} {accuracy}" for name in ("state_dict", "safetensors", "torch.export")]
    assert "preprocessing" in json.loads((tmp_path / "export" / "model.json").read_text())
