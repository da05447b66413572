"""A `best_model.json` that no search has written: one sentence before anything is exported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

import tune_swa
from tune_swa.cli import main
from tune_swa.errors import RequestError
from tune_swa.experiment.events import DamagedError
from tune_swa.experiment.model_description import read_description

EXAMPLE = Path(__file__).parent.parent.parent / "results" / "examples" / "digits"


def write_changed(folder: Path, key: str, value: Any) -> Path:
    """The example's, with another value at a dotted key."""
    about = json.loads((EXAMPLE / "best_model.json").read_text())
    *above, last = key.split(".")
    inside = about
    for part in above:
        inside = inside[part]
    inside[last] = value
    path = folder / "best_model.json"
    path.write_text(json.dumps(about))
    return path


DAMAGED: list[tuple[str, Any]] = [
    ("params", [1, 2]),
    ("params", {"lr": {"a": 1}}),
    ("validation", None),
    ("validation", {}),
    ("validation.accuracy", 1e308),
    ("validation.accuracy", 10**400),
    ("test.accuracy", "x"),
    ("test", 3),
    ("preprocessing", []),
    ("preprocessing.image_size", 0),
    ("preprocessing.image_size", 10**9),
    ("preprocessing.image_size", 32.5),
    ("preprocessing.resize", "stretch"),
    ("preprocessing.mean", [0.5]),
    ("preprocessing.mean", ["a", "b", "c"]),
    ("preprocessing.mean", [float("nan")] * 3),
    ("preprocessing.std", [0.0] * 3),
    ("numerics.threads", 10**9),
    ("numerics.threads", -1),
    ("numerics.threads", True),
    ("numerics.device", "tpu"),
    ("numerics.precision", "fp64"),
    ("numerics.channels_last", "yes"),
    ("num_classes", 0),
    ("num_classes", 10**12),
    ("num_classes", 11),
    ("class_names", "0123456789"),
    ("class_names", ["\ud800"] * 10),
    ("kind", "ema"),
    ("trial", None),
    ("hardware", {}),
    ("hardware.gpus", 4),
    ("versions", {}),
    ("versions.torch", None),
]


@pytest.mark.parametrize(("key", "value"), DAMAGED)
def test_each_field_has_its_limits(key: str, value: Any, tmp_path: Path) -> None:
    path = write_changed(tmp_path, key, value)
    with pytest.raises(DamagedError) as raised:
        read_description(path)
    assert "\n" not in str(raised.value)


def test_what_searches_write_is_read_with_all_its_keys(tmp_path: Path) -> None:
    about = json.loads((EXAMPLE / "best_model.json").read_text())
    assert read_description(EXAMPLE / "best_model.json") == about
    path = write_changed(tmp_path, "preprocessing.of_a_newer_version", [1])
    assert read_description(path)["preprocessing"]["of_a_newer_version"] == [1]


@pytest.fixture(scope="module")
def folder(module_path: Path) -> Path:
    """The example with a model, which was never trained."""
    shutil.copytree(EXAMPLE, module_path / "digits")
    model = torchvision.models.resnet18(num_classes=10)
    torch.save(model.state_dict(), module_path / "digits" / "best_model.pt")
    return module_path / "digits"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("numerics.threads", 10**9),
        ("params", [1, 2]),
        ("params", {"lr": "a\nerror: b"}),
        ("params", {"lr": 1e-3, "other.setting": 1}),
        ("params", {}),
        ("configuration", 7),
    ],
)
def test_the_command_says_so_before_it_exports(
    key: str, value: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_changed(folder, key, value)
    assert main(["export-model", str(folder)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {folder / 'best_model.json'}: ")
    assert "Write it again: the command of the search with --resume" in err
    assert err.count("\n") == 1
    assert not (folder / "export").exists()


def test_more_classes_than_weights_are_not_made_room_for(folder: Path) -> None:
    write_changed(folder, "num_classes", 900_000)
    with pytest.raises(RequestError, match=r"is damaged\. Write it again"):
        tune_swa.load_results(folder).best_model()
