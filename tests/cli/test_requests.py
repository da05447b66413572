"""Wrong requests of every kind: exit code 2, one message with place and remedy, nothing written.

Each goes through the command line as a user's does. What has to be there beforehand is made by a
function of the row, which gets an empty folder and returns arguments.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from helpers.called_search import call_search
from helpers.journals import first_events
from tune_swa import signals
from tune_swa.config.yaml_file import load_experiment
from tune_swa.experiment.events import FORMAT

ROOT = Path(__file__).parent.parent.parent
DIGITS = str(ROOT / "search_spaces" / "digits.yaml")
Make = Callable[[Path], list[str]]

GOOD = """\
name: wrong
data: {dataset: digits, image_size: 8, train_images: 50}
train: {epochs: 20}
space:
  lr: 1e-3
  swa_start: {choice: [5, 10]}
  swa_lr: {log_uniform: [1e-4, 1e-2]}
search: {trials: 4}
resources: {gpus_per_trial: 1, cpus_per_trial: 1}
"""


def given(*arguments: str) -> Make:
    """The good space file, and arguments."""
    return written("", "", *arguments)


def written(old: str, new: str, *arguments: str) -> Make:
    """The good space file with one change."""

    def make(folder: Path) -> list[str]:
        assert old in GOOD
        path = folder / "f.yaml"
        path.write_text(GOOD.replace(old, new, 1))
        return ["--space", str(path), *arguments]

    return make


def file(content: bytes) -> Make:
    """A space file of any content."""

    def make(folder: Path) -> list[str]:
        (folder / "f.yaml").write_bytes(content)
        return ["--space", str(folder / "f.yaml")]

    return make


# ------------------------------------------------------------------------------------------ images


def images(change: Callable[[Path], object], *arguments: str) -> Make:
    """A folder of two classes in train and test, spoiled by `change`."""

    def make(folder: Path) -> list[str]:
        root = folder / "photos"
        for part, count in (("train", 8), ("test", 3)):
            for label in ("cat", "dog"):
                (root / part / label).mkdir(parents=True)
                for i in range(count):
                    Image.new("RGB", (9, 9), (i, 9 * i, 5)).save(root / part / label / f"{i}.png")
        change(root)
        space = GOOD.replace(
            "dataset: digits, image_size: 8, train_images: 50", "dataset: folder, image_size: 8"
        )
        (folder / "f.yaml").write_text(space)
        return ["--space", str(folder / "f.yaml"), "--data-dir", str(root), *arguments]

    return make


def remove(pattern: str) -> Callable[[Path], None]:
    return lambda root: [path.unlink() for path in root.glob(pattern)] and None


def spoil(root: Path) -> None:
    for name in ("train/cat/1.png", "train/dog/2.png"):
        (root / name).write_bytes((root / name).read_bytes()[:40])
    (root / "test/dog/0.png").write_bytes(b"")
    (root / "test/cat/2.png").write_text("no image at all")


# ----------------------------------------------------------------------------------------- weights


def weights(make_content: Callable[[Path], object]) -> Make:
    """A weights file made by `make_content`."""

    def make(folder: Path) -> list[str]:
        make_content(folder / "w.pt")
        return [*given()(folder), "--set", f"model.weights={folder / 'w.pt'}"]

    return make


class Dangerous:
    """Would write a file if it were unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/tune_swa-was-executed",)


def state_dict(**changes: Any) -> dict[str, Any]:
    return {**torchvision.models.resnet18(num_classes=10).state_dict(), **changes}


# ---------------------------------------------------------------------------------------- journals


def begun(change: Callable[[list[bytes]], list[bytes]], *arguments: str) -> Make:
    """An experiment of this name is there; `change` spoils the lines of its journal."""

    def make(folder: Path) -> list[str]:
        request = given("--resume", *arguments)(folder)
        record = {"epoch": 0, "accuracy": 0.5, "phase": "trunk", "nll": None}
        suggested = {
            "trial": "baseline-0000", "kind": "baseline", "stage": "search", "params": {}, "seed": 0,
            "source": "baseline", "index": 0, "trunk": "abc", "first_average": None,
        }  # fmt: skip
        events = [
            *first_events(load_experiment(request[1])),
            {"event": "suggested", "time": 3.0, **suggested},
            {"event": "started", "time": 4.0, "trial": "baseline-0000", "device": "cpu", "attempt": 1},
            {"event": "epoch", "time": 5.0, "trial": "baseline-0000", "record": record, "rung": None,
             "decision": "continue", "checkpoint": None},
        ]  # fmt: skip
        lines = change([json.dumps(event).encode() + b"\n" for event in events])
        journal = folder / "results" / "wrong" / "journal.jsonl"
        journal.parent.mkdir(parents=True)
        journal.write_bytes(b"".join(lines))
        return request

    return make


