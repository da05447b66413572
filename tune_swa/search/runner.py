"""One search from its request to its result: prepare, run the trials under Ray, finish."""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from rich.console import Console

from tune_swa.data.dataset import Dataset, prepare
from tune_swa.errors import Interrupted, SearchFailed
from tune_swa.journal import ExperimentState
from tune_swa.paths import expanded
from tune_swa.search import nodes, ray_session
from tune_swa.search.best_model import export_best
from tune_swa.search.confirmation import most_runs, next_look
from tune_swa.search.decoding import Decoding
from tune_swa.search.folder import SPACE, check_storage, earlier_events, locked, same_storage
from tune_swa.search.header import check_same, header, other_suggestions
from tune_swa.search.log import log_file
from tune_swa.search.placement import Machine, Placement, place, total_trials
from tune_swa.search.progress import Progress
from tune_swa.search.proposer import quiet_optuna
from tune_swa.search.publishing import Exporter, Publisher
from tune_swa.search.recorder import Recorder
from tune_swa.search.scheduler import PhaseScheduler
from tune_swa.search.searcher import TrialSearcher
from tune_swa.search.stopping import StopSearch, Ticker, signals
from tune_swa.search.trainable import Shared, train_trial
from tune_swa.search.trunks import TrunkNamer
from tune_swa.search.watchdog import Watchdog
from tune_swa.spec import Experiment
from tune_swa.storage import FolderStore, Store, open_store
from tune_swa.training.checkpoint import CheckpointError
from tune_swa.training.loop import LOOP_VERSION
from tune_swa.training.model import StateDict, fingerprint, resolve_weights
from tune_swa.training.numerics import Numerics, resolve

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What the command line asks for besides the space file."""

    experiment: Experiment
    results_dir: Path = Path("results")
    data_dir: Path | None = None
    gpus: int | None = None
    cpus: int | None = None
    resume: bool = False
    address: str | None = None
    storage: str | None = None
    """Folder or URI for the checkpoints; None: the experiment's folder."""
    quiet: bool = False
    confirm: bool = True
    """Whether fresh seeds follow the search."""
    console: Console = field(default_factory=Console)

    @property
    def folder(self) -> Path:
        """The experiment's folder, absolute: workers run elsewhere."""
        return (self.results_dir / self.experiment.name).absolute()

    @property
    def store(self) -> Store:
        """Where the checkpoints are."""
        if self.storage is None:
            return FolderStore(self.folder)
        return open_store(self.storage, self.experiment.name)

    @property
    def images_dir(self) -> Path | None:
        """Where the images are, absolute, by the option or by the space file."""
        if self.data_dir:
            return expanded(self.data_dir, "--data-dir").absolute()
        path = self.experiment.data.path
        return expanded(path, "data.path:").absolute() if path else None


@dataclass(frozen=True)
class Outcome:
    """What a finished search left."""

    folder: Path
    state: ExperimentState
    best: str | None
    """Name of the trial whose model was exported."""


