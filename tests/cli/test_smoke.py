"""`--smoke`: one whole rehearsal in a process, and what is refused or kept when one fails."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers.called_search import call_search
from helpers.drawn_images import draw_tree
from helpers.plugin_files import SMALL_NETWORK, write_plugin
from helpers.programs import RUN_SEARCH, run_program
from tune_swa.cli.messages import explain_child_exit, how_to_go_on
from tune_swa.cli.smoke import describe_rehearsal
from tune_swa.cli.supervisor import ChildExit
from tune_swa.config import Experiment
from tune_swa.errors import Interrupted, RequestError, SearchFailed
from tune_swa.execution import rehearsal
from tune_swa.execution.rehearsal import _check_trials, _keep_if_failed, _run_interrupted
from tune_swa.execution.request import Request
from tune_swa.experiment.state import ExperimentState
from tune_swa.experiment.trial_state import TrialState
from tune_swa.search.simulation import StageTime
from tune_swa.signals import set_on_signal

SPACE = """
name: mine
data: {dataset: folder, image_size: 32}
train: {epochs: 40, batch_size: 8, warmup_epochs: 4, augment: [hflip]}
averages: [{method: swa}, {method: ema, horizon: 2}]
space:
  lr: {log_uniform: [1e-4, 1e-2]}
  swa_start: {int: [0.5, 0.9]}
  swa_lr: {log_uniform: [1e-4, 1e-2]}
search: {sampler: tpe, trials: 6}
"""
POINT = {"lr": 1e-3, "swa_start": 0, "swa_lr": 1e-3}
KEEP = """
tune_swa.register_augmentation("keep", lambda image, generator: image)
"""


@pytest.fixture
def given(tmp_path: Path) -> list[object]:
    """A space file and a folder of 60 images."""
    draw_tree(tmp_path / "photos", {".": 20})
    (tmp_path / "space.yaml").write_text(SPACE)
    return [
        "--space", tmp_path / "space.yaml", "--data-dir", tmp_path / "photos", "--gpus", 0, "--smoke",
        "--results-dir", tmp_path / "results",
    ]  # fmt: skip


def test_a_rehearsal_goes_the_whole_way_and_leaves_nothing(tmp_path: Path, given: list[object]) -> None:
    """With a network and an augmentation of a plugin, which the driver, the workers and the export need."""
    (tmp_path / "tmp").mkdir()
    own = {"TMPDIR": str(tmp_path / "tmp"), "TUNE_SWA_CACHE": str(tmp_path / "cache")}
    plugin = write_plugin(tmp_path, SMALL_NETWORK + KEEP)
    named = ["--plugin", plugin, "--set", "model.arch=small", "--set", "train.augment=[hflip, plugin/keep]"]
    result = run_program([RUN_SEARCH, *given, *named], cwd=tmp_path, env={**os.environ, **own})
    assert result.returncode == 0, result.stdout + result.stderr
    lines = [line.strip() for line in result.stdout.splitlines()]
    assert "Rehearsal of mine:" in lines
    said = "\n".join(lines)
    assert "images: 60 of 60 decoded, of all 3 classes" in said
    assert re.search(r"^search: 2 trials of 4 epochs on \d+ training", said, re.MULTILINE)
    assert "the SWA trial from the state of its trunk" in said
    # a state after the fork, not an epoch that would be trained again; by then either trial may be at its end
    resumed = re.search(r"^resume: interrupted, and went on with (.+)$", said, re.MULTILINE)
    assert resumed is not None
    assert re.fullmatch(r"(baseline|swa)-0000(-seed[12])? from epoch [0-4]|the next trial", resumed[1])
    assert not re.fullmatch(r"baseline-0000 from epoch [01]", resumed[1])
    assert re.search(r"^fresh seeds: [24] runs, tested$", said, re.MULTILINE)
    assert "model: exported, each file read again and compared" in said
    forecast = re.search(r"^Forecast for mine on this machine: (about )?\d+(h|m|s)", said, re.MULTILINE)
    assert forecast is not None
    assert re.search(r"^search .+ epochs trained\)$", said, re.MULTILINE)
    assert not (tmp_path / "results").exists()
    assert not (tmp_path / "cache").exists()
    assert [p.name for p in (tmp_path / "tmp").iterdir() if "tune_swa" in p.name] == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--resume"], "--smoke rehearses a whole search; leave --resume out"),
        (["--storage", "shared"], "--smoke rehearses on this machine; leave --storage shared out"),
        (["--dry-run"], "argument --dry-run: not allowed with argument --smoke"),
        (["--address", "auto"], "--smoke rehearses on this machine; leave --address auto out"),
        (["--set", "model.weights=none.pt"], "model.weights: none.pt: no such file"),
        (["--set", "data.val_fraction=0.001"], "data.val_fraction: 0.001"),
    ],
)
def test_what_a_search_refuses_its_rehearsal_refuses(
    given: list[object], options: list[str], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call_search(capfd, *given, *options)
    assert code == 2
    assert words in err


def test_a_damaged_image_is_named_as_the_user_knows_it(
    tmp_path: Path, given: list[object], capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos" / "sea" / "7.jpg").write_bytes(b"no image")
    code, _, err = call_search(capfd, *given)
    assert code == 2
    assert f"1 of 60 images cannot be decoded:\n  {tmp_path}/photos/sea/7.jpg" in err


@pytest.mark.parametrize("kind", [SearchFailed, RequestError, ValueError])
def test_the_files_of_a_failed_rehearsal_are_kept_and_named(
    kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    entered: list[Path] = []

    def fail() -> None:
        with _keep_if_failed() as folder:
            entered.append(folder)
            (folder / "search.log").write_text("why")
            raise kind("it failed")

    with pytest.raises(kind) as raised:
        fail()
    folder = entered[0]
    notes = getattr(raised.value, "__notes__", [])
    assert (
        "\n".join([str(raised.value), *notes])
        == f"it failed\nThe files of the rehearsal are kept in {folder}"
    )
    assert (folder / "search.log").read_text() == "why"
    with _keep_if_failed() as other:
        (other / "file").touch()
    assert list(tmp_path.iterdir()) == [folder]


def test_a_trial_that_fails_is_the_rehearsals_failure() -> None:
    """A search goes on without it, and would have been worth a minute."""
    state = ExperimentState()
    trial = TrialState(
        "swa-0000", "swa", "search", {}, 0, "tpe", 0, "t", 1, status="failed", error="NaN loss"
    )
    state.trials["swa-0000"] = trial
    with pytest.raises(SearchFailed, match="swa-0000 of the rehearsal failed: NaN loss"):
        _check_trials(state)
    trial.status = "completed"
    _check_trials(state)


def test_a_name_that_is_taken_is_said_once(
    tmp_path: Path,
    given: list[object],
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    example = RUN_SEARCH.parent / "results" / "examples" / "digits"
    (tmp_path / "results" / "mine").mkdir(parents=True)
    shutil.copy(example / "journal.jsonl", tmp_path / "results" / "mine")
    # the note comes before images are looked at, of which one is damaged: nothing is trained
    (tmp_path / "photos" / "sea" / "7.jpg").write_bytes(b"no image")
    code, out, err = call_search(capfd, *given)
    assert code == 2
    # logging has no handler yet, and prints what it gets on stderr
    assert (out + err + caplog.text).count("a search of this name already") == 1


@pytest.mark.parametrize("by_user", [True, False])
def test_an_interrupt_beside_the_rehearsals_own_is_the_users(
    by_user: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while the rehearsal interrupts its search: not a second signal, which ends the process at once
    and leaves everything behind, and not one to be resumed after."""
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)

    def run_until_stopped(request: Request) -> None:
        stop = threading.Event()
        with set_on_signal(stop):
            request.folder.mkdir()
            (request.folder / "journal.jsonl").write_text('{"event":"epoch","record":{"epoch":1,"x":0}}\n')
            stop.wait()
            if by_user:
                signal.raise_signal(signal.SIGINT)
        raise Interrupted("interrupted")

    monkeypatch.setattr(rehearsal, "run_search", run_until_stopped)
    request = Request(Experiment.model_validate({"name": "x", "space": POINT}), tmp_path)
    if by_user:
        with pytest.raises(Interrupted):
            _run_interrupted(request)
    else:
        assert _run_interrupted(request)
    assert ended == []