def replaced(number: int, old: str, new: str) -> Callable[[list[bytes]], list[bytes]]:
    """Change the text of one line, counted from 1."""

    def change(lines: list[bytes]) -> list[bytes]:
        assert old.encode() in lines[number - 1]
        lines[number - 1] = lines[number - 1].replace(old.encode(), new.encode(), 1)
        return lines

    return change


def without_resume(make: Make) -> Make:
    return lambda folder: [word for word in make(folder) if word != "--resume"]


def results_are_a_file(folder: Path) -> list[str]:
    (folder / "results").write_text("a file")
    return given()(folder)


def journal_is_a_folder(folder: Path) -> list[str]:
    (folder / "results" / "wrong" / "journal.jsonl").mkdir(parents=True)
    return given("--resume")(folder)


def cache_is_a_file(folder: Path) -> list[str]:
    (folder / "cache").write_text("a file")
    os.environ["TUNE_SWA_CACHE"] = str(folder / "cache")  # the fixture puts it back
    return given()(folder)


ROWS: list[tuple[Make, str, str]] = [
    # what is asked, the place that the message names, the remedy
    # ------------------------------------------------------------------------- the command line
    (lambda _: [], "--space", "See run_search.py --help"),
    (lambda _: ["--space"], "--space: expected one argument", "--help"),
    (lambda _: ["--space", "none.yaml"], "none.yaml: no such space file", "Shipped spaces, given by name"),
    (lambda folder: ["--space", str(folder)], "is a folder", "expected a space file"),
    (given("--wrong"), "unrecognized arguments: --wrong", "--help"),
    (given("--gpus", "many"), "--gpus: invalid int value: 'many'", "--help"),
    (given("--gpus", "-1"), "--gpus -1", "expected at least 0"),
    (given("--gpus", "999"), "--gpus 999: this machine has", "Use --gpus"),
    (given("--cpus", "0"), "--cpus 0", "expected at least 1"),
    (given("--cpus", "99999"), "--cpus 99999: this machine has", "Use --cpus"),
    (given("--gpus-per-trial", "1.5"), "--gpus-per-trial 1.5: resources.gpus_per_trial", "a number of at most 1"),
    (given("--gpus-per-trial", "-1"), "resources.gpus_per_trial: -1", "a number of at least 0"),
    (given("--gpus-per-trial", "5e-324"), "resources.gpus_per_trial: 5e-324", "a number of at least 0.001"),
    (given("--gpus-per-trial", "half"), "gpus_per_trial: 'half'", "expected 'auto' or a number"),
    (given("--set", "resources.cpus_per_trial=9999"), "resources.cpus_per_trial", "Lower it"),
    (given("--trials", "0"), "--trials 0: search.trials: 0", "greater than 0"),
    (given("--trials", "few"), "--trials few: search.trials: 'few'", "a whole number"),
    (given("--seed", "-1"), "--seed -1: search.seed: -1", "a number of at least 0"),
    (given("--seed", "99999999999999999999"), "search.seed: 99999999999999999999", "a number of at most 1e"),
    (given("--set", "train.seed=1000000000000001"), "train.seed: 1000000000000001", "a number of at most"),
    (given("--set", "data.split_seed=99999999999999999999"), "data.split_seed: 99999999999999999999", "a number of at most"),
    (given("--set", "scheduler.reduction_factor=1.000000000001"), "scheduler.reduction_factor: 1.000000000001", "a number of at least 1.1"),
    (given("--set", "scheduler.reduction_factor=1e308"), "scheduler.reduction_factor: 1e+308", "a number of at most 1000"),
    (given("--set", "confirm.seeds=1000000000"), "confirm.seeds: 1000000000", "a number of at most 1000"),
    (given("--set", "confirm.top=1001"), "confirm.top: 1001", "a number of at most 1000"),
    (given("--name", "a/b"), "--name a/b: name: 'a/b'", "expected letters, digits"),
    (given("--name", ".."), "--name ..: name: '..'", "a letter or digit first"),
    (given("--name", ""), "name: ''", "expected letters, digits"),
    (given("--set", "train"), "--set train", "expected KEY=VALUE"),
    (given("--set", "train.epoch=3"), "--set train.epoch=3: train.epoch", "Did you mean epochs?"),
    (given("--set", "train.epochs=["), "--set train.epochs=[", "not readable as YAML"),
    (given("--set", "name.x=3"), "--set name.x=3", "name has no settings below it"),
    (given("--set", "points.0.lr=3"), "--set points.0.lr=3", "points"),
    (given("--set", "train.precision=fp16"), "train.precision", "fp16 needs a GPU"),
    (given("--address", "127.0.0.1:1"), "--address 127.0.0.1:1: no Ray cluster answers there", "ray start --head"),
    (given("--address", "ray://127.0.0.1:1"), "--address ray://127.0.0.1:1", "expected HOST:PORT"),
    (given("--address", "127.0.0.1:²"), "--address 127.0.0.1:²", "expected HOST:PORT"),
    (given("--storage", "nosuch://x"), "--storage nosuch://x/wrong", "Give a folder or a URI"),
    (given("--storage", "s3://"), "--storage s3:///wrong", "Give a folder or a URI"),
    (given("--storage", "~nobody-here/x"), "--storage ~nobody-here/x: no home folder", "Write the whole path"),
    (given("--data-dir", "~nobody-here/x"), "--data-dir ~nobody-here/x: no home folder", "Write the whole path"),
    (given("--set", "data.path=~nobody-here/x", "--set", "data.dataset=folder"), "data.path: ~nobody-here/x: no home folder", "Write the whole path"),
    (given("--set", "model.weights=~nobody-here/x"), "model.weights: ~nobody-here/x: no home folder", "Write the whole path"),
    (given("--storage", "/proc/nothing"), "--storage /proc/nothing/wrong", "Give a folder or a URI"),
    (results_are_a_file, "results/wrong: cannot be written to", "--results-dir"),
    (cache_is_a_file, "cache", "TUNE_SWA_CACHE"),
    # --------------------------------------------------------------------------- the space file
    (file(b""), "f.yaml:1", "expected settings such as `name: ...`"),
    (file(b"\x89PNG\r\n\xff\xfe"), "f.yaml: not a text file", "UTF-8"),
    (file(b"name: x\nspace:\n\tlr: 1"), "f.yaml:3", "not readable as YAML"),
    (file(b"name: [x"), "f.yaml:", "not readable as YAML"),
    (file(b"a: &x [*x]"), "f.yaml:1", "write the values out"),
    (file(b"name: !!python/object/apply:os.system [ls]"), "f.yaml:1: the tag", "write a plain value"),
    (written("name: wrong", "name: wrong\nname: x"), "f.yaml:2: name is listed twice", "keep one"),
    (written("name: wrong\n", ""), "name is missing", "f.yaml"),
    (written("  lr: 1e-3\n", ""), "f.yaml:4: space: lr is missing", "lr"),
    (written("epochs: 20", "epoch: 20"), "f.yaml:3: train.epoch: unknown key", "Did you mean epochs?"),
    (written("epochs: 20", "epochs: many"), "f.yaml:3: train.epochs: 'many'", "a whole number"),
    (written("epochs: 20", "epochs: 1"), "f.yaml:3: train.epochs: 1", "a number of at least 2"),
    (written("epochs: 20", "epochs: 20, warmup_epochs: 20"), "train.warmup_epochs: 20", "fewer than train.epochs"),
    (written("epochs: 20", "epochs: 20, weight_decay: .nan"), "weight_decay: nan", "finite number"),
    (written("epochs: 20", "epochs: 20, optimizer: adm"), "train.optimizer: 'adm'", "'sgd', 'schedulefree_sgd' or 'schedulefree_adamw'"),
    (written("lr: 1e-3", "lr: 0"), "f.yaml:5: space.lr: 0", "greater than 0"),
    (written("lr: 1e-3", "lr: {choice: []}"), "f.yaml:5: space.lr.choice", "at least 1"),
    (written("lr: 1e-3", "lr: {choice: [1, 1]}"), "space.lr.choice", "is listed twice"),
    (written("lr: 1e-3", "lr: {uniform: [1, 0.1]}"), "space.lr.uniform: [1.0, 0.1]", "lower bound first"),
    (written("lr: 1e-3", "lr: {log_uniform: [0, 1]}"), "space.lr.log_uniform", "greater than 0"),
    (written("lr: 1e-3", "lr: {uniform: [0.1, 0.25], step: 0.1}"), "space.lr", "write 0.2"),
    (written("lr: 1e-3", "lr: {loguniform: [1, 2]}"), "f.yaml:5: space.lr", "one of choice, int, uniform"),
    (written("[5, 10]", "[5, 19]"), "f.yaml:6: space.swa_start.choice.1: 19", "from 0 to 18"),
    (written("[5, 10]", "[-1]"), "space.swa_start.choice.0: -1", "from 0 to 18"),
    (written("lr: 1e-3", "rate: 1e-3"), "space.rate: unknown parameter", "Allowed: lr, swa_start"),
    (written("lr: 1e-3", "lr: 1e-3\n  train.epochs: {choice: [3, 4]}"), "space.train.epochs", "cannot be searched"),
    (written("{trials: 4}", "{sampler: grid}"), "space.swa_lr", "a grid takes choice and stepped ranges only"),
    (written("{trials: 4}", "{sampler: tpee}"), "search.sampler: 'tpee'", "'tpe'"),
    (written("{trials: 4}", "{trials: 4}\npoints: [{swa_start: 5}]"), "f.yaml:9: points.0", "swa_lr is missing"),
    (written("{trials: 4}", "{trials: 4}\npoints: [{swa_start: 6, swa_lr: 1e-3}]"), "points.0", "allowed: one of 5, 10"),
    (written("{trials: 4}", "{trials: 4}\nbaseline: {points: [{swa_start: 5}]}"), "baseline.points.0.swa_start", "not a parameter"),
    (written("{trials: 4}", "{trials: 4}\nscheduler: {grace_epochs: 30}"), "scheduler.grace_epochs: 30", "at most"),
    # -------------------------------------------------------------------------------- the images
    (given("--set", "data.dataset=cifar"), "data.dataset: no set is called 'cifar'", "Did you mean cifar10?"),
    (given("--set", "data.dataset=folder"), "data.dataset is folder, but no folder is given", "--data-dir DIR"),
    (given("--data-dir", "/tmp"), "digits come with scikit-learn", "set data.dataset to folder"),
    (given("--set", "data.train_images=99999"), "data.train_images: 99999", "Ask for at most"),
    (given("--set", "data.val_fraction=1"), "data.val_fraction: 1", "less than 1"),
    (given("--set", "data.val_fraction=0.001"), "data.val_fraction: 0.001", "change data.val_fraction"),
    (given("--set", "data.image_size=1"), "data.image_size: 1", "a number of at least 8"),
    (images(lambda root: None, "--data-dir", "/nowhere"), "/nowhere: no such folder", "Expected below it"),
    (images(lambda root: None, "--data-dir", __file__), "is a file", "expected a folder of images"),
    (images(remove("*/*/*.png")), "train: no images", "in cat, dog. Add some"),
    (images(shutil.rmtree), "photos: no such folder", "Expected below it"),
    (images(remove("train/cat/*.png")), "train: no images", "cat"),
    (images(lambda root: (root / "test/cat").rename(root / "test/cow")), "cat missing; cow not in train", "same folders"),
    (images(spoil), "4 of 22 images cannot be decoded", "Replace or remove them"),
    # ------------------------------------------------------------------------------- the weights
    (given("--set", "model.weights=none.pt"), "none.pt: no such file", "expected none, imagenet or a state_dict"),
    (weights(lambda path: path.mkdir()), "w.pt is a folder", "expected a state_dict file"),
    (weights(lambda path: path.write_bytes(b"")), "w.pt cannot be read", "torch.save(model.state_dict(), path)"),
    (weights(lambda path: torch.save(Dangerous(), path)), "w.pt cannot be read", "torch.save(model.state_dict(), path)"),
    (weights(lambda path: torch.save({"x": 1}, path)), "w.pt holds no state_dict", "names with tensors"),
    (weights(lambda path: torch.save({"x": torch.ones(1)}, path)), "w.pt is not of torchvision's resnet18", "it lacks"),
    (weights(lambda path: torch.save(torchvision.models.resnet34(num_classes=10).state_dict(), path)), "resnet18", "it has unknown"),
    (weights(lambda path: torch.save(state_dict(**{"conv1.weight": torch.ones(64, 1, 7, 7)}), path)), "other shapes for conv1.weight", "resnet18"),
    (weights(lambda path: torch.save(state_dict(**{"bn1.weight": torch.full((64,), np.nan)}), path)), "bn1.weight", "not finite"),
    # ------------------------------------------------------------------------ going on with a search
    (given("--resume"), "there is no search to resume", "Leave --resume out"),
    (journal_is_a_folder, "journal.jsonl: cannot be read", "Restore access"),
    (without_resume(begun(lambda lines: lines)), "there is a search of this name already", "--resume"),
    (begun(lambda lines: lines, "--set", "train.batch_size=32"), "train.batch_size: was 64, is 32", "another --name"),
    (begun(lambda lines: lines, "--seed", "7"), "search.seed: was 0, is 7", "another --name"),
    (begun(lambda lines: lines), "the images are not those that this search began with", "another --name"),
    (begun(replaced(1, f'"format": {FORMAT}', '"format": 99')), "written by another version of tune_swa", "give --name"),
    (begun(lambda lines: [lines[0], b"{garbled\n", *lines[1:]]), "journal.jsonl:2: this line of the journal is damaged", "keep only the first 1 lines"),
    (begun(lambda lines: lines[1:]), "journal.jsonl:1", "Restore the file from a copy"),
    (begun(lambda lines: [*lines, lines[0]]), "journal.jsonl:6", "begins for the second time"),
    (begun(lambda lines: [*lines, lines[2]]), "journal.jsonl:6", "was suggested before"),
    (begun(lambda lines: [*lines, lines[4]]), "journal.jsonl:6", "where 1 was due"),
    (begun(replaced(4, "baseline-0000", "swa-0007")), "journal.jsonl:4", "no trial 'swa-0007' was suggested"),
    (begun(replaced(5, "0.5", '"half"')), "journal.jsonl:5", "accuracy is 'half'"),
    (begun(replaced(3, '"params": {}', '"params": 3')), "journal.jsonl:3", "got `int` - at `$.params`"),
    (begun(lambda lines: [b"\x00\x00\xff\n", *lines]), "journal.jsonl:1", "it is not an event"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signal handlers and the environment stay the tests' own."""
    monkeypatch.setattr(signals, "interrupt_once", lambda: None)
    monkeypatch.setenv("TUNE_SWA_CACHE", os.environ["TUNE_SWA_CACHE"])


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder, byte for byte."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if path.name != ".lock"  # who held it last
    }


def test_there_are_many() -> None:
    assert len(ROWS) >= 100


@pytest.mark.parametrize(("make", "place", "remedy"), ROWS, ids=[row[1][:60] for row in ROWS])
def test_a_wrong_request(
    make: Make,
    place: str,
    remedy: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = make(tmp_path)
    before = snapshot(tmp_path)
    monkeypatch.chdir(ROOT)
    where = ["--results-dir", tmp_path / "results"] if arguments else []
    code, out, err = call_search(capfd, *arguments, *where)
    assert code == 2, out + err
    assert out.replace("decoding images: 1797 of 1797\n", "") == ""
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert place in err
    assert remedy in err
    assert snapshot(tmp_path) == before
    assert not Path("/tmp/tune_swa-was-executed").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--space", "none.yaml"],
        ["--space", DIGITS, "--gpus", "999"],
        ["--space", DIGITS, "--set", "data.dataset=folder"],
    ],
)
def test_as_a_user_runs_it(arguments: list[str], tmp_path: Path) -> None:
    """In a process of its own, under the supervisor."""
    program = [sys.executable, str(ROOT / "run_search.py")]
    result = subprocess.run([*program, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.glob("results/*")) == []


def test_a_mistake_in_the_space_file_is_told_at_once(tmp_path: Path) -> None:
    """Before torch and Ray are imported, which takes seconds."""
    (tmp_path / "f.yaml").write_text("name: x")
    code = (
        "import sys; from tune_swa.cli import run_search\n"
        "assert run_search(['--space', 'f.yaml']) == 2\n"
        "assert not {'torch', 'ray', 'optuna', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
