"""Results folders from elsewhere: whatever their journals and links say, nothing outside them is touched."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.folder_contents import contents_of
from helpers.narrow_resnet import narrow_environment
from helpers.programs import RUN_SEARCH, run_program
from tune_swa.cli import main

SPACE = """
name: there
data: {dataset: digits, image_size: 8, train_images: 40, val_fraction: 0.2, test_fraction: 0.9}
train: {epochs: 2, batch_size: 20}
averaging: {anneal_epochs: 1}
space: {lr: 1e-3, swa_start: 0, swa_lr: 1e-3}
search: {checkpoint_every: 1}
confirm: {top: 1, seeds: 2}
"""


def run(*arguments: str) -> int:
    try:
        return main(list(arguments))
    except SystemExit as error:
        return int(error.code or 0)


@pytest.fixture(scope="module")
def ended(module_path: Path) -> Path:
    """A whole search with fresh seeds, as it ended."""
    (module_path / "space.yaml").write_text(SPACE)
    options = ["--gpus", "0", "--cpus", "1", "--results-dir", "results", "--quiet"]
    environment = narrow_environment({**os.environ, "TUNE_SWA_CACHE": str(module_path / "cache")})
    done = run_program([RUN_SEARCH, "--space", "space.yaml", *options], cwd=module_path, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return module_path / "results" / "there"


@pytest.fixture
def folder(ended: Path, tmp_path: Path) -> Path:
    """A copy of it, beside a folder whose files are somebody else's."""
    victim = tmp_path / "victim"
    for name in (
        "checkpoints/epoch-00000.pt",
        "tensorboard/x",
        "journal.jsonl",
        "epoch-00001.pt",
        "notes.txt",
    ):
        (victim / name).parent.mkdir(parents=True, exist_ok=True)
        (victim / name).write_text("mine")
    shutil.copytree(ended, tmp_path / "results" / "there")
    return tmp_path / "results" / "there"


