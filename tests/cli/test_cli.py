"""The commands as a user types them: exit codes, messages on stderr, and no tracebacks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from PIL import Image

from tune_swa.cli import main, run_search

ROOT = Path(__file__).parent.parent.parent
DIGITS = str(ROOT / "search_spaces" / "digits.yaml")
SHIPPED = sorted((ROOT / "search_spaces").glob("*.yaml"))


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run `run_search.py` in this process; return exit code, stdout and stderr."""
    try:
        code = run_search(arguments)
    except SystemExit as error:  # argparse
        code = int(error.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def intel(tmp_path: Path) -> Path:
    """Kaggle's layout with 6 classes of 10 training and 2 test images."""
    for part, count in (("train", 10), ("test", 2)):
        for c, label in enumerate(("buildings", "forest", "glacier", "mountain", "sea", "street")):
            folder = tmp_path / "intel" / f"seg_{part}" / f"seg_{part}" / label
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (150, 150), (40 * c, 7 * i, 90)).save(folder / f"{i}.jpg")
    return tmp_path / "intel"


def test_run_search_runs_as_a_script() -> None:
    result = subprocess.run(
        [sys.executable, str(ROOT / "run_search.py"), "--help"], capture_output=True, text=True, check=True
    )
    for option in ("--space", "--gpus", "--cpus", "--resume", "--dry-run", "--set KEY=VALUE", "--address"):
        assert option in result.stdout


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["search", "--help"], ["--version"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 0
    assert "tune-swa 0." in capsys.readouterr().out


def test_schema_is_a_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(yaml.safe_load("{name: x, space: {lr: 1, swa_start: 1, swa_lr: 1}}"), schema)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_dry_run_prints_the_plan(path: Path, intel: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [] if path.stem in ("digits", "family") else ["--data-dir", str(intel)]
    code, out, err = call(capsys, "--space", str(path), "--dry-run", "--gpus", "0", *arguments)
    assert (code, err) == (0, "")
    text = " ".join(out.split())
    expected = {
        "digits": ["16 with SWA", "3 baselines, one for each lr", "at most 228 to train", "450 to test"],
        "family": ["8 with SWA", "swa, which leads, ema-1", "of baselines ema-1, lawa-3", "450 to test"],
        "swag": ["24 with SWA", "swag-20, swag-diagonal; of baselines ema-2", "nll, lower is better"],
        "swa_grid": [
            "45 with SWA",
            "3 baselines",
            "at most 2,295 to train, since trials share 3,465 of 5,760",
            "48 to train on, 12 to validate",
        ],
        "swa_tpe": ["48 with SWA", "12 baselines from the same sampler", "at most 7,200"],
        "tutorial_table": ["7 with SWA", "1 baseline", "at most 453 to train", "every trial runs to its end"],
    }[path.stem]
    for words in [*expected, f"Plan of {path.stem}", "trials at once", "for checkpoints"]:
        assert words in text, words


def test_dry_run_without_the_images_says_where_they_come_from(capsys: pytest.CaptureFixture[str]) -> None:
    grid = str(ROOT / "search_spaces" / "swa_grid.yaml")
    code, out, _ = call(capsys, "--space", grid, "--dry-run", "--gpus", "0")
    assert code == 0
    assert "45 with SWA" in out
    assert "puneet6060/intel-image-classification" in " ".join(out.split())
    code, out, err = call(capsys, "--space", grid, "--dry-run", "--gpus", "0", "--data-dir", "/nowhere")
    assert (code, out) == (2, "")
    assert "/nowhere: no such folder" in err


def test_more_gpus_than_there_are(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    import torch

    if torch.cuda.device_count() >= 4:
        pytest.skip("this machine has them")
    grid = str(ROOT / "search_spaces" / "swa_grid.yaml")
    code, out, err = call(capsys, "--space", grid, "--gpus", "4", "--results-dir", str(tmp_path))
    assert (code, out) == (2, "")
    assert err.startswith("error: --gpus 4: this machine has ")
    assert "--gpus 0 to run on the CPU" in err
    assert len(err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []  # nothing was begun
