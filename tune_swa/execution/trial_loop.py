"""Run trials under Ray until there is nothing more to suggest, or until the search is asked to stop."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray import tune

from tune_swa.errors import SearchFailed
from tune_swa.execution import first_worker, ray_runtime, ray_setup
from tune_swa.execution.finish import check_recorded
from tune_swa.execution.ray_adapters.scheduler import PhaseScheduler
from tune_swa.execution.ray_adapters.searcher import TrialSearcher
from tune_swa.execution.ray_adapters.ticker import Silence, StopSearch, Ticker
from tune_swa.execution.request import Request
from tune_swa.execution.slots import Placement
from tune_swa.execution.trainable import train_trial
from tune_swa.execution.trial_context import TrialContext
from tune_swa.execution.worker_deaths import WorkerDeaths
from tune_swa.hardware.shortages import MemoryWatch
from tune_swa.monitoring.progress import Progress
from tune_swa.monitoring.result_writer import ResultWriter
from tune_swa.monitoring.watchdog import Watchdog
from tune_swa.scratch import remove_leftovers, scratch_folder
from tune_swa.search.coordinator import Coordinator
from tune_swa.signals import set_on_signal

logger = logging.getLogger(__name__)


class TrialLoop:
    """One run of Ray Tune: gives it trials, records their reports, and shows the progress.

    Args:
        request: what is asked for.
        coordinator: suggests trials and keeps the journal.
        placement: how many trials run at once.
        result_writer: refreshes the result files meanwhile.
    """

    def __init__(
        self, request: Request, coordinator: Coordinator, placement: Placement, result_writer: ResultWriter
    ) -> None:
        self._coordinator, self._placement, self._result_writer = coordinator, placement, result_writer
        self._own_ray = request.address is None
        self._deaths = WorkerDeaths(
            coordinator,
            request.experiment.search.max_failures,
            MemoryWatch() if request.address is None else MemoryWatch(read=None),
            placement.slots,
            self._warn_of_memory,
        )
        self._searcher = TrialSearcher(coordinator, placement, self._deaths, self._tick)
        self._stop, self._merging = threading.Event(), False
        self._progress = Progress(
            request.console,
            request.experiment,
            coordinator.state,
            slots=placement.slots,
            quiet=request.quiet,
            step=coordinator.step,
        )
        watchdog = Watchdog(
            self._show_warning,
            lambda: self._searcher.live,
            ray_runtime.count_nodes,
            first_worker.describe_dead_workers,
            lambda: self._searcher.merges,
        )
        self._displays: list[Callable[[], object]] = [
            self._show_merges,
            self._progress.tick,
            lambda: watchdog.tick(coordinator.state),
        ]
        for listener in (self._progress, result_writer, watchdog):
            coordinator.add_listener(listener)

    def run(self, context: TrialContext) -> bool:
        """Run what is left of the search; return whether a signal ended it.

        Raises:
            SearchFailed: Ray ended the search, or the journal cannot be written.
        """
        # Ray insists on writing snapshots. Nobody reads them, so they stay off the disk of the results
        remove_leftovers()
        with scratch_folder("ray-") as snapshots, set_on_signal(self._stop), self._progress:
            tuner = self._build_tuner(context, snapshots)
            self._progress.show_waiting("starting the first workers")
            try:
                with ray_setup.adapt_tune(own_ray=self._own_ray):
                    tuner.fit()
            except StopSearch:
                self._searcher.stopping = True
            except (tune.TuneError, ray.exceptions.RayError, OSError) as error:
                last = (str(error).strip() or type(error).__name__).splitlines()[-1]
                raise SearchFailed(
                    f"Ray ended the search: {last[:300]}. What was done is kept; continue with --resume"
                ) from error
        check_recorded(self._coordinator)
        return self._stop.is_set()

    def _build_tuner(self, context: TrialContext, snapshots: Path) -> tune.Tuner:
        placement = self._placement

        def choose_resources(config: dict[str, Any]) -> tune.PlacementGroupFactory:
            return tune.PlacementGroupFactory([placement.ray_resources(config["gpus"])])

        kept_workers = None if self._searcher.has_whole_gpus else placement.slots
        return tune.Tuner(
            tune.with_resources(tune.with_parameters(train_trial, context=context), choose_resources),
            tune_config=tune.TuneConfig(
                search_alg=self._searcher,
                scheduler=PhaseScheduler(self._coordinator, self._deaths, kept_workers),
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=lambda trial: trial.trial_id,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(snapshots),
                callbacks=[Ticker(self._tick), Silence()],
                failure_config=tune.FailureConfig(max_failures=0),  # what follows a death is ours to decide
                verbose=0,
            ),
        )

    def _tick(self) -> None:
        """Do what is due between two events of Ray.

        Raises:
            StopSearch: a signal, or an error of the journal or a machine, ends the search.
        """
        if self._stop.is_set() or self._coordinator.is_stopping:
            raise StopSearch
        if not self._coordinator.sync_journal():
            raise StopSearch  # before anything is written where the experiment's folder was
        self._result_writer.tick(self._coordinator.state)
        for display in list(self._displays):
            try:
                display()
            except Exception:  # a display that fails must not end a search of days
                self._displays.remove(display)
                logger.exception("a display failed and is not drawn any more")

    def _show_merges(self) -> None:
        """Show what workers merge, which reports nothing until it is done."""
        merges = self._searcher.merges
        if merges or self._merging:
            self._progress.show_waiting(f"computing the {' and the '.join(merges)}" if merges else "")
        self._merging = bool(merges)

    def _warn_of_memory(self, text: str) -> None:
        self._progress.set_slots(self._deaths.slots)
        self._show_warning(text)

    def _show_warning(self, text: str) -> None:
        logger.warning("%s", text)
        self._progress.show_waiting(text)