def test_a_temporary_folder_that_cannot_be_made_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    words = r"cannot write its files .* set TMPDIR to another folder"
    with pytest.raises(SearchFailed, match=words), _keep_if_failed():
        pass


def test_of_a_rehearsal_that_ended_there_is_nothing_to_go_on_with(capsys: pytest.CaptureFixture[str]) -> None:
    options = argparse.Namespace(words=["run", "--smoke"], smoke=True)
    assert how_to_go_on(options) == "A rehearsal leaves nothing to go on with. Start again with:\nrun --smoke"
    assert explain_child_exit(ChildExit(-9, clean=False, interrupted=True), options) == 130
    assert capsys.readouterr().err == f"Interrupted. {how_to_go_on(options)}\n"


def test_the_lower_end_of_a_range_comes_first() -> None:
    """The race of the search that is shorter as a whole may be the longer one."""
    low = SimpleNamespace(
        stages={"search": StageTime(ends=50.0, epochs=80), "race": StageTime(ends=80.0, epochs=46)}
    )
    high = SimpleNamespace(
        stages={"search": StageTime(ends=60.0, epochs=90), "race": StageTime(ends=88.0, epochs=46)}
    )
    found: Any = SimpleNamespace(
        plan=SimpleNamespace(placement=SimpleNamespace(slots=2)), smaller=[], start=4.0, decoding=0.0,
        rates=SimpleNamespace(train=1e-3, refresh=1e-3, evaluate=1e-3),
        forecast=SimpleNamespace(seconds=(80.0, 88.0), low=low, high=high),
    )  # fmt: skip
    stages = [line.strip() for line in describe_rehearsal(found, "mine") if line.startswith("  ")][1:]
    assert stages == ["search 50s to 1m 00s (80 to 90 epochs trained)", "race 28s to 30s (46 epochs trained)"]
