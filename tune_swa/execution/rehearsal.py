"""Rehearse a search: go its whole way with a few images, and forecast what it takes.

The rehearsal is a search by the same code, of a space that `rehearsal_space` shrinks, on images that are
decoded as the search decodes them. It is interrupted and resumed, and its results are written and exported.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tune_swa import signals
from tune_swa.data.dataset import Estimate, estimate_dataset
from tune_swa.data.sampling import ImageSample, sample_images
from tune_swa.errors import Interrupted, RequestError, SearchFailed
from tune_swa.execution.dry_run import Plan, plan_request
from tune_swa.execution.forecast import Forecast, ImageCounts, Rates, forecast_search, measure_rates
from tune_swa.execution.rehearsal_images import choose_images
from tune_swa.execution.rehearsal_space import list_shrunk, shrink_experiment
from tune_swa.execution.request import Request, show_status
from tune_swa.execution.run import run_search
from tune_swa.experiment.events import Event, TrialEnded, TrialStarted, TrunkShared
from tune_swa.experiment.journal import read_events
from tune_swa.experiment.state import ExperimentState
from tune_swa.scratch import IN_USE, mark_in_use
from tune_swa.training.model import resolve_weights

Say = Callable[[str], object]
Export = Callable[[Path, Path], object]
"""Exports the model of a results folder, with the images of a folder."""
FORK_EPOCH = b'"epoch":1,'
"""In the line of the journal after which the rehearsal is interrupted: its trunk's last one."""
WAIT_SECONDS = 0.05


@dataclass(frozen=True)
class Rehearsal:
    """A rehearsal that went well."""

    plan: Plan
    sample: ImageSample
    images: ImageCounts
    """Of the rehearsal."""
    smaller: Sequence[str]
    """What it did with less than the search."""
    decoding: float
    """Seconds that the search will take to decode its images."""
    start: float
    """Seconds from the command to the first trial."""
    rates: Rates
    forecast: Forecast
    seconds: float
    """That the rehearsal took."""


def rehearse_search(request: Request, export: Export, say: Say) -> Rehearsal:
    """Rehearse the search of a request in a temporary folder, which is kept if anything fails.

    Args:
        request: for the search.
        export: exports the model that the rehearsal hands over.
        say: prints a line about a step that went well.

    Raises:
        RequestError: as the search would.
        SearchFailed: so would it, or a trial of the rehearsal failed; the message names the folder.
        Interrupted: a signal ended it.
    """
    _check_local(request)
    begun = time.monotonic()
    imports = time.clock_gettime(time.CLOCK_BOOTTIME) - _read_start()
    plan = plan_request(request)
    if plan.name_taken:
        _print_line(request, plan.name_taken)
    size = request.experiment.data.image_size
    # before images are decoded
    resolve_weights(request.experiment.model, partial(_print_line, request), size)
    sample = sample_images(request.experiment.data, request.images_dir, download=request.download)
    say(
        f"images: {sample.decoded} of {sample.found:,} decoded, of {_describe_classes(sample)}, "
        f"{1e3 * sample.seconds_per_image:.1f} ms each"
    )
    with _keep_if_failed() as folder:
        with show_status(request, "rehearsing"), _own_cache(folder / "cache"):
            search = _SmallSearch(request, plan, sample, folder)
            search.run(say)
            export(search.request.folder, search.images_dir)
            say("model: exported, each file read again and compared")
        return search.summarise(begun, imports)


def _print_line(request: Request, text: str) -> None:
    """Print a line unless the user wants quiet. There is no log yet, and logging would print it, too."""
    if not request.quiet:
        request.console.print(text, markup=False, soft_wrap=True)


