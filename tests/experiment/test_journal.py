"""The journal: what is written is read back, a torn line never happened, damage is named."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.journals import append_event
from tune_swa.errors import RequestError
from tune_swa.experiment.events import FORMAT, CheckpointsRemoved, UnknownEvent
from tune_swa.experiment.journal import Journal, read_events
from tune_swa.experiment.state import ExperimentState

FACTS: dict[str, Any] = {
    "version": "0", "identity": {}, "numerics": {}, "hardware": {}, "versions": {},
    "data": {"fingerprint": "f", "class_names": [], "num_classes": 2, "train": 4, "val": 3, "test": 2},
}  # fmt: skip
SUGGESTED: dict[str, Any] = {
    "kind": "swa", "stage": "search", "params": {"lr": 1e-3, "train.augment": ["hflip"]}, "seed": 0,
    "source": "tpe", "index": 0, "trunk": "abc", "first_average": 3,
}  # fmt: skip


def record(epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "accuracy": 0.1 * epoch}


def named(epoch: int) -> str:
    return f"checkpoints/swa-0000/epoch-{epoch:05d}.pt"


def write_some(path: Path) -> Journal:
    journal = Journal(path)
    append_event(journal, "created", format=FORMAT, spec={"search": {"keep_checkpoints": "best"}}, **FACTS)
    append_event(journal, "session", number=1)
    append_event(journal, "suggested", trial="swa-0000", **SUGGESTED)
    append_event(journal, "started", trial="swa-0000", device="cpu", attempt=1, from_epoch=0)
    for epoch in range(3):
        append_event(journal, "epoch", trial="swa-0000", record=record(epoch), decision="continue",
                       rung=2 if epoch == 2 else None, checkpoint=named(epoch))  # fmt: skip
    return journal


def test_what_is_written_folds_into_what_happened(tmp_path: Path) -> None:
    append_event(
        write_some(tmp_path / "j"), "ended", trial="swa-0000", status="completed", value=0.2, error=None
    )
    state = ExperimentState.read(tmp_path / "j")
    trial = state.trials["swa-0000"]
    assert trial.status == "completed"
    assert trial.ended
    assert [r["epoch"] for r in trial.records] == [0, 1, 2]
    assert trial.rungs == {2: "continue"}
    assert trial.checkpoints == [named(1), named(2)]  # a running trial keeps two
    assert trial.params == {"lr": 1e-3, "train.augment": ("hflip",)}
    assert state.of_kind("swa") == [trial]
    assert ExperimentState.read(tmp_path / "none") == ExperimentState()


def test_a_new_session_finds_the_running_trials_interrupted(tmp_path: Path) -> None:
    append_event(write_some(tmp_path / "j"), "session", number=2)
    state = ExperimentState.read(tmp_path / "j")
    assert state.trials["swa-0000"].status == "interrupted"
    assert not state.trials["swa-0000"].ended


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 2000))
def test_cut_anywhere_it_is_the_events_before_the_cut(
    cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    path = folder / "j"
    write_some(path)
    whole = path.read_bytes()
    events = list(read_events(path))
    path.write_bytes(whole[:cut])
    kept = list(read_events(path))
    assert kept == events[: whole[:cut].count(b"\n")]
    # and writing goes on after a whole line
    append_event(Journal(path), "session", number=2)
    assert [e["event"] for e in read_events(path)] == [e["event"] for e in kept] + ["session"]


@pytest.mark.parametrize(
    "damage", [b"{garbled\n", b"\xff\xfe\n", b"[]\n", b'"text"\n', b'{"time":1}\n', b"\n"]
)
def test_a_damaged_line_is_named(damage: bytes, tmp_path: Path) -> None:
    path = tmp_path / "j"
    write_some(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], damage, *lines[2:]]))
    with pytest.raises(RequestError, match=r"j:3: this line of the journal is damaged.*first 2 lines"):
        ExperimentState.read(path)


def test_another_format_is_refused(tmp_path: Path) -> None:
    append_event(Journal(tmp_path / "j"), "created", format=FORMAT + 1)
    with pytest.raises(RequestError, match="written by another version"):
        ExperimentState.read(tmp_path / "j")


def test_events_of_unknown_kinds_are_passed_over(tmp_path: Path) -> None:
    journal = write_some(tmp_path / "j")
    append_event(journal, "invented_later", trial="swa-0000")
    assert "swa-0000" in ExperimentState.read(tmp_path / "j").trials


@settings(max_examples=100, deadline=None)
@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_read_back_bit_for_bit(value: float, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("journal") / "j"
    append_event(Journal(path), "x", value=value)
    assert next(read_events(path))["value"] == value


def test_what_json_cannot_hold_is_an_error_and_not_a_line(tmp_path: Path) -> None:
    journal = write_some(tmp_path / "j")
    before = (tmp_path / "j").read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        journal.append(UnknownEvent(name="epoch", fields={"value": float("nan")}))
    assert (tmp_path / "j").read_bytes() == before


def test_each_event_is_on_disk_when_append_returns(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    for number in range(5):
        append_event(journal, "session", number=number)
        last = (tmp_path / "j").read_text().splitlines()[-1]
        assert json.loads(last)["number"] == number


def test_a_pickled_journal_reopens(tmp_path: Path) -> None:
    journal = write_some(tmp_path / "j")
    append_event(pickle.loads(pickle.dumps(journal)), "session", number=2)
    assert ExperimentState.read(tmp_path / "j").sessions == 2


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=300))
def test_any_bytes_give_a_state_or_a_readable_error(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("journal") / "j"
    path.write_bytes(content)
    try:
        list(read_events(path))
    except RequestError as error:
        assert str(path) in str(error)


def test_a_name_that_is_no_utf8_and_one_that_is_are_read_back(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    names = [os.fsdecode(b"caf\xe9"), "caf\u00e9", "\U0001f600"]
    journal.append(CheckpointsRemoved(trial="swa-0000", removed=names))
    [event] = read_events(journal.path)
    assert event.removed == names