def rewrite(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """Change the events of its journal; those that become None are dropped."""
    journal = folder / "journal.jsonl"
    events = [change(json.loads(line)) for line in journal.read_text().splitlines()]
    journal.write_text("".join(json.dumps(e, separators=(",", ":")) + "\n" for e in events if e is not None))


def rename_trial(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        def change(event: dict[str, Any]) -> dict[str, Any] | None:
            if event["event"] in ("checkpoints", "finished"):
                return None
            if event.get("trial") == "swa-0000":
                event["trial"] = name
            return event

        rewrite(folder, change)

    return spoil


def set_field(kind: str, **fields: Any) -> Callable[[Path], None]:
    """Change every event of a kind, and have the search go on with something."""

    def spoil(folder: Path) -> None:
        def change(event: dict[str, Any]) -> dict[str, Any] | None:
            if event["event"] in ("checkpoints", "collected", "finished"):
                return None
            return {**event, **fields} if event["event"] == kind else event

        rewrite(folder, change)

    return spoil


def rename_arm(folder: Path) -> None:
    def change(event: dict[str, Any]) -> dict[str, Any] | None:
        for arm in event.get("arms", ()):
            arm["name"] = f"../../../victim/{arm['name']}"
        return None if event["event"] == "finished" else event

    rewrite(folder, change)


def link(name: str, target: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(folder.parent.parent / "victim" / target)

    return spoil


def link_to_itself(folder: Path) -> None:
    (folder / "trunks").symlink_to("trunks")


def pipe(name: str) -> Callable[[Path], None]:
    """What waits for ever when it is opened."""

    def spoil(folder: Path) -> None:
        path = folder / name
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(path)

    return spoil


HOSTILE: dict[str, Callable[[Path], None]] = {
    "a trial's name": rename_trial("../../../victim"),
    "a trial's absolute name": rename_trial("/victim"),
    "a trial named for its parent": rename_trial(".."),
    "a trial's name with a line break": rename_trial("swa\nerror: all is lost"),
    "a trunk": set_field("suggested", trunk="../../../victim"),
    "a checkpoint": set_field("epoch", checkpoint="../../victim/epoch-00001.pt"),
    "an absolute checkpoint": set_field("epoch", checkpoint="/victim/epoch-00001.pt"),
    "a checkpoint of another trial": set_field("epoch", checkpoint="checkpoints/x/epoch-00001.pt"),
    "a checkpoint that is none": set_field("epoch", checkpoint="journal.jsonl"),
    "an arm": rename_arm,
    "the storage's type": set_field("session", storage=["victim"]),
    "a link for the checkpoints": link("checkpoints", "checkpoints"),
    "a link for a trial's checkpoints": link("checkpoints/swa-0009", "checkpoints"),
    "a link for the published states": link("trunks", "."),
    "a link for TensorBoard's files": link("tensorboard", "tensorboard"),
    "a link for predictions": link("predictions", "."),
    "a link for the export": link("export", "."),
    "a link for the journal": link("journal.jsonl", "journal.jsonl"),
    "a link for the lock": link(".lock", "notes.txt"),
    "a link for a temporary file": link(".trials.parquet.tmp", "notes.txt"),
    "a link for the report": link("report.html", "notes.txt"),
    "a link for Optuna's file": link("optuna.log", "notes.txt"),
    "a link for the log": link("search.log", "notes.txt"),
    "a link to itself": link_to_itself,
    "a pipe for the log": pipe("search.log"),
    "a pipe for the lock": pipe(".lock"),
    "a pipe for a checkpoint": pipe("checkpoints/swa-0000/epoch-00001.pt"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_nothing_outside_a_hostile_folder_is_touched(
    kind: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    HOSTILE[kind](folder)
    before = contents_of(tmp_path, leaving_out=folder)
    space = tmp_path / "space.yaml"
    space.write_text(SPACE)
    before[space] = SPACE.encode()
    here = ["--gpus", "0", "--cpus", "1"]
    commands = [
        ["search", "--space", str(space), "--results-dir", str(folder.parent), "--resume", *here],
        ["confirm", str(folder), "--seeds", "3", *here],
        ["report", str(folder)],
        ["export-model", str(folder)],
    ]
    for command in commands:
        code = run(*command)
        message = capsys.readouterr().err
        assert code == 2, f"{command[0]}: {code} {message}"
        assert message.startswith("error: "), message
        assert message.count("\n") == 1, message
        assert "Traceback" not in message
        assert contents_of(tmp_path, leaving_out=folder) == before, command[0]
    run("compare", str(folder), str(folder))  # only reads
    assert contents_of(tmp_path, leaving_out=folder) == before


@pytest.mark.parametrize(
    ("storage", "held"),
    [
        ("VICTIM", {}),
        # another search of that name, of which somebody else keeps the checkpoints
        ("VICTIM", {"space.yaml": SPACE, "journal.jsonl": '{"event":"created"}\n', "checkpoints": "mine"}),
        ("VICTIM", {"journal.jsonl": '{"event":"created"}\n'}),
        ("VICTIM", {"space.yaml": "name: there\n"}),
        ("file://VICTIM", {"space.yaml": "name: there\n"}),
        ("VICTIM\0", {}),
    ],
)
def test_a_storage_that_only_the_journal_names_has_to_hold_the_search(
    storage: str, held: dict[str, str], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    victim = tmp_path / "victim"
    for name, content in held.items():
        (victim / "there").mkdir(exist_ok=True)
        (victim / "there" / name).write_text(content)
    set_field("session", storage=storage.replace("VICTIM", str(victim)))(folder)
    space = tmp_path / "space.yaml"
    space.write_text(SPACE)
    before = contents_of(tmp_path, leaving_out=folder)
    command = [
        "search",
        "--space",
        str(space),
        "--results-dir",
        str(folder.parent),
        "--resume",
        "--gpus",
        "0",
    ]
    assert run(*command) == 2
    message = capsys.readouterr().err
    assert f"--storage {storage.replace('VICTIM', str(victim))}" in message or "cannot be read" in message
    assert "Traceback" not in message
    assert contents_of(tmp_path, leaving_out=folder) == before


def test_links_within_the_folder_do_no_harm(folder: Path) -> None:
    (folder / "wandb").mkdir()
    (folder / "wandb" / "latest-run").symlink_to("run-1")
    assert run("report", str(folder)) == 0


def test_confirm_downloads_nothing_to_a_folder_that_the_space_file_names(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space, journal = folder / "space.yaml", folder / "journal.jsonl"
    text = space.read_text().replace("dataset: digits", "dataset: mnist")
    space.write_text(text.replace("path: null", f"path: {tmp_path / 'victim'}"))
    journal.write_text(journal.read_text().replace('"dataset":"digits"', '"dataset":"mnist"'))
    before = contents_of(tmp_path, leaving_out=folder)
    assert "victim" in space.read_text()
    assert run("confirm", str(folder), "--seeds", "3", "--gpus", "0", "--cpus", "1") == 2
    assert "not downloaded for this. Give the folder that it is in with --data-dir" in capsys.readouterr().err
    assert contents_of(tmp_path, leaving_out=folder) == before
