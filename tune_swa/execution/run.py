"""One search from its request to its result: prepare, run the trials under Ray, finish."""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune

from tune_swa.config import Experiment
from tune_swa.data.dataset import Dataset, prepare_dataset
from tune_swa.errors import Interrupted, SearchFailed
from tune_swa.execution import session
from tune_swa.execution.best_model import export_best
from tune_swa.execution.header import check_same, header, other_suggestions
from tune_swa.execution.ray_adapters.scheduler import PhaseScheduler
from tune_swa.execution.ray_adapters.searcher import TrialSearcher
from tune_swa.execution.ray_adapters.ticker import Silence, StopSearch, Ticker
from tune_swa.execution.request import Outcome, Request, show_status, tell
from tune_swa.execution.site import agree_on_numerics, divide, open_site, resolve_numerics
from tune_swa.execution.slots import Placement
from tune_swa.execution.trainable import Shared, train_trial
from tune_swa.experiment.events import SearchFinished, SessionStarted
from tune_swa.experiment.folder import SPACE, check_storage, earlier_events, locked, same_storage
from tune_swa.experiment.state import ExperimentState
from tune_swa.experiment.updates import Log
from tune_swa.monitoring.decoding_progress import Decoding
from tune_swa.monitoring.log_file import log_file
from tune_swa.monitoring.progress import Progress
from tune_swa.monitoring.publishing import ReportWriter, ResultPublisher
from tune_swa.monitoring.watchdog import Watchdog
from tune_swa.search.coordinator import Coordinator
from tune_swa.search.resume import replay_events, retry_exhausted
from tune_swa.search.samplers import quiet_optuna
from tune_swa.search.trunk_names import TrunkNamer
from tune_swa.signals import set_on_signal
from tune_swa.training.checkpoint import CheckpointError
from tune_swa.training.model import StateDict, hash_weights, resolve_weights
from tune_swa.training.numerics import Numerics
from tune_swa.training.run import LOOP_VERSION

logger = logging.getLogger(__name__)


