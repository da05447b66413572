"""Write the curves and settings of all trials for TensorBoard.

Each trial has a folder with one event file, which is a function of the journal: the file's version,
the trial's settings, its epochs, and how it ended, in this order. So a running search appends to it, and a
later session overwrites the file of a trial that has not ended with the same bytes: TensorBoard reads on
from where it was, and nothing is shown twice.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.message import Message
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c

from tune_swa.config import Experiment, format_value
from tune_swa.experiment.state import ExperimentState
from tune_swa.experiment.trial_state import TrialState
from tune_swa.experiment.updates import TrialUpdate, UpdateCursor
from tune_swa.results.provenance import restore_experiment
from tune_swa.tracking.base import describe_settings, select_scalars

FOLDER = "tensorboard"
"""Inside the experiment's folder; `tensorboard --logdir` takes it."""
FILE = "events.out.tfevents.tune_swa"
"""TensorBoard reads every file that has `tfevents` in its name."""

_FRAME = 3
"""Records besides the epochs of a trial that has ended: version, settings, end."""
_LENGTH, _CHECK = struct.Struct("<Q"), struct.Struct("<I")

# numbers of the HPARAMS tab's protocol (Status in tensorboardX's api.proto)
_SUCCESS, _FAILURE = 1, 2


class EventFiles:
    """Keeps the event files of all trials up to date. No file stays open between two updates."""

    what = "TensorBoard's files"

    def __init__(self) -> None:
        self._cursor = UpdateCursor()
        self._begun = False
        self._sizes: dict[str, int] = {}
        """Bytes of each trial's file that this session has written."""

    def __call__(self, state: ExperimentState, folder: Path) -> None:
        """Write what is new.

        Raises:
            RequestError: the journal is empty.
            OSError: the disk refused. What is missing is written the next time.
        """
        experiment = restore_experiment(state)
        logs = folder / FOLDER
        if not self._begun:
            _remove_strangers(logs, state)
            for trial in state.trials.values():
                if trial.ended and _count_records(logs / trial.name / FILE) == _FRAME + len(trial.records):
                    self._cursor.mark_reported(trial.name, len(trial.records), ended=True)
            self._begun = True
        for update in self._cursor.trial_updates(state):
            data = b"".join(_frame_event(event) for event in _make_events(update, experiment))
            self._write_events(logs / update.trial.name / FILE, data, self._sizes.get(update.trial.name, 0))
            self._sizes[update.trial.name] = self._sizes.get(update.trial.name, 0) + len(data)

    @staticmethod
    def _write_events(path: Path, data: bytes, at: int) -> None:
        """Replace what the file has from `at` on, normally by the same bytes (see above)."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        with path.open("r+b") as file:
            file.seek(at)
            file.write(data)
            file.truncate()


def _remove_strangers(logs: Path, state: ExperimentState) -> None:
    """Remove files of an earlier search of this name, whose journal was removed."""
    for file in logs.glob(f"*/{FILE}"):
        if state.sessions <= 1 or file.parent.name not in state.trials:
            file.unlink()
            if not any(file.parent.iterdir()):
                file.parent.rmdir()


def _count_records(path: Path) -> int | None:
    """Count the records of a file; None where it is missing or ends in the middle of one.

    Encoding the trials of a long search again takes seconds, counting does not.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    at = count = 0
    while at + _LENGTH.size <= len(data):
        at += _LENGTH.unpack_from(data, at)[0] + _LENGTH.size + 2 * _CHECK.size
        count += 1
    return count if at == len(data) else None


# ------------------------------------------------------------------------------------ the events


def _make_events(update: TrialUpdate, experiment: Experiment) -> Iterator[Event]:
    trial = update.trial
    if update.begins:
        yield Event(wall_time=trial.suggested, file_version="brain.Event:2")
        yield _describe_settings(trial, experiment)
    for record, time in zip(trial.records[update.since :], trial.reported[update.since :], strict=True):
        scalars = select_scalars(record, trial)
        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        yield Event(wall_time=time, step=record["epoch"], summary=Summary(value=values))
    if update.ends:
        status = _FAILURE if trial.status == "failed" else _SUCCESS
        end = HParamsPluginData(session_end_info={"status": status, "end_time_secs": trial.finished})
        yield _hparams_event("_hparams_/session_end_info", end, trial.finished)


def _describe_settings(trial: TrialState, experiment: Experiment) -> Event:
    """Return the trial's settings for the HPARAMS tab, which takes its results from the curves."""
    about = HParamsPluginData()
    about.session_start_info.start_time_secs = trial.suggested or 0.0
    for name, value in describe_settings(trial, experiment).items():
        target = about.session_start_info.hparams[name]
        if isinstance(value, bool):
            target.bool_value = value
        elif isinstance(value, int | float):
            target.number_value = value
        else:
            target.string_value = format_value(value)
    return _hparams_event("_hparams_/session_start_info", about, trial.suggested)


def _hparams_event(tag: str, content: HParamsPluginData, time: float | None) -> Event:
    plugin = {"plugin_name": "hparams", "content": content.SerializeToString(deterministic=True)}
    value = Summary.Value(tag=tag, metadata={"plugin_data": plugin})
    return Event(wall_time=time, summary=Summary(value=[value]))


def _frame_event(event: Message) -> bytes:
    """Return a record of the file: length, its checksum, the event, its checksum."""
    data = event.SerializeToString(deterministic=True)
    length = _LENGTH.pack(len(data))
    return b"".join((length, _checksum(length), data, _checksum(data)))


def _checksum(data: bytes) -> bytes:
    return _CHECK.pack(masked_crc32c(data))
