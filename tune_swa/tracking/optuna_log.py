"""Write the search as studies for Optuna's own tools, such as optuna-dashboard.

`optuna.log` is a file of Optuna's journal storage with two studies: the SWA trials of the search, and its
baselines. It is only ever appended to, since a dashboard that has it open reads on from where it was;
trials that had ended when it was begun are a line each. A later session reads only which trials it has.

The lines are written here and not by Optuna's own JournalStorage, which locks and writes the file once a
call. It adds an ended trial of 120 epochs in 4 ms, but a running one takes 3 ms for each epoch (one run of
10 trials, busy machine): about 13 minutes for 2,000 trials, where this takes seconds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path
from typing import Any

from tune_swa.config import Experiment
from tune_swa.experiment.events import Kind
from tune_swa.experiment.objective import Objective
from tune_swa.experiment.state import ExperimentState
from tune_swa.experiment.trial_state import TrialState
from tune_swa.experiment.updates import TrialUpdate, UpdateCursor
from tune_swa.files import replace_file
from tune_swa.results.comparison import best_baseline
from tune_swa.results.provenance import restore_experiment

FILE = "optuna.log"
BASELINES = "-baseline"
"""Follows the experiment's name in the name of the baselines' study."""

_KINDS: tuple[Kind, ...] = ("swa", "baseline")
"""Whose studies there are; the number of a study is its place here."""
_WRITER = "tune_swa"
"""Marks our lines; a dashboard adds others, such as notes."""


class Operation(IntEnum):
    """Kinds of lines, by their number in Optuna's format (optuna 5)."""

    CREATE_STUDY = 0
    SET_STUDY_USER_ATTR = 2
    SET_STUDY_SYSTEM_ATTR = 3
    CREATE_TRIAL = 4
    SET_TRIAL_STATE_VALUES = 6
    SET_TRIAL_INTERMEDIATE_VALUE = 7
    SET_TRIAL_USER_ATTR = 8


_RUNNING = 0
_STATES = {"completed": 1, "pruned": 2, "failed": 3}
"""Optuna's numbers of the statuses that a trial does not leave again; all else is running."""

_DIRECTIONS = {"minimize": 1, "maximize": 2}
"""Optuna's numbers of what is to be done with values."""

Line = dict[str, Any]


class StudyFile:
    """Keeps the file up to date."""

    what = "Optuna's file"

    def __init__(self) -> None:
        self._known: _Known | None = None
        """Content of the file; None: it has to be read first."""

    def __call__(self, state: ExperimentState, folder: Path) -> None:
        """Write what is new.

        Raises:
            RequestError: the journal is empty.
            OSError: the disk refused. What is missing is written the next time.
        """
        path = folder / FILE
        experiment = restore_experiment(state)
        known = self._known if path.exists() else None
        self._known = None  # unless what follows succeeds
        if known is None and state.sessions > 1:  # else it is of a search whose journal was removed
            known = _read_known(path, state)
        if known is None:
            known = _Known()
            lines = [*_study_lines(experiment), *known.new_lines(state, experiment)]
            replace_file(path, _encode_lines(lines))
        else:
            _append_lines(path, _encode_lines(known.new_lines(state, experiment)))
        self._known = known


@dataclass
class _Known:
    """Position of the file in the journal."""

    cursor: UpdateCursor = field(default_factory=UpdateCursor)
    numbers: dict[str, int] = field(default_factory=dict)
    """Number of each trial in the file, over both studies, by the trial's name."""
    baseline: str | None = None
    """The best one, as the file names it."""

    def new_lines(self, state: ExperimentState, experiment: Experiment) -> Iterator[Line]:
        """Yield what the file lacks; it counts as known from then on."""
        spaces = _encode_spaces(experiment)
        for update in self.cursor.trial_updates(state):
            if update.trial.stage != "search":
                continue
            if update.begins:
                self.numbers[update.trial.name] = len(self.numbers)
                yield _creation_line(update.trial, experiment, spaces[update.trial.kind], state.objective)
            else:
                yield from _change_lines(update, self.numbers[update.trial.name], state.objective)
        best = best_baseline(state)
        if best is not None and best.name != self.baseline:
            self.baseline = best.name
            about = {
                "trial": best.name,
                "configuration": _label_trial(best, experiment),
                state.objective.metric: state.objective.read_value(best.records[-1]),
            }
            for number in range(len(_KINDS)):
                yield _study_attribute(number, "best_baseline", about)