def search(
    request: Request,
    export: Exporter,
    write_space: Callable[[Experiment, Path], object],
    choose: Callable[[ExperimentState], Any],
    prepare_logs: Callable[[], object] = lambda: None,
) -> Outcome:
    """Run a search, or go on with one.

    Args:
        request: what is asked for.
        export: writes the result files from the fold of the journal; called while the search runs.
        write_space: writes the resolved space file.
        choose: picks the trial whose model is handed over, None without a completed one.
        prepare_logs: called when the request is known to be right and nothing has begun; may raise
            RequestError.

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
        if request.address is None:
            _numerics(request, _divide(request, state, Machine.local()))
        else:
            ray_session.check_reachable(request.address)
        if request.storage is not None:
            check_storage(request.store, request.folder, begun=state.header is not None)
        weights = resolve_weights(experiment.model)
        data = _prepare_data(request)
        prepare_logs()
        with _places(request, state) as (placement, machine):
            numerics, version = _common_numerics(request, placement, machine, data)
            recorder = Recorder(
                experiment,
                request.folder,
                state,
                request.store,
                _namer(data, weights, numerics),
                confirm=request.confirm,
            )
            try:
                if state.header is None:
                    recorder.record("created", **header(experiment, data, weights, numerics))
                else:
                    check_same(state.header, data, weights, numerics)
                    recorder.replay(events)
                    recorder.retry_exhausted(placement.gpus_per_trial)
                    for line in (other_suggestions(state.header), *recorder.lost):
                        _tell(request, line)
                log.begin()
                write_space(experiment, request.folder / SPACE)
                if request.storage is not None:  # by which another search knows that the name is taken
                    request.store.write(SPACE, partial(shutil.copyfile, request.folder / SPACE))
                recorder.record(
                    "session",
                    number=state.sessions + 1,
                    slots=placement.slots,
                    gpus=placement.gpus,
                    cpus=placement.cpus,
                    resumed=bool(events),
                    storage=request.storage,
                    spec=experiment.model_dump(mode="json", by_alias=True),
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
                )
                copies = request.store if request.storage is not None else None
                publisher = Publisher(export, request.folder, copies)
                interrupted = _run_trials(request, recorder, shared, placement, publisher)
                return _finish(request, recorder, data, interrupted, publisher, choose)
            except KeyboardInterrupt:  # outside the loop, which has handlers of its own
                raise Interrupted("interrupted") from None
            except OSError as error:
                raise SearchFailed(
                    f"{error.filename or request.folder}: {error.strerror or error}. What was written is "
                    "intact; free space or restore access, then continue with --resume"
                ) from None
            finally:
                recorder.close()


def _prepare_data(request: Request) -> Dataset:
    """Find, decode and divide the images, with a progress bar where there is something to decode."""
    with Decoding(request.console, quiet=request.quiet) as decoding:
        data = prepare(request.experiment.data, request.images_dir, progress=decoding, verify=True)
    for line in data.remarks.lines():
        logger.info("%s", line)
    _tell(request, data.remarks.summary())
    return data


def _tell(request: Request, text: str | None) -> None:
    """Log a line, and print it unless the user wants quiet."""
    if text:
        logger.warning("%s", text)
        if not request.quiet:
            request.console.print(text, markup=False, soft_wrap=True)


def _divide(request: Request, state: ExperimentState, machine: Machine) -> Placement:
    trials = max(1, _left(request, state))
    return place(request.experiment.resources, machine, trials=trials, gpus=request.gpus, cpus=request.cpus)


def _left(request: Request, state: ExperimentState) -> int:
    """Trials that this session's places are for: both of its stages have the same ones.

    A few that are left of the search do not take the places from the runs on fresh seeds after them,
    nor do these many runs make the places smaller than a search from the start would have them.
    """
    experiment = request.experiment
    searched = [trial.ended for trial in state.trials.values() if trial.stage == "search"]
    total = max(total_trials(experiment), len(searched))
    left = total - sum(searched)
    if not request.confirm:
        return left
    if left:
        return max(left, min(total, most_runs(experiment)))
    look = next_look(experiment, state)
    names = look.names if look else []
    return sum(name not in state.trials or not state.trials[name].ended for name in names)


@contextmanager
def _places(request: Request, state: ExperimentState) -> Iterator[tuple[Placement, Machine]]:
    """Ray with the places of the request: our own, or a cluster's."""
    if request.address is None:
        machine = Machine.local()
        placement = _divide(request, state, machine)
        with ray_session.session(placement):
            yield placement, machine
    else:
        with ray_session.cluster(request.address) as machine:
            placement = _divide(request, state, machine)
            ray_session.set_environment(placement.slots)
            yield placement, machine


def _numerics(request: Request, placement: Placement) -> Numerics:
    experiment = request.experiment
    return resolve(
        experiment.train,
        experiment.data.image_size,
        device=placement.device,
        threads=placement.cpus_per_trial,
    )