def search(
    request: Request,
    write_space: Callable[[Experiment, Path], object],
    choose: Callable[[ExperimentState], Any],
    prepare_logs: Callable[[], object] = lambda: None,
    *,
    write_report: ReportWriter | None = None,
    logs: Sequence[Log] = (),
) -> Outcome:
    """Run a search, or go on with one.

    Args:
        request: what is asked for.
        write_space: writes the resolved space file.
        choose: picks the trial whose model is handed over, None without a completed one.
        prepare_logs: called when the request is known to be right and nothing has begun; may raise
            RequestError.
        write_report: writes the report from the fold of the journal; called while the search runs.
        logs: written beside the result files.

    Raises:
        RequestError: the request is wrong; nothing was trained.
        SearchFailed: no trial completed, or a disk or Ray refused.
        Interrupted: a signal ended it; the journal has everything.
    """
    quiet_optuna()
    experiment = request.experiment
    with locked(request.folder), log_file(request.folder) as log:
        events, state = earlier_events(request.folder, experiment, resume=request.resume)
        request = replace(request, storage=same_storage(state, request.storage, request.folder))
        # what is quick to refuse is checked before what takes long
        machine = None
        if request.address is None:
            with show_status(request, "looking at the GPUs"):  # a driver that hangs takes two minutes
                machine = session.local_machine(request.gpus)
            resolve_numerics(request, divide(request, state, machine), machine)
        else:
            session.check_reachable(request.address)
        if request.storage is not None:
            check_storage(request.store, request.folder, begun=state.header is not None)
        weights = resolve_weights(experiment.model)
        data = _prepare_data(request)
        prepare_logs()
        with open_site(request, state, machine, data) as site:
            placement = site.placement
            numerics, version = agree_on_numerics(request, site, data)
            coordinator = Coordinator(
                experiment,
                request.folder,
                state,
                request.store,
                _namer(data, weights, numerics),
                confirm=request.confirm,
            )
            try:
                if state.header is None:
                    coordinator.record_event(header(experiment, data, weights, numerics, site.surveys))
                else:
                    check_same(state.header, data, weights, numerics)
                    lost = replay_events(coordinator, events)
                    retry_exhausted(coordinator, placement.gpus_per_trial)
                    for line in (other_suggestions(state.header), *lost):
                        tell(request, line)
                tell(request, placement.memory_line)
                log.begin()
                write_space(experiment, request.folder / SPACE)
                if request.storage is not None:  # by which another search knows that the name is taken
                    request.store.write(SPACE, partial(shutil.copyfile, request.folder / SPACE))
                coordinator.record_event(
                    SessionStarted(
                        number=state.sessions + 1,
                        slots=placement.slots,
                        gpus=placement.gpus,
                        cpus=placement.cpus,
                        resumed=bool(events),
                        storage=request.storage,
                        gpu_share=placement.as_dict() if placement.gpus else None,
                        spec=experiment.model_dump(mode="json", by_alias=True),
                    )
                )
                shared = Shared(
                    store=request.store,
                    data=experiment.data,
                    data_dir=request.images_dir,
                    fingerprint=data.fingerprint,
                    numerics=numerics,
                    torch=version,
                    weights=weights,
                    checkpoint_every=experiment.search.checkpoint_every,
                    keep_all=experiment.search.keep_checkpoints == "all",
                    context_bytes=placement.context_bytes,
                    trial_bytes=placement.trial_bytes,
                )
                copies = request.store if request.storage is not None else None
                publisher = ResultPublisher(request.folder, copies, write_report=write_report, logs=logs)
                interrupted = _run_trials(request, coordinator, shared, placement, publisher)
                return _finish(request, coordinator, data, interrupted, publisher, choose)
            except KeyboardInterrupt:  # outside the loop, which has handlers of its own
                raise Interrupted("interrupted") from None
            except OSError as error:
                raise SearchFailed(
                    f"{error.filename or request.folder}: {error.strerror or error}. What was written is "
                    "intact; free space or restore access, then continue with --resume"
                ) from None
            finally:
                coordinator.close()


def _prepare_data(request: Request) -> Dataset:
    """Find, decode and divide the images, with a progress bar where there is something to decode."""
    with Decoding(request.console, quiet=request.quiet) as decoding:
        data = prepare_dataset(request.experiment.data, request.images_dir, progress=decoding, verify=True)
    for line in data.image_notes.format_lines():
        logger.info("%s", line)
    tell(request, data.image_notes.format_summary())
    return data


def _namer(data: Dataset, weights: StateDict | None, numerics: Numerics) -> TrunkNamer:
    return TrunkNamer(
        data=data.fingerprint,
        weights=hash_weights(weights),
        numerics=numerics.as_dict(),
        version=f"{LOOP_VERSION}/{torch.__version__}",
    )