def _read_start() -> float:
    """Seconds from the machine's start to that of this process."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return ticks / os.sysconf("SC_CLK_TCK")


def _check_local(request: Request) -> None:
    for option, value in (("--address", request.address), ("--storage", request.storage)):
        if value is not None:
            raise RequestError(f"--smoke rehearses on this machine; leave {option} {value} out")
    if request.resume:
        raise RequestError("--smoke rehearses a whole search; leave --resume out")


def _describe_classes(sample: ImageSample) -> str:
    some = len(sample.class_names)
    return f"{some} of {sample.classes} classes" if some < sample.classes else f"all {some} classes"


class _SmallSearch:
    """The rehearsal's search."""

    def __init__(self, request: Request, plan: Plan, sample: ImageSample, folder: Path) -> None:
        self.whole, self.plan, self.sample = request, plan, sample
        self.images_dir = folder / "images"
        seeds = min(2, plan.placement.slots)
        experiment = shrink_experiment(request.experiment, seeds)
        named = request.experiment.data.dataset == "folder"
        with _explain_full_disk():
            self.images = choose_images(experiment, sample, plan.placement, self.images_dir, named=named)
        self.request = replace(
            request,
            experiment=experiment,
            results_dir=folder / "results",
            data_dir=self.images_dir,
            quiet=True,
            logs=tuple(name for name in request.logs if name == "none"),
            rescaled=(),
        )
        self.start = self.end = 0.0

    def run(self, say: Say) -> None:
        """Run the search, interrupt it, and resume it.

        Raises:
            SearchFailed: it failed, or one of its trials.
        """
        begun = time.time()
        interrupted = _run_interrupted(self.request)
        events = self._read_events()
        first = next((event.time for event in events if isinstance(event, TrialStarted)), begun)
        self.start = first - begun
        if interrupted:
            run_search(replace(self.request, resume=True))
        finished = time.time()
        events = self._read_events()
        self.end = finished - max(event.time for event in events if isinstance(event, TrialEnded))
        _check_trials(ExperimentState.fold(events, self.request.folder / "journal.jsonl"))
        for line in self._describe_way(events, interrupted=interrupted):
            say(line)

    def _read_events(self) -> list[Event]:
        return list(read_events(self.request.folder / "journal.jsonl"))

    def _describe_way(self, events: list[Event], *, interrupted: bool) -> Iterator[str]:
        state = ExperimentState.fold(events, self.request.folder / "journal.jsonl")
        epochs = self.request.experiment.train.epochs
        images = f"{self.images.train} training, {self.images.val} validation and {self.images.test} test"
        searched = [trial for trial in state.trials.values() if trial.stage == "search"]
        shared = sum(isinstance(event, TrunkShared) for event in events)
        fork = ", the SWA trial from the state of its trunk" if shared else ""
        yield f"search: {len(searched)} trials of {epochs} epochs on {images} images{fork}"
        if interrupted:
            again = [e for e in events if isinstance(e, TrialStarted) and e.attempt > 1]
            where = f"{again[0].trial} from epoch {again[0].from_epoch}" if again else "the next trial"
            yield f"resume: interrupted, and went on with {where}"
        tested = sum(trial.tested is not None for trial in state.trials.values())
        if tested:
            yield f"fresh seeds: {tested} runs, tested"
        yield "report: written"

    def summarise(self, begun: float, imports: float) -> Rehearsal:
        """Measure what the rehearsal took, and forecast the search."""
        whole, plan = self.whole, self.plan
        experiment, events = self.request.experiment, self._read_events()
        state = ExperimentState.fold(events, self.request.folder / "journal.jsonl")
        rates = measure_rates(events, state, experiment, self.images)
        estimate = plan.images
        if not isinstance(estimate, Estimate):  # it has been downloaded
            estimate = estimate_dataset(whole.experiment.data, whole.images_dir)
        each = 3 * whole.experiment.data.image_size**2
        decoding = 0.0 if estimate.cached else self.sample.seconds_per_image * estimate.cache_bytes / each
        start = imports + self.start
        counts = ImageCounts(estimate.train, estimate.val, estimate.test)
        besides = decoding + start + self.end
        with _explain_full_disk():
            forecast = forecast_search(
                whole.experiment, plan.placement.slots, rates, counts, besides, confirm=whole.confirm
            )
        smaller = list_shrunk(whole.experiment, experiment, self.images.train)
        took = time.monotonic() - begun
        return Rehearsal(plan, self.sample, self.images, smaller, decoding, start, rates, forecast, took)


def _check_trials(state: ExperimentState) -> None:
    """Check that every trial went well: of a whole search, one that fails is one of many.

    Raises:
        SearchFailed: one did not.
    """
    for trial in state.trials.values():
        if trial.status not in ("completed", "pruned"):
            reason = trial.error or f"it is {trial.status}"
            raise SearchFailed(f"{trial.name} of the rehearsal failed: {reason}")


def _run_interrupted(request: Request) -> bool:
    """Run a search that is interrupted as by a signal when its first trial has trained its trunk.

    Returns:
        Whether it was interrupted.
    """
    ended, asked, before = threading.Event(), threading.Event(), signals.count_signals()
    watcher = threading.Thread(target=_stop_after_fork, args=(request.folder, ended, asked), daemon=True)
    watcher.start()
    try:
        run_search(request)
    except Interrupted:
        if not asked.is_set() or signals.count_signals() > before:  # it was the user, too
            raise
        return True
    finally:
        ended.set()
        watcher.join()
    return False


def _stop_after_fork(folder: Path, ended: threading.Event, asked: threading.Event) -> None:
    """Stop the search of a folder after the fork, unless it has ended. No signal is sent: after one of the
    user's it would be a second one, which ends the process at once and leaves everything behind."""
    journal = folder / "journal.jsonl"
    while not ended.wait(WAIT_SECONDS):
        if journal.exists() and FORK_EPOCH in journal.read_bytes():
            asked.set()
            if signals.stop_search():
                return
            asked.clear()  # no trials run any more


@contextmanager
def _own_cache(folder: Path) -> Iterator[None]:
    """Have this process and its workers decode into a cache that goes with the rehearsal."""
    before = os.environ.get("TUNE_SWA_CACHE")
    os.environ["TUNE_SWA_CACHE"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["TUNE_SWA_CACHE"]
        else:
            os.environ["TUNE_SWA_CACHE"] = before


@contextmanager
def _explain_full_disk() -> Iterator[None]:
    """Say what to do where TMPDIR cannot be written to.

    Raises:
        SearchFailed: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise SearchFailed(
            f"the rehearsal cannot write its files ({error.strerror or error}). It needs room for some "
            f"checkpoints in {os.environ.get('TMPDIR', '/tmp')}: free some, or set TMPDIR to another folder"
        ) from None


@contextmanager
def _keep_if_failed() -> Iterator[Path]:
    """Make a temporary folder, which is removed unless what is done with it fails.

    Raises:
        SearchFailed: in place of one without the folder's name; so for a RequestError.
    """
    with _explain_full_disk():
        folder = Path(tempfile.mkdtemp(prefix="tune_swa-smoke-"))
    try:
        with mark_in_use(folder):
            yield folder
    except (Interrupted, KeyboardInterrupt):
        shutil.rmtree(folder, ignore_errors=True)
        raise
    except Exception as error:
        (folder / IN_USE).unlink(missing_ok=True)  # so that no later process takes it for a leftover
        kept = f"The files of the rehearsal are kept in {folder}"
        if isinstance(error, SearchFailed | RequestError):
            raise type(error)(f"{error}\n{kept}") from None
        error.add_note(kept)
        raise
    shutil.rmtree(folder, ignore_errors=True)
