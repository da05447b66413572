"""The coordinator: one line per report, decisions that survive a repeat, checkpoints that are tidied."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.journals import make_event
from tune_swa.config import Experiment
from tune_swa.errors import RequestError
from tune_swa.experiment.events import FORMAT, Event
from tune_swa.experiment.folder import choose_storage, list_differences, load_earlier_events, lock_experiment
from tune_swa.experiment.journal import read_events
from tune_swa.experiment.layout import CHECKPOINTS
from tune_swa.experiment.objective import Objective
from tune_swa.experiment.state import ExperimentState
from tune_swa.monitoring import result_writer
from tune_swa.search import event_recorder
from tune_swa.search.coordinator import Coordinator
from tune_swa.search.planner import Suggestion
from tune_swa.search.resume import replay_events

EPOCHS = 10


def experiment(**changes: Any) -> Experiment:
    return Experiment.model_validate(
        {
            "name": "x",
            "train": {"epochs": EPOCHS},
            "space": {"lr": {"choice": [1e-3, 1e-2]}, "swa_start": {"choice": [4, 6]}, "swa_lr": 1e-3},
            "search": {"sampler": "grid", **changes.pop("search", {})},
            "scheduler": {"trunk_rungs": [1, 5], **changes.pop("scheduler", {})},
            **changes,
        }
    )


FACTS: dict[str, Any] = {
    "version": "0", "numerics": {}, "hardware": {}, "versions": {},
    "data": {"fingerprint": "f", "class_names": [], "num_classes": 2, "train": 4, "val": 3, "test": 2},
}  # fmt: skip


def begin(spec: Experiment, folder: Path) -> Coordinator:
    coordinator = Coordinator(spec, folder, ExperimentState())
    coordinator.record_event(
        make_event(
            "created",
            format=FORMAT,
            spec=spec.model_dump(mode="json", by_alias=True),
            identity=spec.fixed_settings(),
            **FACTS,
        )
    )
    coordinator.record_event(make_event("session", number=1, slots=1, gpus=0, cpus=1, resumed=False))
    return coordinator


def suggest(coordinator: Coordinator) -> str:
    suggestion = coordinator.planner.next_suggestion()
    assert isinstance(suggestion, Suggestion)
    coordinator.add_trial(suggestion)
    coordinator.record_start(suggestion.trial, device="cpu", node="here", from_epoch=0, damaged=[])
    return suggestion.trial


def record(epoch: int, accuracy: float) -> dict[str, Any]:
    return {"epoch": epoch, "accuracy": accuracy, "nll": 1 - accuracy}


def play(coordinator: Coordinator, name: str, accuracy: float, epochs: int = EPOCHS) -> str:
    """Report epochs with a checkpoint each, until told to stop."""
    decision = "continue"
    for epoch in range(epochs):
        checkpoint = f"{CHECKPOINTS}/{name}/epoch-{epoch:05d}.pt"
        path = coordinator.folder / checkpoint
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"weights")
        decision = coordinator.record_epoch(name, record(epoch, accuracy), checkpoint)
        if decision == "stop":
            break
    return decision


def kept(coordinator: Coordinator) -> list[str]:
    return sorted(
        str(p.relative_to(coordinator.folder / CHECKPOINTS)) for p in coordinator.folder.rglob("*.pt")
    )


def test_a_trial_from_suggestion_to_its_end(tmp_path: Path) -> None:
    coordinator = begin(experiment(), tmp_path)
    heard: list[Event] = []
    coordinator.add_listener(lambda event, state: heard.append(event))
    name = suggest(coordinator)
    assert play(coordinator, name, 0.5) == "stop"
    trial = coordinator.state.trials[name]
    assert (trial.kind, trial.status, trial.next_epoch) == ("baseline", "completed", EPOCHS)
    assert [e["event"] for e in heard] == [
        "suggested", "started", *["epoch"] * EPOCHS, "ended", "checkpoints",
    ]  # fmt: skip
    assert heard == list(read_events(tmp_path / "journal.jsonl"))[2:]


def test_a_pruned_trial_says_where(tmp_path: Path) -> None:
    coordinator = begin(experiment(), tmp_path)
    for accuracy in (0.9, 0.8):  # the baselines of both rates
        play(coordinator, suggest(coordinator), accuracy)
    good = suggest(coordinator)
    assert play(coordinator, good, 0.9) == "stop"
    assert coordinator.state.trials[good].status == "completed"
    suggest(coordinator)
    bad = suggest(coordinator)  # on the worse trunk
    assert play(coordinator, bad, 0.8) == "stop"
    trial = coordinator.state.trials[bad]
    assert (trial.status, trial.next_epoch, trial.rungs) == ("pruned", 2, {1: "stop"})
    assert not (tmp_path / CHECKPOINTS / bad).exists()


def test_a_report_that_comes_twice_counts_once(tmp_path: Path) -> None:
    """A worker that died between saving an epoch and reporting the next repeats it."""
    coordinator = begin(experiment(), tmp_path)
    name = suggest(coordinator)
    play(coordinator, name, 0.5, epochs=3)
    before = list(read_events(tmp_path / "journal.jsonl"))
    assert coordinator.record_epoch(name, record(1, 0.7), None) == "continue"
    assert coordinator.record_epoch(name, record(2, 0.7), None) == "continue"
    assert list(read_events(tmp_path / "journal.jsonl")) == before
    assert coordinator.record_epoch(name, record(3, 0.5), None) == "continue"
    assert coordinator.state.trials[name].next_epoch == 4


def test_a_gap_in_the_epochs_fails_the_trial(tmp_path: Path) -> None:
    coordinator = begin(experiment(), tmp_path)
    name = suggest(coordinator)
    assert coordinator.record_epoch(name, record(1, 0.5), None) == "stop"
    assert coordinator.state.trials[name].error == "epoch 1 was reported, but epoch 0 never was"


def test_only_the_best_of_each_kind_keeps_its_last_checkpoint(tmp_path: Path) -> None:
    coordinator = begin(experiment(scheduler={"asha": False}, confirm={"top": 1}), tmp_path)
    names = []
    for accuracy in (0.5, 0.6, 0.7, 0.9, 0.8):
        names.append(suggest(coordinator))
        play(coordinator, names[-1], accuracy)
    assert names == ["baseline-0000", "baseline-0001", "swa-0000", "swa-0001", "swa-0002"]
    assert kept(coordinator) == ["baseline-0001/epoch-00009.pt", "swa-0001/epoch-00009.pt"]
    state = ExperimentState.read(tmp_path / "journal.jsonl")
    assert {n: t.checkpoints for n, t in state.trials.items() if t.checkpoints} == {
        "baseline-0001": ["checkpoints/baseline-0001/epoch-00009.pt"],
        "swa-0001": ["checkpoints/swa-0001/epoch-00009.pt"],
    }
    # the next session knows the best again
    resumed = Coordinator(coordinator.experiment, tmp_path, state)
    replay_events(resumed, list(read_events(tmp_path / "journal.jsonl")))
    name = suggest(resumed)
    play(resumed, name, 0.85)
    assert kept(resumed) == ["baseline-0001/epoch-00009.pt", "swa-0001/epoch-00009.pt"]


def test_whoever_may_become_a_finalist_keeps_its_last_checkpoint(tmp_path: Path) -> None:
    coordinator = begin(experiment(scheduler={"asha": False}, confirm={"top": 2}), tmp_path)
    for accuracy in (0.5, 0.6, 0.7, 0.9, 0.8):
        play(coordinator, suggest(coordinator), accuracy)
    kept_by = [name.partition("/")[0] for name in kept(coordinator)]
    assert kept_by == ["baseline-0001", "swa-0001", "swa-0002"]


def test_keep_checkpoints_all_keeps_all(tmp_path: Path) -> None:
    coordinator = begin(experiment(search={"keep_checkpoints": "all"}), tmp_path)
    name = suggest(coordinator)
    play(coordinator, name, 0.5)
    assert len(kept(coordinator)) == EPOCHS
    assert len(coordinator.state.trials[name].checkpoints) == EPOCHS


def test_a_replayed_coordinator_decides_as_the_first_one_would(tmp_path: Path) -> None:
    spec = experiment()
    first = begin(spec, tmp_path)
    for accuracy in (0.9, 0.5, 0.7):
        play(first, suggest(first), accuracy)
    events = list(read_events(tmp_path / "journal.jsonl"))
    again = Coordinator(spec, tmp_path, ExperimentState.fold(events, tmp_path))
    replay_events(again, events)
    for rung in (1, 5):
        assert again.asha.rung_values("trunk", rung) == first.asha.rung_values("trunk", rung)
    assert again.planner.next_suggestion() == first.planner.next_suggestion()


def test_a_kill_after_any_line_loses_no_end(tmp_path: Path) -> None:
    """Cut after each event: a trial whose last report ended it has ended, with the same status."""
    first = begin(experiment(), tmp_path / "whole")
    for accuracy in (0.9, 0.5, 0.9, 0.8, 0.5):
        play(first, suggest(first), accuracy)
    lines = (tmp_path / "whole" / "journal.jsonl").read_bytes().splitlines(keepends=True)
    statuses = {n: t.status for n, t in first.state.trials.items()}
    assert set(statuses.values()) == {"completed", "pruned"}
    for cut in range(2, len(lines) + 1):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / "journal.jsonl").write_bytes(b"".join(lines[:cut]))
        events = list(read_events(folder / "journal.jsonl"))
        again = Coordinator(first.experiment, folder, ExperimentState.fold(events, folder))
        replay_events(again, events)
        for trial in again.state.trials.values():
            over = trial.next_epoch == EPOCHS or trial.told_to_stop
            assert trial.status == (statuses[trial.name] if over else "running"), (cut, trial.name)
        assert ExperimentState.read(folder / "journal.jsonl").trials == again.state.trials


def test_of_equals_the_one_that_is_exported_keeps_its_checkpoint(tmp_path: Path) -> None:
    coordinator = begin(experiment(scheduler={"asha": False}, confirm={"top": 1}), tmp_path)
    names = [suggest(coordinator) for _ in range(5)]
    for name in reversed(names):  # the one that ends last is the first by name
        play(coordinator, name, 0.5)
    for kind, best in (("baseline", "baseline-0000"), ("swa", "swa-0000")):
        assert min(coordinator.state.of_kind(kind), key=Objective().rank_trial).name == best  # type: ignore[arg-type]
    assert kept(coordinator) == ["baseline-0000/epoch-00009.pt", "swa-0000/epoch-00009.pt"]


def test_a_journal_that_cannot_be_written_ends_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator = begin(experiment(), tmp_path)
    name = suggest(coordinator)
    before = (tmp_path / "journal.jsonl").read_bytes()

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    assert coordinator.record_epoch(name, record(0, 0.5), None) == "continue"
    assert coordinator.write_error is not None
    assert coordinator.record_epoch(name, record(1, 0.5), None) == "stop"
    monkeypatch.undo()
    assert (tmp_path / "journal.jsonl").read_bytes() == before
    assert coordinator.state.trials[name].next_epoch == 0  # what is not written did not happen


def test_a_display_that_fails_does_not_end_the_search(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    coordinator = begin(experiment(), tmp_path)
    heard: list[str] = []

    def broken(event: Event, state: ExperimentState) -> None:
        raise KeyError("swa_lr")

    coordinator.add_listener(broken)
    coordinator.add_listener(lambda event, state: heard.append(event["event"]))
    play(coordinator, suggest(coordinator), 0.5)
    assert heard.count("epoch") == EPOCHS
    assert caplog.text.count("a listener failed at suggested") == 1


def test_it_travels_in_rays_snapshot(tmp_path: Path) -> None:
    coordinator = begin(experiment(), tmp_path)
    coordinator.add_listener(lambda event, state: None)  # a display cannot be pickled
    assert pickle.loads(pickle.dumps(coordinator)).folder == tmp_path


@pytest.mark.parametrize("keep", ["best", "all"])
def test_checkpoints_of_trials_that_the_journal_does_not_know_are_removed(keep: str, tmp_path: Path) -> None:
    """Its damaged lines were cut off, and another configuration may get the name."""
    first = begin(experiment(search={"keep_checkpoints": keep}), tmp_path)
    names = [suggest(first) for _ in range(2)]
    for name in names:
        play(first, name, 0.5, epochs=2)
    lines = (tmp_path / "journal.jsonl").read_bytes().splitlines(keepends=True)
    until = next(i for i, line in enumerate(lines) if names[1].encode() in line)
    (tmp_path / "journal.jsonl").write_bytes(b"".join(lines[:until]))
    events = list(read_events(tmp_path / "journal.jsonl"))
    again = Coordinator(first.experiment, tmp_path, ExperimentState.fold(events, tmp_path))
    replay_events(again, events)
    assert {path.parent.name for path in tmp_path.rglob("*.pt")} <= {names[0]}
    assert suggest(again) == names[1]


def test_a_resume_finishes_the_tidying_of_a_trial_that_is_kept(tmp_path: Path) -> None:
    """A kill between its end and the removal of all states but the last one."""
    first = begin(experiment(scheduler={"asha": False}), tmp_path)
    name = suggest(first)
    play(first, name, 0.5)
    lines = (tmp_path / "journal.jsonl").read_bytes().splitlines(keepends=True)
    until = 1 + next(i for i, line in enumerate(lines) if b'"event":"ended"' in line)
    (tmp_path / "journal.jsonl").write_bytes(b"".join(lines[:until]))
    events = list(read_events(tmp_path / "journal.jsonl"))
    state = ExperimentState.fold(events, tmp_path)
    states = list(state.trials[name].checkpoints)
    assert len(states) > 1
    for file in states:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    replay_events(Coordinator(first.experiment, tmp_path, state), events)
    assert state.trials[name].checkpoints == states[-1:]
    assert [str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.pt")] == states[-1:]


def test_a_record_is_on_the_disk_before_its_file_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator = begin(experiment(scheduler={"asha": False}, confirm={"top": 1}), tmp_path)
    name = suggest(coordinator)
    play(coordinator, name, 0.5, epochs=EPOCHS - 1)
    done: list[str] = []
    fsync, keep_only = os.fsync, coordinator.store.keep_only
    monkeypatch.setattr(os, "fsync", lambda descriptor: (done.append("sync"), fsync(descriptor)))

    def removes(folder: str, kept: set[str]) -> None:
        done.append("remove")
        keep_only(folder, kept)

    monkeypatch.setattr(coordinator.store, "keep_only", removes)
    coordinator.record_epoch(name, record(EPOCHS - 1, 0.5), None)
    assert done[-2:] == ["sync", "remove"]


def test_the_last_line_reaches_the_disk_without_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator = begin(experiment(), tmp_path)
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    coordinator.sync_journal()
    assert synced == []  # in the last second
    monkeypatch.setattr(event_recorder, "SYNC_SECONDS", 0.0)
    coordinator.sync_journal()
    coordinator.sync_journal()
    assert len(synced) == 1


# -------------------------------------------------------------------------------- predictions

METRICS = {"accuracy": 0.5, "nll": 1.0}


def _archive() -> bytes:
    """Predictions of a run for two images."""
    shares = {name: np.full(2, 0.5) for name in ("probability", "confidence", "nll", "brier")}
    file = io.BytesIO()
    named = {f"shipped.{name}": values for name, values in {"predicted": np.array([0, 0]), **shares}.items()}
    np.savez_compressed(file, label=np.array([0, 1]), **named)
    return file.getvalue()


ARCHIVE = _archive()


@pytest.mark.parametrize("left", [None, b"", b"torn"])
def test_a_run_whose_predictions_are_lost_is_not_tested(left: bytes | None, tmp_path: Path) -> None:
    first = begin(experiment(), tmp_path)
    names = [suggest(first) for _ in range(2)]
    for name in names:
        first.record_test(name, images=2, shipped=METRICS, refreshed=None, predictions=ARCHIVE)
    lost = tmp_path / "predictions" / f"{names[0]}.npz"
    lost.unlink()
    if left is not None:
        lost.write_bytes(left)
    events = list(read_events(tmp_path / "journal.jsonl"))
    again = Coordinator(first.experiment, tmp_path, ExperimentState.fold(events, tmp_path))
    [told] = replay_events(again, events)
    assert told.startswith(f"{lost}: the predictions on the test images cannot be read (")
    assert f"{names[0]} does not count as tested" in told
    read = ExperimentState.read(tmp_path / "journal.jsonl").trials
    assert [read[name].tested is None for name in names] == [True, False]
    again.record_test(names[0], images=2, shipped=METRICS, refreshed=None, predictions=ARCHIVE)
    assert lost.read_bytes() == ARCHIVE
    assert again.state.trials[names[0]].tested is not None


def test_predictions_reach_the_disk_before_the_line_that_relies_on_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator = begin(experiment(), tmp_path)
    name = suggest(coordinator)
    synced: list[str] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    coordinator.record_test(name, images=2, shipped=METRICS, refreshed=None, predictions=ARCHIVE)
    assert synced[0].startswith(f".{name}.npz")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    coordinator.record_test(
        suggest(coordinator), images=2, shipped=METRICS, refreshed=None, predictions=ARCHIVE
    )
    assert coordinator.write_error is not None
    assert coordinator.write_error.filename.endswith(
        "/predictions/baseline-0001.npz"
    )  # the journal is not to blame


def test_results_that_cannot_be_made_do_not_end_the_search(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    for error in (RequestError("x.npz: cannot be read"), KeyError("odd"), OSError(28, "No space left")):

        def export(*_: object, error: Exception = error) -> None:
            tried.append(repr(error))
            raise error

        monkeypatch.setattr(result_writer, "write_tables", export)
        writer = result_writer.ResultWriter(tmp_path)
        writer(make_event("made up"), ExperimentState())
        writer.tick(ExperimentState())
        assert caplog.text.count("the result files could not be refreshed") == len(tried)
    assert len(tried) == 3


# -------------------------------------------------------------------------- the experiment's folder


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        lock_experiment(tmp_path / "x"),
        pytest.raises(RequestError, match=rf"another search is writing to it \(process {os.getpid()}\)"),
        lock_experiment(tmp_path / "x"),
    ):
        pass
    assert not (tmp_path / "x").exists()  # nothing was begun, so nothing is left


def test_starting_over_and_resuming_nothing_are_refused(tmp_path: Path) -> None:
    spec = experiment()
    with pytest.raises(RequestError, match="there is no search to resume"):
        load_earlier_events(tmp_path, spec, resume=True)
    assert load_earlier_events(tmp_path, spec, resume=False) == ([], ExperimentState())
    begin(spec, tmp_path)
    with pytest.raises(
        RequestError, match="there is a search of this name already. Continue it with --resume"
    ):
        load_earlier_events(tmp_path, spec, resume=False)
    assert len(load_earlier_events(tmp_path, spec, resume=True)[0]) == 2


def test_a_changed_space_is_refused_and_named(tmp_path: Path) -> None:
    begin(experiment(), tmp_path)
    with pytest.raises(RequestError, match=r"train\.epochs: was 10, is 12"):
        load_earlier_events(tmp_path, experiment(train={"epochs": 12}), resume=True)
    # trials, resources and confirm may change
    changed = experiment(search={"trials": 2}, resources={"cpus_per_trial": 2}, confirm={"seeds": 7})
    assert load_earlier_events(tmp_path, changed, resume=True)[0]


def test_the_storage_is_found_again_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    monkeypatch.chdir(here)
    begun = choose_storage(ExperimentState(), "shared", tmp_path)
    assert begun == f"{here}/shared"
    held = here / "shared" / tmp_path.name
    held.mkdir(parents=True)
    for place in (held, tmp_path):  # which the search has left there
        (place / "space.yaml").write_text("name: x\n")
    state = ExperimentState(sessions=1, storage=begun)
    monkeypatch.chdir(there)
    for given in (None, "../here/shared", f"{here}/shared/"):
        assert choose_storage(state, given, tmp_path) == begun
    with pytest.raises(RequestError, match=f"--storage shared: the checkpoints .* are in {begun}"):
        choose_storage(state, "shared", tmp_path)
    own = ExperimentState(sessions=1)
    assert choose_storage(own, None, tmp_path) is None
    with pytest.raises(RequestError, match=f"--storage shared: the checkpoints .* are in {tmp_path}"):
        choose_storage(own, "shared", tmp_path)


def test_differences() -> None:
    assert list(list_differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3, "d": 4}})) == [
        "a.c: was 2, is 3",
        "a.d: was not set, is 4",
    ]


def test_a_journal_torn_in_its_first_line_is_a_new_search(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_text('{"event":"crea')
    assert load_earlier_events(tmp_path, experiment(), resume=True) == ([], ExperimentState())
