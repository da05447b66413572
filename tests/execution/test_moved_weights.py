"""Starting weights are what their file holds, wherever it is."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from helpers.narrow_resnet import build_narrow_resnet, narrow_environment
from helpers.programs import RUN_SEARCH, TUNE_SWA, run_program
from tune_swa.cli import main
from tune_swa.config import Experiment
from tune_swa.errors import RequestError
from tune_swa.experiment.events import FORMAT
from tune_swa.experiment.folder import load_earlier_events

SPACE = """
name: there
data: {dataset: digits, image_size: 8, train_images: 40, val_fraction: 0.2, test_fraction: 0.9}
model: {weights: w.pt}
train: {epochs: 2, batch_size: 20}
averaging: {anneal_epochs: 1}
space: {lr: 1e-3, swa_start: 0, swa_lr: 1e-3}
confirm: {top: 1, seeds: 1}
"""


DATA = {"fingerprint": "f", "class_names": [], "num_classes": 2, "train": 4, "val": 3, "test": 2}


def experiment(weights: str, key: str | None = None) -> Experiment:
    space = {"lr": 1e-3, "swa_start": 3, "swa_lr": 1e-3}
    model = {"weights": weights, "weights_key": key}
    return Experiment.model_validate({"name": "x", "space": space, "model": model})


@pytest.mark.parametrize("former", [False, True], ids=["now", "before-there-was-a-key"])
@pytest.mark.parametrize(
    ("begun", "resumed", "differs"),
    [
        ("/old/w.pt", "/new/w.pt", False),
        ("/old/w.pt", "/old/w.pt", False),
        ("imagenet", "/home/me/resnet18-f37072fd.pth", False),
        ("none", "none", False),
        ("none", "/new/w.pt", True),
        ("/old/w.pt", "none", True),
    ],
)
def test_the_place_of_the_weights_may_differ(
    begun: str, resumed: str, differs: bool, former: bool, tmp_path: Path
) -> None:
    spec = experiment(begun)
    created = {
        "event": "created", "time": 1.0, "format": FORMAT, "version": "0", "numerics": {}, "hardware": {},
        "versions": {}, "data": DATA, "spec": spec.model_dump(mode="json", by_alias=True),
        "identity": spec.fixed_settings(),
    }  # fmt: skip
    if former:
        created["spec"]["model"].pop("weights_key")  # type: ignore[index]
    (tmp_path / "journal.jsonl").write_text(json.dumps(created) + "\n")
    after = experiment(resumed, None if resumed == "none" else "model_ema")
    if not differs:
        assert len(load_earlier_events(tmp_path, after, resume=True)[0]) == 1
        return
    with pytest.raises(RequestError, match=f"model.weights: was '{begun}', is '{resumed}'"):
        load_earlier_events(tmp_path, after, resume=True)


def test_a_search_goes_on_with_weights_that_have_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    state = {f"backbone.{name}": t for name, t in build_narrow_resnet(10).state_dict().items()}
    torch.save({"net": state, "criterion": {"weight": torch.ones(10)}}, tmp_path / "w.pt")
    (tmp_path / "s.yaml").write_text(SPACE)
    environment = narrow_environment({**os.environ, "TUNE_SWA_CACHE": str(tmp_path / "cache")})
    options = ["--gpus", "0", "--cpus", "1"]
    command = [RUN_SEARCH, "--space", "s.yaml", *options, "--no-confirm"]
    done = run_program(command, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "model.weights: w.pt: took net.backbone; left out criterion" in done.stdout

    (tmp_path / "w.pt").rename(tmp_path / "moved.pt")
    monkeypatch.chdir(tmp_path)
    assert main(["confirm", "results/there"]) == 2
    assert "w.pt: no such file" in (error := capfd.readouterr().err)
    assert "If it has moved, set model.weights to its new place" in error
    space = tmp_path / "results" / "there" / "space.yaml"
    space.write_text(space.read_text().replace("w.pt", "moved.pt"))
    done = run_program([TUNE_SWA, "confirm", "results/there", *options], cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