def _common_numerics(
    request: Request, placement: Placement, machine: Machine, data: Dataset
) -> tuple[Numerics, str]:
    """Numerics and torch of where the trials run: on a cluster, the driver's machine may differ."""
    if request.address is None:
        return _numerics(request, placement), torch.__version__
    store, probe = request.store, f"probe-{uuid.uuid4().hex}"
    store.write(probe, lambda path: path.write_text(probe))
    try:
        said = f"looking at the computers of the cluster ({len(machine.nodes)})"
        with nullcontext() if request.quiet else request.console.status(said):
            question = nodes.Question(
                request.experiment,
                request.images_dir,
                placement.device,
                placement.cpus_per_trial,
                store,
                probe,
            )
            answers = nodes.ask_all(machine.nodes, placement, question, lambda text: _tell(request, text))
    finally:
        store.remove(probe)
    numerics = nodes.agree(answers, data.fingerprint, store)
    return numerics, next(iter(answers.values())).torch


def _namer(data: Dataset, weights: StateDict | None, numerics: Numerics) -> TrunkNamer:
    return TrunkNamer(
        data=data.fingerprint,
        weights=fingerprint(weights),
        numerics=numerics.as_dict(),
        version=f"{LOOP_VERSION}/{torch.__version__}",
    )


def _run_trials(
    request: Request, recorder: Recorder, shared: Shared, placement: Placement, publisher: Publisher
) -> bool:
    """Run what is left of the search; return whether a signal ended it."""
    experiment = request.experiment
    state = recorder.state
    searcher = TrialSearcher(recorder, placement)
    stop = threading.Event()
    progress = Progress(
        request.console,
        experiment,
        state,
        slots=placement.slots,
        quiet=request.quiet,
        confirming=recorder.look is not None,
    )

    def tell(text: str) -> None:
        logger.warning("%s", text)
        progress.waiting(text)

    watchdog = Watchdog(tell, lambda: searcher.live, ray_session.count_nodes)
    shows: list[Callable[[], object]] = [progress.tick, lambda: watchdog.tick(state)]

    def tick() -> None:
        if stop.is_set() or recorder.stopping:
            raise StopSearch
        recorder.tick()
        publisher.tick(recorder.state)
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
            scheduler=PhaseScheduler(recorder, None if searcher.has_whole_gpus else placement.slots),
            num_samples=-1,
            reuse_actors=True,
            trial_name_creator=lambda trial: trial.trial_id,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=snapshots,
            callbacks=[Ticker(tick)],
            failure_config=tune.FailureConfig(max_failures=experiment.search.max_failures),
            verbose=0,
        ),
    )
    for listener in (progress, publisher, watchdog):
        recorder.listen(listener)
    with signals(stop), progress:
        progress.waiting("starting the first workers")
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
    if recorder.failure is not None:
        raise SearchFailed(
            f"the search stopped because {recorder.failure.filename or recorder.journal.path} cannot be "
            f"written: {recorder.failure.strerror or recorder.failure}. "
            "What was written is intact; free space or restore access, then continue with --resume"
        )
    return stop.is_set()


def _finish(
    request: Request,
    recorder: Recorder,
    data: Dataset,
    interrupted: bool,
    publisher: Publisher,
    choose: Callable[[ExperimentState], Any],
) -> Outcome:
    recorder.interrupt()
    recorder.sweep()
    state, folder = recorder.state, request.folder
    chosen = choose(state)
    if not interrupted and recorder.halted is None:
        recorder.record("finished", reason="completed" if chosen else "no trial completed")
    if recorder.halted is not None:
        with suppress(OSError):  # the very disk that is full, perhaps
            publisher.publish(state)
        raise SearchFailed(
            f"the search stopped: {recorder.halted}. What was done is kept; put that right, then continue "
            "with --resume"
        )
    try:
        publisher.publish(state)
        if chosen is not None and chosen.checkpoints:
            export_best(
                chosen, state, request.experiment, folder, request.store, _preprocessing(request, data)
            )
            publisher.mirror()
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
