"""Finish a search: write the results and the best model, and report what stopped it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from tune_swa.data.dataset import Dataset
from tune_swa.errors import Interrupted, SearchFailed
from tune_swa.execution.best_model import MERGED_WEIGHTS, export_best, export_merged
from tune_swa.execution.request import Outcome, Request, print_note
from tune_swa.experiment.events import SearchFinished
from tune_swa.experiment.moved_journal import JournalMovedError
from tune_swa.experiment.state import ExperimentState
from tune_swa.experiment.trial_state import TrialState
from tune_swa.monitoring.result_writer import ResultWriter
from tune_swa.results.comparison import best_trial
from tune_swa.search.coordinator import Coordinator
from tune_swa.training.checkpoint import CheckpointError


def finish_search(
    request: Request,
    coordinator: Coordinator,
    data: Dataset,
    result_writer: ResultWriter,
    *,
    interrupted: bool,
) -> Outcome:
    """Record the end, write the result files and the model.

    Raises:
        SearchFailed: no trial completed, a machine cannot go on, or the results cannot be written.
        Interrupted: a signal ended the search; the results so far are written.
    """
    coordinator.interrupt_trials()
    coordinator.retention.remove_stray_states()
    state = coordinator.state
    best = best_trial(state)
    if coordinator.halt_reason is not None:
        with suppress(OSError):  # perhaps it is this disk that is full
            result_writer.write_all(state)
        raise SearchFailed(
            f"the search stopped: {coordinator.halt_reason}. What was done is kept; put that right, then "
            "continue with --resume"
        )
    if not interrupted:
        coordinator.record_event(SearchFinished(reason="completed" if best else "no trial completed"))
    check_recorded(coordinator)
    for line in coordinator.merging.describe_failures():
        print_note(request, line)
    _write_results(request, state, best, data, result_writer)
    if interrupted:
        raise Interrupted("interrupted")
    if best is None:
        reasons = [trial.error for trial in state.trials.values() if trial.error]
        first = f" The first reason: {reasons[0]}" if reasons else ""
        raise SearchFailed(f"no trial of {request.experiment.name} completed.{first}")
    return Outcome(request.folder, state, best.name)


def check_recorded(coordinator: Coordinator) -> None:
    """Check that everything so far is in the journal, and the journal where it was.

    Raises:
        SearchFailed: it is not.
    """
    refused = coordinator.write_error
    if refused is None:
        return
    if isinstance(refused, JournalMovedError):
        raise SearchFailed(f"the search stopped. {refused}")
    raise SearchFailed(
        f"the search stopped because {refused.filename or coordinator.journal.path} cannot be written: "
        f"{refused.strerror or refused}. What was written is intact; free space or restore access, then "
        "continue with --resume"
    )


def _write_results(
    request: Request,
    state: ExperimentState,
    best: TrialState | None,
    data: Dataset,
    result_writer: ResultWriter,
) -> None:
    """Write the result files and the model of `best`.

    Raises:
        SearchFailed: the disk refuses, or the checkpoint of the model cannot be used.
    """
    try:
        result_writer.write_all(state)
        if best is not None and best.checkpoints:
            preprocessing = _describe_preprocessing(request, data)
            export_best(best, state, request.experiment, request.folder, request.store, preprocessing)
            _write_merged(request, state, preprocessing)
            result_writer.mirror_files()
    except CheckpointError as error:
        assert best is not None
        raise SearchFailed(
            f"the results are written, but not the model of {best.name}: its checkpoint in "
            f"{request.store.where}/{Path(best.checkpoints[-1]).parent} cannot be used ({error}). Restore "
            "that file, then write the model with --resume"
        ) from None
    except OSError as error:
        raise SearchFailed(
            f"the trials are done and recorded, but the results cannot be written: {error}. Free space or "
            "restore access, then write them again with --resume"
        ) from None


def _write_merged(request: Request, state: ExperimentState, preprocessing: dict[str, Any]) -> None:
    """Write the best model of each merge; weights that cannot be used spoil nothing else."""
    experiment, folder, store = request.experiment, request.folder, request.store
    for method, file in MERGED_WEIGHTS.items():
        try:
            export_merged(method, state, experiment, folder, store, preprocessing)
        except CheckpointError as error:
            print_note(
                request,
                f"{file} is not written: the weights in {store.where} cannot be used ({error}). Restore that "
                "file, then write the model with --resume",
            )


def _describe_preprocessing(request: Request, data: Dataset) -> dict[str, Any]:
    """Describe what has to be done to an image before the model sees it."""
    images = request.experiment.data
    return {
        "image_size": images.image_size,
        "resize": images.resize,
        "exif_rotation": images.exif_rotation,
        "grey_bits": images.grey_bits,
        "scale": "RGB in [0, 1] (torchvision's ToTensor)",
        "mean": list(data.mean),
        "std": list(data.std),
    }
