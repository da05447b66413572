"""TensorBoard's files hold every epoch of every trial once, however a search came to its end."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from helpers.journals import Writer, append_event, usual
from tune_swa.experiment.journal import read_events
from tune_swa.experiment.state import ExperimentState
from tune_swa.experiment.updates import SCALARS
from tune_swa.tracking.tensorboard import FILE, EventFiles


def write(writer: Writer) -> Path:
    folder = writer.path.parent
    EventFiles()(writer.state(), folder)
    return folder / "tensorboard"


def events_of(logs: Path, trial: str) -> list[Any]:
    return list(LegacyEventFileLoader(str(logs / trial / FILE)).Load())


def curves(logs: Path, trial: str) -> list[dict[str, float]]:
    """Of each epoch, what TensorBoard reads."""
    return [
        {value.tag: value.simple_value for value in event.summary.value}
        for event in events_of(logs, trial)
        if event.summary.value and event.summary.value[0].WhichOneof("value") == "simple_value"
    ]


def session(logs: Path, trial: str, which: str) -> Any:
    """What the HPARAMS tab knows: `session_start_info` or `session_end_info`."""
    found = [
        HParamsPluginData.FromString(value.metadata.plugin_data.content)
        for event in events_of(logs, trial)
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "hparams"
    ]
    return next((getattr(data, which) for data in found if data.HasField(which)), None)


def contents(logs: Path) -> dict[str, bytes]:
    return {str(path.relative_to(logs)): path.read_bytes() for path in logs.rglob("*") if path.is_file()}


def test_every_trial_has_its_curves_and_settings(tmp_path: Path) -> None:
    writer = usual(tmp_path)
    logs = write(writer)
    state = writer.state()
    assert {path.name for path in logs.iterdir()} == set(state.trials)
    for name, trial in state.trials.items():
        found = curves(logs, name)
        assert [set(values) for values in found] == [set(SCALARS)] * 4
        for key in SCALARS:
            assert [v[key] for v in found] == pytest.approx([r[key] for r in trial.records])
        steps = [(e.step, e.wall_time) for e in events_of(logs, name)[2:-1]]
        assert steps == list(enumerate(trial.reported))
    settings = dict(session(logs, "swa-0", "session_start_info").hparams.items())
    numbers = {k: settings.pop(k).number_value for k in ("lr", "swa_start", "swa_lr", "seed")}
    assert numbers == {"lr": 1e-3, "swa_start": 1, "swa_lr": 5e-4, "seed": writer.spec.seed}
    assert {k: v.string_value for k, v in settings.items()} == {"kind": "swa", "stage": "search"}
    assert "swa_lr" not in session(logs, "base-0", "session_start_info").hparams


def test_the_scores_of_every_average_are_curves_of_their_own(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.suggest("swa-0", {"lr": 1e-3, "swa_start": 1, "swa_lr": 5e-4}, average="ema-1")
    scores = {"swa": {"accuracy": 0.5, "nll": 0.25, "ece": 0.125, "members": 1, "seconds": 1.0}}
    for epoch in range(4):
        writer.epoch("swa-0", epoch, 0.5, scores=scores if epoch == 2 else None)
    logs = write(writer)
    found = curves(logs, "swa-0")
    assert [set(values) - set(SCALARS) for values in found] == [
        set(), set(), {"swa/accuracy", "swa/nll", "swa/ece"}, set(),
    ]  # fmt: skip
    assert [found[2][f"swa/{key}"] for key in ("accuracy", "nll", "ece")] == [0.5, 0.25, 0.125]
    settings = session(logs, "swa-0", "session_start_info").hparams
    assert settings["average"].string_value == "ema-1"


def test_how_a_trial_ended(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    for status in ("completed", "pruned", "failed", "interrupted", None):
        params = {"lr": 1e-3, "swa_start": 1, "swa_lr": 5e-4}
        writer.trial(f"swa-{status}", params, [0.5], status=status)
    logs = write(writer)
    ends = {s: session(logs, f"swa-{s}", "session_end_info") for s in ("completed", "pruned", "failed")}
    assert {s: end.status for s, end in ends.items()} == {"completed": 1, "pruned": 1, "failed": 2}
    for unfinished in ("swa-interrupted", "swa-None"):
        assert session(logs, unfinished, "session_end_info") is None


def test_taken_over_epochs_are_there_and_missing_numbers_are_not(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.trial("base-0", {"lr": 1e-3}, [0.5, 0.6, 0.7, 0.8])
    writer.suggest("swa-0", {"lr": 1e-3, "swa_start": 1, "swa_lr": 5e-4})
    append_event(writer.journal, "shared", trial="swa-0", epochs=2, rungs={})
    writer.start("swa-0")
    writer.epoch("swa-0", 2, 0.9, nll=None)
    found = curves(write(writer), "swa-0")
    assert [round(v["accuracy"], 3) for v in found] == [0.5, 0.6, 0.9]
    assert ["nll" in v for v in found] == [True, True, False]


def fold(writer: Writer, lines: int) -> ExperimentState:
    return ExperimentState.fold(list(read_events(writer.path))[:lines], writer.path)


def test_written_bit_by_bit_they_are_the_same_as_at_once(tmp_path: Path) -> None:
    writer = usual(tmp_path / "a")
    expected = contents(write(writer))
    lines = len(writer.path.read_text().splitlines())
    files = EventFiles()
    for count in range(1, lines + 1):
        files(fold(writer, count), tmp_path)
    assert contents(tmp_path / "tensorboard") == expected


@pytest.mark.parametrize("cut", [1, 7, 12, 13, 100, 10_000])
def test_another_session_completes_what_a_kill_left(tmp_path: Path, cut: int) -> None:
    writer = usual(tmp_path)
    writer.session(2)
    writer.trial("swa-2", {"lr": 1e-3, "swa_start": 1, "swa_lr": 6e-4}, [0.5, 0.6], status=None)
    logs = write(writer)
    expected = contents(logs)
    for name in ("swa-1", "swa-2"):
        path = logs / name / FILE
        path.write_bytes(path.read_bytes()[:-cut])
    write(writer)
    assert contents(logs) == expected


def test_epochs_that_the_journal_has_lost_go(tmp_path: Path) -> None:
    """A power cut takes the last second of the journal; these epochs are trained again."""
    writer = Writer(tmp_path)
    writer.session(2)
    writer.trial("swa-0", {"lr": 1e-3, "swa_start": 1, "swa_lr": 5e-4}, [0.5, 0.6, 0.7], status=None)
    lines = writer.path.read_bytes().splitlines(keepends=True)
    write(writer)
    writer.path.write_bytes(b"".join(lines[:-2]))
    assert [round(v["accuracy"], 3) for v in curves(write(writer), "swa-0")] == [0.5]


def test_what_an_earlier_search_of_the_name_left_goes(tmp_path: Path) -> None:
    write(usual(tmp_path))
    (tmp_path / "journal.jsonl").unlink()
    writer = Writer(tmp_path)
    writer.trial("swa-0", {"lr": 3e-3, "swa_start": 0, "swa_lr": 1e-3}, [0.1, 0.1, 0.1, 0.1])
    logs = write(writer)
    assert [path.name for path in logs.iterdir()] == ["swa-0"]
    assert [round(v["accuracy"], 3) for v in curves(logs, "swa-0")] == [0.1] * 4


def test_a_disk_that_refuses_is_tried_again(tmp_path: Path) -> None:
    writer = usual(tmp_path)
    expected = contents(write(writer))
    other = tmp_path / "other"
    files = EventFiles()
    in_the_way = other / "tensorboard" / "swa-0"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.touch()
    with pytest.raises(OSError, match="swa-0"):
        files(writer.state(), other)
    in_the_way.unlink()
    files(writer.state(), other)
    assert contents(other / "tensorboard") == expected


def test_thousands_of_trials_leave_no_file_open_and_are_not_written_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(tmp_path)
    for number in range(1200):  # more than a process may have open
        writer.suggest(f"swa-{number}", {"lr": 1e-3, "swa_start": 0, "swa_lr": 1e-3})
    files = EventFiles()
    before = len(list(Path("/proc/self/fd").iterdir()))
    files(writer.state(), tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    writer.epoch("swa-7", 0, 0.5)
    written: list[str] = []
    monkeypatch.setattr(files, "_write_events", lambda path, *_: written.append(path.parent.name))
    files(writer.state(), tmp_path)
    files(writer.state(), tmp_path)
    assert written == ["swa-7"]


def test_the_framing_is_that_of_the_format(tmp_path: Path) -> None:
    """The first record is the version, with its length before it."""
    data = (write(usual(tmp_path)) / "swa-0" / FILE).read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    assert data[12 : 12 + length].endswith(b"brain.Event:2")
