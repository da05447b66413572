"""Spoiled journals: each gives results or a readable error, on reading as on resuming."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tune_swa
from helpers.journals import Writer, experiment
from tune_swa.errors import RequestError
from tune_swa.experiment.journal import read_events
from tune_swa.experiment.state import ExperimentState
from tune_swa.search.coordinator import Coordinator
from tune_swa.search.resume import replay_events
from tune_swa.search.samplers import quiet_optuna

quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def whole(module_path: Path) -> bytes:
    """The journal of a made-up search with trials of every status."""
    writer = Writer(module_path)
    writer.trial("baseline-0000", {"lr": 1e-3}, [0.1, 0.2, 0.3, 0.4])
    writer.trial("swa-0000", {"lr": 1e-3, "swa_start": 1, "swa_lr": 1e-3}, [0.1, 0.2, 0.4, 0.5])
    writer.trial("swa-0001", {"lr": 3e-3, "swa_start": 0, "swa_lr": 1e-2}, [0.1, 0.1], status="pruned")
    writer.trial("swa-0002", {"lr": 3e-3, "swa_start": 2, "swa_lr": 1e-4}, [0.1], status="failed", error="x")
    writer.trial("swa-0003", {"lr": 3e-3, "swa_start": 2, "swa_lr": 1e-3}, [0.1], status=None)
    return bytes(writer.path.read_bytes())


def look(journal: Path) -> None:
    """All that reads a journal to show it."""
    tune_swa.load_results(journal).leaderboard()


def resume(journal: Path) -> None:
    """What a resume rebuilds."""
    state = ExperimentState.read(journal)
    coordinator = Coordinator(experiment(), journal.parent, state)
    replay_events(coordinator, list(read_events(journal)))
    coordinator.planner.next_suggestion()
    coordinator.close()


def readable(action: Callable[[Path], None], journal: Path) -> None:
    try:
        action(journal)
    except RequestError as error:
        assert "journal" in str(error) or "described by tune_swa" in str(error)
        assert len(str(error)) < 600


values = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 99), st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5), st.just([]), st.just({}), st.just("swa-0000"), st.just("completed"),
)  # fmt: skip


@st.composite
def spoiled_lines(draw: st.DrawFn, whole: bytes) -> bytes:
    """Lines dropped, repeated, moved or cut, fields dropped or changed, at any depth."""
    lines = whole.splitlines(keepends=True)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        change = draw(st.sampled_from(["drop", "repeat", "move", "field", "remove", "bytes"]))
        if change == "drop" and len(lines) > 1:
            del lines[at]
        elif change == "repeat":
            lines.insert(at, lines[at])
        elif change == "move":
            lines.insert(draw(st.integers(0, len(lines) - 1)), lines.pop(at))
        elif change == "bytes":
            lines[at] = draw(st.binary(max_size=20)) + b"\n"
        elif lines[at].startswith(b"{") and lines[at].endswith(b"}\n"):
            event = json.loads(lines[at])
            inside = event
            while inside:
                name = draw(st.sampled_from(sorted(inside)))
                if isinstance(inside[name], dict) and draw(st.booleans()):
                    inside = inside[name]
                    continue
                if change == "field":
                    inside[name] = draw(values)
                else:
                    del inside[name]
                break
            lines[at] = json.dumps(event).encode() + b"\n"
    return b"".join(lines)


@settings(parent=quick, max_examples=300)
@given(data=st.data())
def test_a_spoiled_journal_gives_results_or_a_readable_error(
    data: st.DataObject, whole: bytes, tmp_path: Path
) -> None:
    journal = tmp_path / "journal.jsonl"
    journal.write_bytes(data.draw(spoiled_lines(whole)))
    readable(look, journal)


@settings(parent=quick, max_examples=150)
@given(data=st.data())
def test_a_spoiled_journal_is_resumed_or_a_readable_error(
    data: st.DataObject, whole: bytes, tmp_path: Path
) -> None:
    quiet_optuna()
    journal = tmp_path / "journal.jsonl"
    journal.write_bytes(data.draw(spoiled_lines(whole)))
    readable(resume, journal)


@quick
@given(st.binary(max_size=200))
def test_any_bytes_are_results_or_a_readable_error(tmp_path: Path, content: bytes) -> None:
    journal = tmp_path / "journal.jsonl"
    journal.write_bytes(content)
    readable(look, journal)


@quick
@given(data=st.data())
def test_cut_anywhere_it_folds_to_its_whole_lines(data: st.DataObject, whole: bytes, tmp_path: Path) -> None:
    cut = data.draw(st.integers(0, len(whole)))
    (tmp_path / "cut").write_bytes(whole[:cut] + data.draw(st.sampled_from([b"", b"\x00" * 9])))
    (tmp_path / "lines").write_bytes(whole[: whole[:cut].rfind(b"\n") + 1])
    assert ExperimentState.read(tmp_path / "cut") == ExperimentState.read(tmp_path / "lines")