# ------------------------------------------------------------------------------------- the lines


def _make_line(operation: Operation, **fields: Any) -> Line:
    return {"op_code": int(operation), "worker_id": _WRITER, **fields}


def _study_lines(experiment: Experiment) -> Iterator[Line]:
    objective = Objective.of_experiment(experiment)
    for number, kind in enumerate(_KINDS):
        name = experiment.name + (BASELINES if kind == "baseline" else "")
        direction = _DIRECTIONS[objective.direction]
        yield _make_line(Operation.CREATE_STUDY, study_name=name, directions=[direction])
        names = {"study:metric_names": [objective.metric]}
        yield _make_line(Operation.SET_STUDY_SYSTEM_ATTR, study_id=number, system_attr=names)
        yield _study_attribute(number, "epochs", experiment.train.epochs)


def _study_attribute(number: int, name: str, value: Any) -> Line:
    return _make_line(Operation.SET_STUDY_USER_ATTR, study_id=number, user_attr={name: value})


_Space = dict[str, tuple[Any, str]]
"""Optuna's distribution of each parameter, and how the file writes it."""


def _encode_spaces(experiment: Experiment) -> dict[Kind, _Space]:
    from optuna.distributions import distribution_to_json

    from tune_swa.config.optuna_distributions import to_distribution

    searched = {"swa": experiment.parameters, "baseline": experiment.baseline_parameters}
    spaces: dict[Kind, _Space] = {}
    for kind in _KINDS:
        found = {p.name: to_distribution(p) for p in searched[kind]}
        spaces[kind] = {name: (d, distribution_to_json(d)) for name, d in found.items()}
    return spaces


def _creation_line(trial: TrialState, experiment: Experiment, space: _Space, objective: Objective) -> Line:
    """Create a trial with all that is known of it."""
    from tune_swa.config.optuna_distributions import encode_value

    known = {name: (*found, encode_value(trial.params[name])) for name, found in space.items()}
    attributes = {
        "trial": trial.name,
        "configuration": _label_trial(trial, experiment),
        "source": trial.source,
        "seed": trial.seed,
    }
    if trial.ended:
        attributes |= _describe_end(trial)
    values = _list_values(trial, objective)
    line = _make_line(
        Operation.CREATE_TRIAL,
        study_id=_KINDS.index(trial.kind),
        datetime_start=_format_time(trial.suggested),
        state=_STATES.get(trial.status, _RUNNING),
        value=values[0] if values else None,
        values=None,
        distributions={name: written for name, (_, written, _) in known.items()},
        params={name: d.to_internal_repr(value) for name, (d, _, value) in known.items()},
        user_attrs=attributes,
        system_attrs={},
        intermediate_values={str(r["epoch"]): objective.read_value(r) for r in trial.records},
    )
    if trial.ended:
        line["datetime_complete"] = _format_time(trial.finished)
    return line


def _change_lines(update: TrialUpdate, number: int, objective: Objective) -> Iterator[Line]:
    trial = update.trial
    for record in trial.records[update.since :]:
        yield _make_line(
            Operation.SET_TRIAL_INTERMEDIATE_VALUE,
            trial_id=number,
            step=record["epoch"],
            intermediate_value=objective.read_value(record),
        )
    if update.ends:
        for name, value in _describe_end(trial).items():
            yield _make_line(Operation.SET_TRIAL_USER_ATTR, trial_id=number, user_attr={name: value})
        yield _make_line(  # the last one: Optuna lets nobody change a trial that has ended
            Operation.SET_TRIAL_STATE_VALUES,
            trial_id=number,
            state=_STATES[trial.status],
            values=_list_values(trial, objective),
            datetime_complete=_format_time(trial.finished),
        )


