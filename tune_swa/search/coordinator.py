"""The one writer of the journal: records what happens, decides what a report leads to.

Ray calls the scheduler before the searcher and the callbacks, and swallows part of what callbacks
raise. So everything that must not be lost passes here first, in the driver, as the scheduler is
called; whoever else wants to know listens.
"""

from __future__ import annotations

import logging
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from optuna.exceptions import OptunaError

from tune_swa.config import Experiment, params_key
from tune_swa.errors import RequestError
from tune_swa.experiment.events import Event, Stage, Stop
from tune_swa.experiment.journal import SYNC_SECONDS, Journal
from tune_swa.experiment.layout import CHECKPOINTS, PREDICTIONS, TRUNKS, state_name
from tune_swa.experiment.state import ExperimentState
from tune_swa.experiment.trial_state import TrialState, ranking
from tune_swa.results.look_evaluation import evaluate_look
from tune_swa.results.predictions import SHIPPED, read_predictions
from tune_swa.search.asha import PhaseAsha
from tune_swa.search.confirmation import ConfirmPlanner, Step, last_step, next_step
from tune_swa.search.proposer import Planner, Proposer, Suggestion
from tune_swa.search.trunk_names import TrunkNamer
from tune_swa.search.trunk_sharing import TrunkSharing
from tune_swa.storage import FolderStore, Store

logger = logging.getLogger(__name__)

Listener = Callable[[Event, ExperimentState], None]
Decision = Literal["continue", "stop"]


