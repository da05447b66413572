"""`~` is the home folder wherever a path is given, also where the shell leaves it as it is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

import tune_swa
from helpers.journals import usual
from tune_swa.cli import main, run_search
from tune_swa.config import ModelSpec
from tune_swa.errors import RequestError
from tune_swa.files import expand_home
from tune_swa.training.model import build_model, resolve_weights

SPACE = """
name: there
data: {dataset: folder, image_size: 8, path: ~/photos}
train: {epochs: 3, batch_size: 4}
space: {lr: 1e-3, swa_start: 1, swa_lr: 1e-3}
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with photos and a finished search; the working directory is another."""
    home, work = tmp_path / "home", tmp_path / "work"
    work.mkdir()
    for part in ("train/cat", "train/dog", "test/cat", "test/dog"):
        (home / "photos" / part).mkdir(parents=True)
        for i in range(6):
            Image.new("RGB", (9, 9), (i, 9 * i, len(part))).save(home / "photos" / part / f"{i}.png")
    (home / "res" / "made-up").mkdir(parents=True)
    usual(home / "res" / "made-up")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(work)
    return home


def test_a_search_finds_its_files_in_the_home_folder(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (home / "s.yaml").write_text(SPACE)
    arguments = ["--space=~/s.yaml", "--results-dir=~/res", "--gpus", "0", "--dry-run"]
    for more in ([], ["--data-dir=~/photos"], ["--set", "data.path=~/photos"]):
        assert run_search([*arguments, *more]) == 0, capfd.readouterr().err
        assert "2 classes" in capfd.readouterr().out
    shutil.copyfile(home / "s.yaml", home / "made-up.yaml")
    again = ["--space=~/made-up.yaml", "--results-dir=~/res", "--gpus", "0", "--name", "made-up"]
    assert run_search(again) == 2
    assert f"{home}/res/made-up: there is a search of this name already" in capfd.readouterr().err
    assert not list(Path.cwd().iterdir())


def test_what_reads_results_finds_them_in_the_home_folder(
    home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "~/res/made-up", f"{home}/res/made-up"]) == 0
    assert main(["report", "~/res/made-up"]) == 0
    assert (home / "res" / "made-up" / "report.html").is_file()
    for command in ("export-model", "confirm"):
        assert main([command, "~/res/made-up"]) == 2
        assert f"{home}/res/made-up" in capfd.readouterr().err
    for path in ("~/res/made-up", Path("~/res/made-up"), "~/res/made-up/journal.jsonl"):
        assert len(tune_swa.load_results(path).trials) > 1


def test_weights_are_found_in_the_home_folder(home: Path) -> None:
    torch.save(build_model(3, 0).state_dict(), home / "w.pt")
    assert resolve_weights(ModelSpec(weights="~/w.pt")) is not None


@pytest.mark.parametrize(
    "arguments",
    [
        ["search", "--space=~nobody-here/x"],
        ["search", "--space=s.yaml", "--results-dir=~nobody-here/x"],
        ["confirm", "~nobody-here/x"],
        ["compare", "results/a", "~nobody-here/x"],
        ["report", "~nobody-here/x"],
        ["report", "x", "--data-dir", "~nobody-here/x"],
        ["export-model", "~nobody-here/x"],
        ["export-model", "x", "--output=~nobody-here/x"],
        ["doctor", "--results-dir", "~nobody-here/x"],
        ["doctor", "--data-dir", "~nobody-here/x"],
    ],
    ids=" ".join,
)
def test_the_home_of_nobody_is_refused(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert " ~nobody-here/x: no home folder is known for ~nobody-here. Write" in capfd.readouterr().err


def test_the_advice_on_a_folder_of_such_a_name_works(home: Path) -> None:
    with pytest.raises(RequestError, match=r"or \./~nobody-here/x for a folder of that name"):
        expand_home("~nobody-here/x", "--data-dir")
    assert expand_home("./~nobody-here/x", "--data-dir") == Path.cwd() / "~nobody-here" / "x"
    shutil.copytree(home / "res" / "made-up", "~nobody-here/made-up")
    assert main(["report", "./~nobody-here/made-up"]) == 0
    assert len(tune_swa.load_results("./~nobody-here/made-up").trials) > 1
    assert os.environ["HOME"] == str(home)