def _list_values(trial: TrialState, objective: Objective) -> list[float] | None:
    """Return the objective; of a pruned trial its last value, as Optuna does."""
    if trial.status in ("completed", "pruned") and trial.last is not None:
        return [objective.read_value(trial.last)]
    return None


def _describe_end(trial: TrialState) -> dict[str, str]:
    chosen = trial.chosen_average
    return (
        {"status": trial.status}
        | ({"average": chosen} if chosen else {})
        | ({"error": trial.error} if trial.error else {})
    )


def _label_trial(trial: TrialState, experiment: Experiment) -> str:
    return experiment.format_label(trial.params, swa=trial.kind == "swa")


def _format_time(seconds: float | None) -> str:
    return datetime.fromtimestamp(seconds or 0.0, UTC).isoformat(timespec="microseconds")


# -------------------------------------------------------------------------------------- the file


def _encode_lines(lines: Iterator[Line] | list[Line]) -> bytes:
    return b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines)


def _append_lines(path: Path, data: bytes) -> None:
    """Append in one write, so that no other program's line comes between. Optuna's own lock is not taken: a
    kill would leave it behind, and the next program would wait half a minute for it."""
    if not data:
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        if os.write(descriptor, data) != len(data):
            raise OSError(f"{path}: only a part could be written")
    finally:
        os.close(descriptor)


def _read_known(path: Path, state: ExperimentState) -> _Known | None:
    """Return what an earlier session wrote; None without a file that agrees with the journal."""
    try:
        data = path.read_bytes()
        lines = [json.loads(line) for line in data.splitlines()]
        ours = [line for line in lines if line["worker_id"] == _WRITER]
        others = [line["op_code"] for line in lines if line["worker_id"] != _WRITER]
        if not data.endswith(b"\n") or {Operation.CREATE_STUDY, Operation.CREATE_TRIAL} & set(others):
            return None
        return _match_journal(ours, state)
    except (FileNotFoundError, ValueError, KeyError, TypeError, IndexError):
        return None


@dataclass
class _LoggedTrial:
    """A trial as the file has it."""

    name: str
    values: list[float]
    """The objective's metric at each epoch."""
    state: int

    def agrees(self, trial: TrialState, objective: Objective) -> bool:
        """Return whether the journal has the same trial, with these epochs and this end."""
        journalled = [objective.read_value(record) for record in trial.records[: len(self.values)]]
        ended_alike = self.state in (_RUNNING, _STATES.get(trial.status))
        return self.name == trial.name and self.values == journalled and ended_alike


def _match_journal(lines: list[Line], state: ExperimentState) -> _Known | None:
    known = _Known()
    logged: list[_LoggedTrial] = []
    for line in lines:
        match line["op_code"]:
            case Operation.CREATE_TRIAL:
                values = list(line["intermediate_values"].values())
                logged.append(_LoggedTrial(line["user_attrs"]["trial"], values, line["state"]))
            case Operation.SET_TRIAL_INTERMEDIATE_VALUE:
                logged[line["trial_id"]].values.append(line["intermediate_value"])
            case Operation.SET_TRIAL_STATE_VALUES:
                logged[line["trial_id"]].state = line["state"]
            case Operation.SET_STUDY_USER_ATTR if "best_baseline" in line["user_attr"]:
                known.baseline = line["user_attr"]["best_baseline"]["trial"]
    searched = [trial for trial in state.trials.values() if trial.stage == "search"]
    for trial, found in zip(searched, logged, strict=False):
        if not found.agrees(trial, state.objective):
            return None
        known.numbers[found.name] = len(known.numbers)
        known.cursor.mark_reported(found.name, len(found.values), ended=found.state != _RUNNING)
    return known if len(logged) == len(known.numbers) and lines else None