class Coordinator:
    """Writes events, folds them, and tells the listeners.

    Args:
        experiment: the settings.
        folder: the experiment's folder.
        state: the fold of what the journal already holds.
        store: where the trials keep their checkpoints; default: the experiment's folder.
        namer: names trunks; default: by their settings alone.
        confirm: whether fresh seeds follow the search.
    """

    def __init__(
        self,
        experiment: Experiment,
        folder: Path,
        state: ExperimentState,
        store: Store | None = None,
        namer: TrunkNamer | None = None,
        *,
        confirm: bool = False,
    ) -> None:
        self.experiment = experiment
        self.folder = folder
        self.store = store or FolderStore(folder)
        self.state = state
        self.journal = Journal(folder / "journal.jsonl")
        self.proposer: Planner = Proposer(experiment)
        self.step: Step | None = None
        """What is run on fresh seeds, once that has begun: a round of the race, or what a look asks for."""
        self._confirm = confirm
        self._confirmed = False
        """Whether nothing more is to be run on fresh seeds."""
        self.asha = PhaseAsha(
            experiment.scheduler, experiment.train.epochs, experiment.every_trunk_has_a_baseline
        )
        self.namer = namer or TrunkNamer.plain()
        self.sharing: TrunkSharing | None = None
        if experiment.search.share:
            self.sharing = TrunkSharing(experiment, self.namer, state, self.proposer, self.asha)
        self.write_error: OSError | None = None
        """Why nothing can be recorded any more; ends the search. Names the file, if not the journal."""
        self.halt_reason: str | None = None
        """Why a worker's machine cannot go on; ends the search."""
        self._released = False
        """Whether every trunk was looked through since the last suggestion of the stage's sampler."""
        self.lost_files: list[str] = []
        """What a replay has found to be lost, a line each."""
        self._listeners: list[Listener] = []
        self._best: dict[object, list[str]] = {}
        """Trials whose last state is kept, the best first, by the group that they are compared in."""
        for trial in state.trials.values():
            if trial.status == "completed":
                self._rank(trial)

    def add_listener(self, listener: Listener) -> None:
        """Call `listener(event, state)` after each event from now on."""
        self._listeners.append(listener)

    def replay_events(self, events: list[Event]) -> None:
        """Rebuild the study and the rungs from the events of the sessions before.

        Raises:
            RequestError: a trial is none that this space has, or that its sampler would propose.
        """
        for number, event in enumerate(events, start=1):
            try:
                if event["event"] == "suggested":
                    self.experiment.run_settings(event["kind"], self.state.trials[event["trial"]].params)
                self._learn(event)
            except (ValueError, KeyError, TypeError, IndexError, OptunaError) as error:
                raise RequestError(
                    f"{self.journal.path}:{number}: this event does not fit the space of the search "
                    f"({error}). Restore the journal from a copy, or give --name to start a new experiment"
                ) from None
            if event["event"] == "epoch":
                record = event["record"]
                self.asha.judge_epoch(self.state.trials[event["trial"]], record["epoch"], record["accuracy"])
            elif event["event"] == "shared":
                self._judge_shared(self.state.trials[event["trial"]], event["epochs"])
        self._leave_out_untested()
        self._close_finished()

    def _leave_out_untested(self) -> None:
        """A run whose predictions are lost does not count as tested; it is tested again if it goes on."""
        for trial in self.state.trials.values():
            if trial.tested is None:
                continue
            path = self.folder / PREDICTIONS / f"{trial.name}.npz"
            try:
                with zipfile.ZipFile(path) as archive:
                    damaged = archive.testzip()
                reason = f"{damaged} is damaged" if damaged else None
            except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            if reason is not None:
                self.lost_files.append(
                    f"{path}: the predictions on the test images cannot be read ({reason}), so {trial.name} "
                    "does not count as tested. To have it count, restore the file and the journal from copies"
                )
                self.record_event("untested", trial=trial.name, reason=reason)

    def _learn(self, event: Event) -> None:
        self.proposer.apply_event(event)
        if event["event"] == "shared":
            for record in self.state.trials[event["trial"]].records[: event["epochs"]]:
                self.proposer.report_value(event["trial"], record["epoch"], record["accuracy"])

    def _close_finished(self) -> None:
        """End the trials whose last report ended them, if a kill came before that was written."""
        for trial in list(self.state.trials.values()):
            if trial.ended or trial.last is None:
                continue
            if trial.next_epoch == self.experiment.train.epochs:
                self._end(trial, "completed", trial.last["accuracy"])
            elif trial.told_to_stop:
                self._end(trial, "pruned", None)
        if self._searched:  # whoever is still to come says what has to stay
            self._go_on_with_step()
        # and finish what the kill left of the tidying: of records first, then of files without any
        for name in self.store.folders(CHECKPOINTS):
            # of trials whose lines were cut off the journal: others may get their names
            if name not in self.state.trials:
                with self._litter_is_harmless():
                    self.store.keep_only(f"{CHECKPOINTS}/{name}", set())
        if self.experiment.search.keep_checkpoints == "best":
            kept = {name for names in self._best.values() for name in names}
            for trial in self.state.trials.values():
                needless = trial.checkpoints[: -1 if trial.name in kept else None]
                if trial.ended and needless and not trial.may_reopen(self._stage):
                    self._remove(trial, needless)
            for name in self.store.folders(CHECKPOINTS):
                known = self.state.trials.get(name)
                if known is not None and known.ended:
                    self._remove(known, [])
        for trunk in self.state.trunks:
            self._collect(trunk)
        self.remove_stray_states()

    @property
    def _searched(self) -> bool:
        """Whether the search stage has nothing more to do."""
        planner = self.proposer
        left = planner.draws_more() or any(True for _ in planner.unsuggested_trials())
        return not left and all(t.ended for t in self.state.trials.values() if t.stage == "search")

    def _go_on_with_step(self) -> None:
        if not self._confirm:
            return
        step = next_step(self.experiment, self.state, self._judge)
        if step is not None and step.is_recorded(self.state) and not self.is_stopping:
            self._begin(step)

    @property
    def may_confirm(self) -> bool:
        """Whether something may follow when the present stage has nothing more to suggest."""
        return self._confirm and not self._confirmed and not self.is_stopping

    def begin_next_step(self) -> bool:
        """Begin what follows the search, or the runs on fresh seeds so far, where that is wanted.

        To be called when there is nothing to suggest and nobody runs.

        Returns:
            Whether there is something to run.
        """
        if not self.may_confirm:
            return False
        step = next_step(self.experiment, self.state, self._judge)
        if step is None:
            self._confirmed = not self.is_stopping
            return False
        if not self.is_stopping and not step.is_recorded(self.state):
            self.record_event(step.event, **step.fields())
        if self.is_stopping:
            return False
        self._begin(step)
        return True

    def _judge(self, event: Event) -> Stop | None:
        """Judge a look that has ended, once: what was recorded stands."""
        look = event["look"]
        if look not in self.state.stops:
            try:
                predictions = read_predictions(self.state, self.folder)
            except RequestError as error:
                self.halt_search(str(error))
                return None
            correct = {name: models[SHIPPED].correct for name, models in predictions.items()}
            self.record_event("judged", look=look, stop=evaluate_look(self.state, event, correct).stop)
        return self.state.stops.get(look)

    def _begin(self, step: Step) -> None:
        self.step = step
        self.proposer = ConfirmPlanner(step, self.state)
        self._released = False
        if self.sharing is not None:
            self.sharing = TrunkSharing(
                self.experiment,
                self.namer,
                self.state,
                self.proposer,
                self.asha,
                recur=False,
                stage=self._stage,
            )
        # a choice has been made: what failed for memory before that is not tried again
        for trial in list(self.state.trials.values()):
            if trial.exhausted is not None:
                self._tidy_ended(trial)

    @property
    def _stage(self) -> Stage:
        """The present one."""
        return "search" if self.step is None else self.step.stage

    def retry_exhausted(self, share: float) -> list[str]:
        """Reopen the trials that failed because GPU memory was exhausted, if trials have more of it now.

        Those of the search, until runs on fresh seeds have begun, or have to begin anew because the search
        goes on; of these runs after that. To be called after `replay_events`.

        Args:
            share: of a GPU that each trial has in this session.

        Returns:
            Their names; `unfinished_trials` has them now.
        """
        names = None
        last = last_step(self.state) if self._searched else None
        if self.step is not None:
            names = set(self.step.names)
        elif last is not None:
            names = set(last.names) if self._confirm else set()
        again = [
            trial.name
            for trial in self.state.trials.values()
            if trial.exhausted is not None
            and trial.exhausted < share
            and (trial.stage == "search" if names is None else trial.name in names)
        ]
        for name in again:
            self.record_event("reopened", trial=name)
        return again

    def unfinished_trials(self) -> list[str]:
        """Trials of the present stage that have begun and not ended, oldest first."""
        names = set(self.step.names) if self.step else None
        return [
            trial.name
            for trial in self.state.trials.values()
            if not trial.ended and (trial.stage == "search" if names is None else trial.name in names)
        ]

    def record_event(self, event: str, **fields: Any) -> None:
        """Write one event. After a write error nothing more is written and `write_error` is set."""
        if self.write_error is not None:
            return
        try:
            entry = self.journal.append(event, **fields)
        except OSError as error:
            self.write_error = error
            return
        self.state.apply(entry)
        self._learn(entry)
        for listener in list(self._listeners):
            try:
                listener(entry, self.state)
            except Exception:  # a display that fails must not end a search of days
                self._listeners.remove(listener)
                logger.exception("a listener failed at %s and is not called any more", event)

    def add_trial(self, suggestion: Suggestion) -> None:
        """Record that a configuration becomes a trial."""
        settings = self.experiment.run_settings(suggestion.kind, suggestion.params, suggestion.seed)
        self.record_event(
            "suggested",
            trial=suggestion.trial,
            kind=suggestion.kind,
            stage=suggestion.stage,
            params=suggestion.params,
            seed=settings.seed,
            source=suggestion.source,
            index=suggestion.index,
            trunk=self.namer.name(settings),
            first_average=settings.fork_epoch,
        )

    def take_over_trunk(self, name: str) -> bool:
        """Give a trial that begins the epochs of its trunk that others trained.

        Returns:
            Whether there is still something to do: it ends here if its trunk was found too low, or
            diverges before the trial leaves it.
        """
        trial = self.state.trials[name]
        if self.sharing is None or trial.ended or trial.records:
            return not trial.ended
        epochs = self.sharing.count_shared_epochs(trial)
        diverged = self.sharing.find_divergence(trial.trunk, trial.fork_epoch)
        if epochs == 0 and diverged is None:
            return True
        stopped: list[int] = []
        if epochs > 0:
            rungs = self._judge_shared(trial, epochs)
            stopped = [rung for rung, decision in rungs.items() if decision == "stop"]
            self.record_event("shared", trial=name, epochs=stopped[0] + 1 if stopped else epochs, rungs=rungs)
        if stopped:
            self._end(trial, "pruned", None)
        elif diverged is not None:
            _, found_by, reason = diverged
            self.fail_trial(name, f"{reason} (found by {found_by}, which has the same trunk)")
        return not trial.ended

    def _judge_shared(self, trial: TrialState, epochs: int) -> dict[int, str]:
        """Decisions at the rungs of the epochs that a trial takes over, up to the first stop."""
        rungs: dict[int, str] = {}
        for epoch, (_, record) in enumerate(self.state.trunks[trial.trunk].records[:epochs]):
            verdict = self.asha.judge_epoch(trial, epoch, record["accuracy"])
            if verdict.rung is not None:
                rungs[verdict.rung] = "stop" if verdict.stop else "continue"
            if verdict.stop:
                break
        return rungs

    @property
    def is_stopping(self) -> bool:
        """Whether the search has to end for a reason that no trial is to blame for."""
        return self.write_error is not None or self.halt_reason is not None

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
        again = {}
        if retried is not None:
            logger.warning(
                "%s: GPU memory was exhausted (%s); it goes on with streamed images", name, retried
            )
            again["retried"] = retried
        self.record_event(
            "started",
            trial=name,
            device=device,
            node=node,
            attempt=self.state.trials[name].attempts + 1,
            from_epoch=from_epoch,
            damaged=damaged,
            **again,
        )

    def record_lost_gpu(self, name: str | None, *, device: str, node: str, reason: str) -> None:
        """Record that a process cannot use its GPU any more and ends itself.

        Args:
            name: the trial that Ray will go on with in another process; None: it had none.
            device: the GPU.
            node: the machine's name.
            reason: the error.
        """
        logger.warning("%s on %s: a worker cannot use its GPU any more: %s", device, node, reason)
        self.record_event("lost", trial=name, device=device, node=node, reason=reason)

    def halt_search(self, reason: str) -> None:
        """End the search: a machine cannot go on. The trials that run now go on after a resume."""
        if self.halt_reason is None:
            self.halt_reason = reason
            logger.error("the search stops: %s", reason)

    def record_epoch(
        self,
        name: str,
        record: dict[str, Any],
        checkpoint: str | None,
        *,
        taken_over: bool = False,
        published: dict[str, Any] | None = None,
    ) -> Decision:
        """Record an epoch and say how the trial goes on.

        A worker that was started again repeats epochs that are recorded already; they change
        nothing and get the decision they got.

        Args:
            name: the trial.
            record: what the epoch reports.
            checkpoint: file with the state after it, if there is one.
            taken_over: the training of this epoch came with the trunk's state.
            published: what the epoch reported before any average, if the trunk's state was published.
        """
        trial = self.state.trials[name]
        epoch = record["epoch"]
        if trial.ended or self.is_stopping:
            return "stop"
        if epoch < trial.next_epoch:
            return "continue"
        if epoch > trial.next_epoch:
            self.fail_trial(name, f"epoch {epoch} was reported, but epoch {trial.next_epoch} never was")
            return "stop"
        verdict = self.asha.judge_epoch(trial, epoch, record["accuracy"])
        last = epoch == self.experiment.train.epochs - 1
        self.record_event(
            "epoch",
            trial=name,
            record={**record, **self._origin(trial, epoch, taken_over)},
            decision="stop" if verdict.stop and not last else "continue",
            rung=verdict.rung,
            checkpoint=checkpoint,
            published=published,
        )
        if last:
            self._end(trial, "completed", record["accuracy"])
            return "stop"
        if verdict.stop:
            self._end(trial, "pruned", None)
            return "stop"
        return "continue"

    def _origin(self, trial: TrialState, epoch: int, taken_over: bool) -> dict[str, Any]:
        """Who trained an epoch, and the cost that the trial did not have if that was another one."""
        trained = self.state.trunks[trial.trunk].records
        if not taken_over or epoch >= len(trained) or trained[epoch][0] == trial.name:
            return {"shared_from": None}
        return {"shared_from": trained[epoch][0], "train_seconds": None, "images_per_second": None}

    def record_test(
        self,
        name: str,
        *,
        images: int,
        shipped: dict[str, float],
        refreshed: dict[str, float] | None,
        predictions: bytes,
    ) -> None:
        """Record what a run on a fresh seed does on the test images; a repetition changes nothing.

        Args:
            name: the trial.
            images: how many there are.
            shipped: metrics of the model that one would ship.
            refreshed: of a baseline with its batch-normalisation statistics refreshed.
            predictions: file with what each model says of each image.
        """
        trial = self.state.trials[name]
        if trial.tested is not None or trial.ended or self.is_stopping:
            return
        file = f"{PREDICTIONS}/{name}.npz"
        try:  # before the line that relies on it
            FolderStore(self.folder).write(file, lambda path: path.write_bytes(predictions))
        except OSError as error:
            error.filename = str(self.folder / file)
            self.write_error = error
            return
        self.record_event("tested", trial=name, images=images, shipped=shipped, refreshed=refreshed)

    def fail_trial(
        self, name: str, reason: str, trunk_epoch: int | None = None, exhausted: float | None = None
    ) -> None:
        """Record that a trial has no result, and why.

        Args:
            name: the trial.
            reason: for people.
            trunk_epoch: the epoch in which its trunk diverged, if it failed by that.
            exhausted: the share of a GPU whose memory was too small, if it failed by that.
        """
        trial = self.state.trials[name]
        more = {} if exhausted is None else {"exhausted": exhausted}
        if not trial.ended:
            self._end(trial, "failed", None, reason, trunk_epoch=trunk_epoch, **more)

    def interrupt_trials(self) -> None:
        """Record that the trials that were running go on after a resume."""
        for trial in list(self.state.trials.values()):
            if trial.status == "running":
                self.record_event("ended", trial=trial.name, status="interrupted", value=None, error=None)

    def sync_journal(self) -> None:
        """Have the journal reach the disk within a second, also when nothing follows."""
        if self.write_error is None:
            try:
                self.journal.sync(older=SYNC_SECONDS)
            except OSError as error:
                self.write_error = error

    def close(self) -> None:
        self.journal.close()

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles it into a snapshot that is never read; listeners may not be picklable."""
        return {**self.__dict__, "_listeners": []}

    def _end(
        self, trial: TrialState, status: str, value: float | None, error: str | None = None, **more: Any
    ) -> None:
        self.record_event("ended", trial=trial.name, status=status, value=value, error=error, **more)
        if self.write_error is not None:
            return
        self._tidy_ended(trial)
        if trial.ended and not self._released and not self.proposer.draws_more():
            # a sampler that has made its last suggestion releases the trunks of others, too
            self._released = True
            for trunk in self.state.trunks:
                self._collect(trunk)

    def _tidy_ended(self, trial: TrialState) -> None:
        """Remove the states that nobody needs any more now that a trial has ended."""
        if self.experiment.search.keep_checkpoints == "best" and not trial.may_reopen(self._stage):
            self._tidy(trial)
        if trial.ended:
            self._collect(trial.trunk)

    def _collect(self, trunk: str) -> None:
        """Remove the published states of a trunk that nobody needs any more."""
        if self.sharing is not None:
            gone = self.sharing.unneeded_states(trunk)
        else:
            gone = sorted(self.state.trunks[trunk].published)
        if not gone:
            return
        self.record_event("collected", trunk=trunk, epochs=gone)
        with self._litter_is_harmless():
            for epoch in gone:  # one by one: somebody may be writing another one beside them
                self.store.remove(state_name(f"{TRUNKS}/{trunk}", epoch))

    def remove_stray_states(self) -> None:
        """Remove whatever lies among the published states and is none. Nothing may be running."""
        with self._litter_is_harmless():
            for trunk in self.store.folders(TRUNKS):
                known = self.state.trunks.get(trunk)
                epochs = known.published if known else ()
                self.store.keep_only(f"{TRUNKS}/{trunk}", {state_name("", e)[1:] for e in epochs})
            if not any(known.published for known in self.state.trunks.values()):
                self.store.keep_only(TRUNKS, set())

    @contextmanager
    def _litter_is_harmless(self) -> Iterator[None]:
        """Files that cannot be removed take room, but no result depends on them."""
        try:
            yield
        except OSError as error:
            logger.warning("files that are not needed any more could not be removed: %s", error)

    def _tidy(self, trial: TrialState) -> None:
        """Keep the last states of the best completed trials, remove those of the others."""
        if trial.status != "completed":
            self._remove(trial, trial.checkpoints)
            return
        for name in self._rank(trial):
            self._remove(self.state.trials[name], self.state.trials[name].checkpoints)
        if trial.checkpoints:
            self._remove(trial, trial.checkpoints[:-1])

    def _rank(self, trial: TrialState) -> list[str]:
        """Take a completed trial in among the best; returns who is not among them any more.

        Of the search, as many as there are finalists and the best baseline; of each configuration that is
        tested, the best run. The race only chooses: nobody goes on from its runs, and none is handed over.
        """
        if trial.stage == "race":
            return [trial.name]
        if trial.stage == "search":
            group: object = trial.kind
            most = self.experiment.confirm.top if trial.kind == "swa" else 1
        else:
            group, most = (trial.kind, params_key(trial.params)), 1
        best = self._best.setdefault(group, [])
        best.append(trial.name)
        best.sort(key=lambda name: ranking(self.state.trials[name]))
        gone = best[most:]
        del best[most:]
        return gone

    def _remove(self, trial: TrialState, checkpoints: list[str]) -> None:
        removed = list(checkpoints)
        if removed:
            # recorded first: a file without a record is litter, a record without a file is a lie
            self.record_event("checkpoints", trial=trial.name, removed=removed)
        try:
            self.journal.sync()  # a power cut must not leave the record and take the file
        except OSError as error:
            self.write_error = error
            return
        # by what is there rather than by what is recorded: a worker that died leaves files of its own
        kept = {name.rpartition("/")[2] for name in trial.checkpoints}
        with self._litter_is_harmless():
            self.store.keep_only(f"{CHECKPOINTS}/{trial.name}", kept)
