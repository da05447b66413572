"""optuna.log is a study of the search for Optuna's own tools, which may have it open all the while."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from helpers.journals import Writer, experiment, usual
from tune_swa.config.optuna_distributions import to_distribution
from tune_swa.experiment.journal import read_events
from tune_swa.experiment.state import ExperimentState
from tune_swa.tracking.optuna_log import StudyFile

SWA = {"lr": 1e-3, "swa_start": 1, "swa_lr": 5e-4}


def storage(folder: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(folder / "optuna.log")))


def load(folder: Path, name: str = "made-up") -> optuna.Study:
    return optuna.load_study(storage=storage(folder), study_name=name)


def write(writer: Writer) -> Path:
    folder = writer.path.parent
    StudyFile()(writer.state(), folder)
    return folder


def test_the_search_and_its_baselines_are_two_studies(tmp_path: Path) -> None:
    writer = usual(tmp_path)
    study, baselines = load(write(writer)), load(tmp_path, "made-up-baseline")
    for found, kind in ((study, "swa"), (baselines, "baseline")):
        trials = writer.state().of_kind(kind)  # type: ignore[arg-type]
        assert [t.user_attrs["trial"] for t in found.trials] == [t.name for t in trials]
        for trial, ours in zip(found.trials, trials, strict=True):
            assert trial.state == TrialState.COMPLETE
            assert trial.params == ours.params
            assert trial.value == ours.records[-1]["accuracy"]
            assert trial.intermediate_values == {r["epoch"]: r["accuracy"] for r in ours.records}
            assert trial.datetime_start == datetime.fromtimestamp(ours.suggested or 0)
            assert trial.datetime_complete == datetime.fromtimestamp(ours.finished or 0)
        assert found.direction == optuna.study.StudyDirection.MAXIMIZE
        assert found.metric_names == ["accuracy"]
        assert found.user_attrs["best_baseline"] == {
            "trial": "base-0",
            "configuration": "baseline lr=1e-3",
            "accuracy": 0.90,
        }
    assert study.best_trial.user_attrs["configuration"] == "SWA_1_5e-4 lr=1e-3"
    assert study.trials[0].distributions == {p.name: to_distribution(p) for p in writer.spec.parameters}
    assert baselines.trials[0].distributions.keys() == {"lr"}


def test_every_way_in_which_a_trial_can_stand(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    for number, status in enumerate(("completed", "pruned", "failed", "interrupted", None)):
        error = "the loss is nan" if status == "failed" else None
        params = {**SWA, "swa_lr": 1e-3 + number * 1e-4}
        writer.trial(f"swa-{number}", params, [0.5, 0.4], status=status, error=error)
    writer.trial("swa-5-seed8", SWA, [0.5], stage="confirm", status=None)
    found = load(write(writer)).trials
    assert [(t.state.name, t.value, t.user_attrs.get("status")) for t in found] == [
        ("COMPLETE", 0.4, "completed"),
        ("PRUNED", 0.4, "pruned"),
        ("FAIL", None, "failed"),
        ("RUNNING", None, None),
        ("RUNNING", None, None),
    ]
    assert found[2].user_attrs["error"] == "the loss is nan"
    assert all(t.intermediate_values == {0: 0.5, 1: 0.4} for t in found)


def test_parameters_that_are_lists_or_numbers_that_are_words(tmp_path: Path) -> None:
    space = {
        "lr": 1e-3,
        "swa_start": {"int": [0, 2], "step": 2},
        "swa_lr": {"uniform": [0.1, 0.3], "step": 0.1},
        "train.augment": {"choice": [[], ["hflip", "crop"]]},
    }
    writer = Writer(tmp_path, experiment(space=space))
    writer.trial("swa-0", {"swa_start": 2, "swa_lr": 0.3, "train.augment": ("hflip", "crop")}, [0.5])
    trial = load(write(writer)).trials[0]
    assert trial.params == {"swa_start": 2, "swa_lr": 0.3, "train.augment": "hflip+crop"}


def fold(writer: Writer, lines: int) -> ExperimentState:
    return ExperimentState.fold(list(read_events(writer.path))[:lines], writer.path)


@pytest.mark.parametrize("sessions", [False, True])
def test_a_reader_that_has_it_open_sees_all_that_happens(tmp_path: Path, sessions: bool) -> None:
    """As a dashboard does, over several sessions of the search, too."""
    writer = Writer(tmp_path / "a")
    writer.session(2)
    writer.trial("base-0", {"lr": 1e-3}, [0.5, 0.6])
    writer.trial("swa-0", SWA, [0.5, 0.6, 0.7, 0.8])
    writer.trial("swa-1", {**SWA, "lr": 3e-3}, [0.3], status="interrupted")
    writer.session(3)
    writer.start("swa-1")
    writer.epoch("swa-1", 1, 0.4)
    writer.end("swa-1", "pruned")
    count = len(writer.path.read_text().splitlines())
    file, reader = StudyFile(), None
    for lines in range(3, count + 1):
        state = fold(writer, lines)
        (StudyFile() if sessions else file)(state, tmp_path)
        reader = reader or storage(tmp_path)
        for name in ("made-up", "made-up-baseline"):
            found = optuna.load_study(storage=reader, study_name=name).trials
            kind = "baseline" if name.endswith("baseline") else "swa"
            ours = state.of_kind(kind)  # type: ignore[arg-type]
            assert [(t.user_attrs["trial"], list(t.intermediate_values.values())) for t in found] == [
                (t.name, [r["accuracy"] for r in t.records]) for t in ours
            ]
            assert [t.state.is_finished() for t in found] == [t.ended for t in ours]
    StudyFile()(writer.state(), tmp_path / "a")
    whole = [load(folder).trials for folder in (tmp_path, tmp_path / "a")]
    assert whole[0] == whole[1]


def test_nothing_new_writes_nothing(tmp_path: Path) -> None:
    writer = usual(tmp_path)
    file = StudyFile()
    file(writer.state(), tmp_path)
    before = (tmp_path / "optuna.log").stat()
    file(writer.state(), tmp_path)
    assert (tmp_path / "optuna.log").stat() == before


def test_what_a_dashboard_notes_stays(tmp_path: Path) -> None:
    writer = usual(tmp_path)
    file = StudyFile()
    file(writer.state(), tmp_path)
    load(tmp_path).set_user_attr("note", "of mine")
    writer.trial("swa-2", {**SWA, "swa_lr": 6e-4}, [0.5], status=None)
    file(writer.state(), tmp_path)
    writer.session(2)
    writer.start("swa-2")
    writer.epoch("swa-2", 1, 0.9)
    StudyFile()(writer.state(), tmp_path)
    study = load(tmp_path)
    assert study.user_attrs["note"] == "of mine"
    assert study.trials[2].intermediate_values == {0: 0.5, 1: 0.9}


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def of_another_search(path: Path) -> None:
    path.write_text(path.read_text().replace('"swa-1"', '"swa-9"'))


def with_other_values(path: Path) -> None:
    path.write_text(path.read_text().replace(":0.93", ":0.94"))


def with_trials_of_somebody_else(path: Path) -> None:
    load(path.parent).enqueue_trial(SWA)


def garbled(path: Path) -> None:
    path.write_bytes(b"\x00" * 100 + b"\n")


def of_a_longer_journal(path: Path) -> None:
    text = path.read_text()
    path.write_text(text + text.splitlines()[-1].replace("swa-1", "swa-2") + "\n")


@pytest.mark.parametrize(
    "spoil",
    [torn, of_another_search, with_other_values, with_trials_of_somebody_else, garbled, of_a_longer_journal],
)
def test_a_file_that_does_not_agree_with_the_journal_is_written_anew(tmp_path: Path, spoil: Any) -> None:
    writer = usual(tmp_path)
    writer.session(2)
    expected = load(write(writer)).trials
    spoil(tmp_path / "optuna.log")
    assert load(write(writer)).trials == expected


def test_a_disk_that_refuses_is_tried_again(tmp_path: Path) -> None:
    writer = usual(tmp_path)
    file = StudyFile()
    (tmp_path / "optuna.log").mkdir()
    with pytest.raises(OSError, match="directory"):
        file(writer.state(), tmp_path)
    (tmp_path / "optuna.log").rmdir()
    file(writer.state(), tmp_path)
    assert len(load(tmp_path).trials) == 2