def _run_trials(
    request: Request,
    coordinator: Coordinator,
    shared: Shared,
    placement: Placement,
    publisher: ResultPublisher,
) -> bool:
    """Run what is left of the search; return whether a signal ended it."""
    experiment = request.experiment
    state = coordinator.state
    searcher = TrialSearcher(coordinator, placement)
    stop = threading.Event()
    progress = Progress(
        request.console,
        experiment,
        state,
        slots=placement.slots,
        quiet=request.quiet,
        step=coordinator.step,
    )

    def tell(text: str) -> None:
        logger.warning("%s", text)
        progress.show_waiting(text)

    watchdog = Watchdog(tell, lambda: searcher.live, session.count_nodes)
    shows: list[Callable[[], object]] = [progress.tick, lambda: watchdog.tick(state)]

    def tick() -> None:
        if stop.is_set() or coordinator.is_stopping:
            raise StopSearch
        coordinator.sync_journal()
        publisher.tick(coordinator.state)
        for show in list(shows):
            try:
                show()
            except Exception:  # a display that fails must not end a search of days
                shows.remove(show)
                logger.exception("a display failed and is not drawn any more")

    def resources_of(config: dict[str, Any]) -> tune.PlacementGroupFactory:
        return tune.PlacementGroupFactory([placement.resources(config["gpus"])])

    # Ray insists on writing snapshots. Nobody reads them, so they need not meet the results' disk
    snapshots = tempfile.mkdtemp(prefix="tune_swa-ray-")
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(train_trial, shared=shared), resources_of),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=PhaseScheduler(coordinator, None if searcher.has_whole_gpus else placement.slots),
            num_samples=-1,
            reuse_actors=True,
            trial_name_creator=lambda trial: trial.trial_id,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=snapshots,
            callbacks=[Ticker(tick), Silence()],
            failure_config=tune.FailureConfig(max_failures=experiment.search.max_failures),
            verbose=0,
        ),
    )
    for listener in (progress, publisher, watchdog):
        coordinator.add_listener(listener)
    with set_on_signal(stop), progress:
        progress.show_waiting("starting the first workers")
        try:
            tuner.fit()
        except StopSearch:
            searcher.stopping = True
        except (tune.TuneError, ray.exceptions.RayError, OSError) as error:
            last = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise SearchFailed(
                f"Ray ended the search: {last[:300]}. What was done is kept; continue with --resume"
            ) from error
        finally:
            shutil.rmtree(snapshots, ignore_errors=True)
    if coordinator.write_error is not None:
        refused = coordinator.write_error
        raise SearchFailed(
            f"the search stopped because {refused.filename or coordinator.journal.path} cannot be written: "
            f"{refused.strerror or refused}. What was written is intact; free space or restore access, then "
            "continue with --resume"
        )
    return stop.is_set()


def _finish(
    request: Request,
    coordinator: Coordinator,
    data: Dataset,
    interrupted: bool,
    publisher: ResultPublisher,
    choose: Callable[[ExperimentState], Any],
) -> Outcome:
    coordinator.interrupt_trials()
    coordinator.retention.remove_stray_states()
    state, folder = coordinator.state, request.folder
    chosen = choose(state)
    if not interrupted and coordinator.halt_reason is None:
        coordinator.record_event(SearchFinished(reason="completed" if chosen else "no trial completed"))
    if coordinator.halt_reason is not None:
        with suppress(OSError):  # the very disk that is full, perhaps
            publisher.publish(state)
        raise SearchFailed(
            f"the search stopped: {coordinator.halt_reason}. What was done is kept; put that right, then "
            "continue with --resume"
        )
    try:
        publisher.publish(state)
        if chosen is not None and chosen.checkpoints:
            export_best(
                chosen, state, request.experiment, folder, request.store, _preprocessing(request, data)
            )
            publisher.mirror_files()
    except CheckpointError as error:
        raise SearchFailed(
            f"the results are written, but not the model of {chosen.name}: its checkpoint in "
            f"{request.store.where}/{Path(chosen.checkpoints[-1]).parent} cannot be used ({error}). Restore "
            "that file, then write the model with --resume"
        ) from None
    except OSError as error:
        raise SearchFailed(
            f"the trials are done and recorded, but the results cannot be written: {error}. Free space or "
            "restore access, then write them again with --resume"
        ) from None
    if interrupted:
        raise Interrupted("interrupted")
    if chosen is None:
        reasons = [t.error for t in state.trials.values() if t.error]
        first = f" The first reason: {reasons[0]}" if reasons else ""
        raise SearchFailed(f"no trial of {request.experiment.name} completed.{first}")
    return Outcome(folder, state, chosen.name)


def _preprocessing(request: Request, data: Dataset) -> dict[str, Any]:
    """What has to be done to an image before the model sees it."""
    return {
        "image_size": request.experiment.data.image_size,
        "resize": request.experiment.data.resize,
        "exif_rotation": request.experiment.data.exif_rotation,
        "scale": "RGB in [0, 1] (torchvision's ToTensor)",
        "mean": list(data.mean),
        "std": list(data.std),
    }
