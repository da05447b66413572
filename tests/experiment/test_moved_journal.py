"""A journal that is moved or removed while a search writes to it: noticed at once, nothing lost."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from helpers.journals import make_event
from helpers.simulated_ray import Driver
from tune_swa.config import Experiment
from tune_swa.errors import SearchFailed
from tune_swa.execution.finish import check_recorded
from tune_swa.experiment.folder import lock_experiment
from tune_swa.experiment.journal import Journal, read_events
from tune_swa.experiment.moved_journal import JournalMovedError
from tune_swa.experiment.state import ExperimentState
from tune_swa.storage import FolderStore


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    journal = Journal(tmp_path / "results" / "one two" / "journal.jsonl")
    for number in range(3):
        journal.append(make_event("session", number=number))
    return journal


def numbers(path: Path) -> list[int]:
    return [event["number"] for event in read_events(path)]


def refused(journal: Journal) -> str:
    """What both writing an event and the look between two events say."""
    with pytest.raises(JournalMovedError) as looked:
        journal.sync(older=60.0)
    if not journal.path.exists():  # else it has been written back
        with pytest.raises(JournalMovedError) as written:
            journal.append(make_event("session", number=9))
        assert str(written.value) == str(looked.value)
    return str(looked.value)


def follow(message: str) -> None:
    """Run the command that a message gives."""
    command = message.partition("`")[2].partition("`")[0]
    subprocess.run(shlex.split(command), check=True)


def test_a_folder_that_was_renamed(journal: Journal) -> None:
    folder = journal.path.parent
    folder.rename(folder.with_name("else where"))
    message = refused(journal)
    assert f"is {folder.with_name('else where')} now" in message
    assert not folder.exists()
    follow(message)
    assert numbers(journal.path) == [0, 1, 2]
    Journal(journal.path).append(make_event("session", number=3))
    assert numbers(journal.path) == [0, 1, 2, 3]


def test_a_results_folder_that_was_renamed(journal: Journal) -> None:
    results = journal.path.parent.parent
    results.rename(results.with_name("other"))
    message = refused(journal)
    assert f"is {results.with_name('other')} now" in message
    follow(message)
    assert numbers(journal.path) == [0, 1, 2]


def test_a_journal_that_was_renamed(journal: Journal) -> None:
    away = journal.path.rename(journal.path.with_name("journal.old"))
    assert f"is {away} now" in refused(journal)


def test_a_journal_that_was_removed_is_written_back(journal: Journal) -> None:
    journal.path.unlink()
    assert "has been written back. Continue with --resume" in refused(journal)
    assert numbers(journal.path) == [0, 1, 2]


def test_a_journal_in_whose_place_is_another(journal: Journal) -> None:
    """As an editor leaves it, or whoever copies a folder over a running one."""
    copy = journal.path.with_name("copy")
    copy.write_bytes(journal.path.read_bytes()[:-20])
    copy.rename(journal.path)
    other = journal.path.read_bytes()
    message = refused(journal)
    kept = journal.path.with_name("journal.kept.jsonl")
    assert f"is in {kept}" in message
    assert numbers(kept) == [0, 1, 2]
    assert journal.path.read_bytes() == other


def test_a_folder_that_was_removed_is_not_made_again(journal: Journal) -> None:
    shutil.rmtree(journal.path.parent)
    assert "Start it again without --resume" in refused(journal)
    assert not journal.path.parent.exists()


def test_a_folder_that_is_reached_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "results").symlink_to(tmp_path / "disk")
    journal = Journal(tmp_path / "results" / "journal.jsonl")
    for number in range(2):
        journal.append(make_event("session", number=number))
    journal.sync()
    assert numbers(journal.path) == [0, 1]


def test_nothing_is_written_where_the_folder_was(tmp_path: Path) -> None:
    folder = tmp_path / "search"
    folder.mkdir()
    store = FolderStore(folder)
    store.write("checkpoints/a/epoch-00000.pt", lambda path: path.write_text("state"))
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="not there any more"):
        store.write("checkpoints/a/epoch-00001.pt", lambda path: path.write_text("state"))
    assert not folder.exists()


def test_a_search_stops_and_goes_on_once_the_folder_is_back(tmp_path: Path) -> None:
    space = {"lr": {"choice": [1e-3, 1e-2]}, "swa_start": 1, "swa_lr": 1e-3}
    experiment = Experiment.model_validate({"name": "moved", "train": {"epochs": 3}, "space": space})
    folder = tmp_path / "moved"
    with lock_experiment(folder):
        driver = Driver(experiment, folder, 1)
        first = driver.suggest()
        assert first is not None
        driver.run(first)
        folder.rename(tmp_path / "away")
        before = (tmp_path / "away" / "journal.jsonl").read_bytes()
        assert not driver.coordinator.sync_journal()
        assert driver.coordinator.is_stopping
        assert driver.suggest() is None
        with pytest.raises(SearchFailed, match=r"the search stopped\. .*away now"):
            check_recorded(driver.coordinator)
    assert (tmp_path / "away" / "journal.jsonl").read_bytes() == before
    assert not folder.exists()
    (tmp_path / "away").rename(folder)
    again = Driver.resume(experiment, folder, 1)
    while (suggestion := again.suggest()) is not None:
        again.run(suggestion)
    state = ExperimentState.read(folder / "journal.jsonl")
    assert {trial.status for trial in state.trials.values()} == {"completed"}
