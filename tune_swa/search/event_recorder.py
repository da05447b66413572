"""Record the events of a search: write them to the journal, fold them, pass them to listeners."""

from __future__ import annotations

import logging
from base64 import b64decode
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from msgspec import UNSET

from tune_swa.experiment.events import Event, TrialEnded, TrialStarted, TrialTested, WorkerLost
from tune_swa.experiment.field_types import Metrics, convert_checked
from tune_swa.experiment.journal import SYNC_SECONDS, Journal
from tune_swa.experiment.layout import PREDICTIONS
from tune_swa.experiment.merge_events import MergeTested
from tune_swa.experiment.state import ExperimentState
from tune_swa.storage import FolderStore

logger = logging.getLogger(__name__)

Listener = Callable[[Event, ExperimentState], None]


class EventRecorder:
    """The one writer of an experiment's journal.

    Args:
        folder: the experiment's folder.
        state: the fold of what the journal already holds.
    """

    def __init__(self, folder: Path, state: ExperimentState) -> None:
        self.folder = folder
        self.state = state
        self.journal = Journal(folder / "journal.jsonl")
        self.write_error: OSError | None = None
        """Why nothing can be recorded any more; ends the search. Names the file, if not the journal."""
        self.halt_reason: str | None = None
        """Why a worker's machine cannot go on; ends the search."""
        self._listeners: list[Listener] = []

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the listeners: Ray pickles this into a snapshot that is never read."""
        return {**self.__dict__, "_listeners": []}

    def add_listener(self, listener: Listener) -> None:
        """Call `listener(event, state)` after each event from now on."""
        self._listeners.append(listener)

    def record_event(self, event: Event) -> None:
        """Write one event. After a write error nothing more is written and `write_error` is set."""
        if self.write_error is not None:
            return
        try:
            self.journal.append(event)
        except OSError as error:
            self.write_error = error
            return
        self.apply_event(event)
        for listener in list(self._listeners):
            try:
                listener(event, self.state)
            except Exception:  # a display that fails must not end a search of days
                self._listeners.remove(listener)
                logger.exception("a listener failed at %s and is not called any more", event.event)

    def apply_event(self, event: Event) -> None:
        """Take in an event that was written."""
        self.state.apply(event)

    def record_start(
        self,
        name: str,
        *,
        device: str,
        node: str,
        from_epoch: int,
        damaged: list[str],
        retried: str | None = None,
    ) -> None:
        """Record that a worker begins or continues a trial.

        Args:
            name: the trial.
            device: what it runs on.
            node: the machine's name.
            from_epoch: the first epoch that it trains.
            damaged: why newer checkpoints than the one it goes on from could not be used.
            retried: why the same process begins it again, with streamed images; None: it does not.
        """
        for reason in damaged:
            logger.warning("%s: %s", name, reason)
        if retried is not None:
            logger.warning(
                "%s: GPU memory was exhausted (%s); it goes on with streamed images", name, retried
            )
        attempt = self.state.trials[name].attempts + 1
        self.record_event(
            TrialStarted(
                trial=name,
                device=device,
                node=node,
                attempt=attempt,
                from_epoch=from_epoch,
                damaged=damaged,
                retried=retried,
            )
        )

    def record_test(
        self,
        name: str,
        *,
        images: int,
        shipped: dict[str, float],
        refreshed: dict[str, float] | None,
        predictions: bytes,
        averages: dict[str, Any] | None = None,
    ) -> None:
        """Record what a run on a fresh seed does on the test images; a repetition changes nothing.

        Args:
            name: the trial.
            images: how many there are.
            shipped: metrics of the model that one would ship.
            refreshed: of a baseline with its batch-normalisation statistics refreshed.
            predictions: file with each model's predictions of each image.
            averages: metrics of the averages that the run observed, by their labels.
        """
        trial = self.state.trials[name]
        if trial.tested is not None or trial.ended or self.is_stopping:
            return
        if not self._write_predictions(name, predictions):
            return
        tested = TrialTested(trial=name, images=images, shipped=shipped, refreshed=refreshed)
        tested.averages = averages or UNSET
        self.record_event(tested)

    def record_merge_test(
        self,
        merge: str,
        seed: int,
        members: Sequence[str],
        *,
        images: int,
        validation: dict[str, Any],
        shipped: dict[str, Any],
        predictions: str,
    ) -> None:
        """Record what a recipe gave on a fresh seed; a repetition changes nothing.

        Args:
            merge: its label.
            seed: of the runs.
            members: names of the runs.
            images: how many test images there are.
            validation: metrics on the validation images.
            shipped: metrics on the test images.
            predictions: file with the predictions of each of these, in base64.
        """
        tested = MergeTested(
            merge=merge,
            seed=seed,
            members=list(members),
            images=images,
            validation=convert_checked(validation, Metrics),
            shipped=convert_checked(shipped, Metrics),
        )
        if tested.run in self.state.tested_merges or self.is_stopping:
            return
        if self._write_predictions(tested.run, b64decode(predictions)):
            self.record_event(tested)

    def _write_predictions(self, name: str, predictions: bytes) -> bool:
        """Write a file of predictions before the line that relies on it; return whether the disk took it."""
        file = f"{PREDICTIONS}/{name}.npz"
        try:
            FolderStore(self.folder).write(file, lambda path: path.write_bytes(predictions))
        except OSError as error:
            error.filename = str(self.folder / file)
            self.write_error = error
        return self.write_error is None

    def record_lost_gpu(self, name: str | None, *, device: str, node: str, reason: str) -> None:
        """Record that a process cannot use its GPU any more and ends itself.

        Args:
            name: the trial that Ray will go on with in another process; None: it had none.
            device: the GPU.
            node: the machine's name.
            reason: the error.
        """
        logger.warning("%s on %s: a worker cannot use its GPU any more: %s", device, node, reason)
        self.record_event(WorkerLost(trial=name, device=device, node=node, reason=reason))

    def interrupt_trials(self) -> None:
        """Record that the trials that were running go on after a resume."""
        for trial in list(self.state.trials.values()):
            if trial.status == "running":
                self.record_event(TrialEnded(trial=trial.name, status="interrupted", value=None, error=None))

    def halt_search(self, reason: str) -> None:
        """End the search: a machine cannot go on. The trials that run now go on after a resume.

        Where the folder was moved, a worker often meets it first; the journal can say where it is now.
        """
        if self.halt_reason is None and self.sync_journal():
            self.halt_reason = reason
            logger.error("the search stops: %s", reason)

    @property
    def is_stopping(self) -> bool:
        """Whether the search has to end for a reason that no trial is to blame for."""
        return self.write_error is not None or self.halt_reason is not None

    def sync_journal(self, older: float | None = None) -> bool:
        """Have the journal reach the disk, unless that was done in the last `older` seconds.

        Args:
            older: default: as many as a power cut may cost.

        Returns:
            Whether everything could be written so far.
        """
        if self.write_error is None:
            try:
                self.journal.sync(older=SYNC_SECONDS if older is None else older)
            except OSError as error:
                self.write_error = error
        return self.write_error is None

    def close(self) -> None:
        """Close the journal."""
        self.journal.close()
