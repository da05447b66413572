"""Run the session of a search whose images are there and whose Ray has started."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch

from tune_swa.data.dataset import Dataset
from tune_swa.errors import Interrupted, SearchFailed
from tune_swa.execution import ray_runtime
from tune_swa.execution.finish import finish_search
from tune_swa.execution.header import build_header, check_unchanged, describe_sampler_changes
from tune_swa.execution.outputs import open_result_writer
from tune_swa.execution.preparation import Prepared
from tune_swa.execution.request import Outcome, Request, print_note
from tune_swa.execution.request_checks import CheckedRequest
from tune_swa.execution.site import Site, agree_on_numerics
from tune_swa.execution.slots import Placement
from tune_swa.execution.trial_context import TrialContext
from tune_swa.execution.trial_loop import TrialLoop
from tune_swa.experiment.events import Event, SessionStarted
from tune_swa.experiment.folder import SPACE
from tune_swa.experiment.state import ExperimentState
from tune_swa.monitoring.log_file import Log
from tune_swa.plugins import list_sources
from tune_swa.results.export import write_space
from tune_swa.search.coordinator import Coordinator
from tune_swa.search.resume import replay_events, retry_exhausted
from tune_swa.search.trunk_names import TrunkNamer
from tune_swa.training.model import StateDict, hash_weights
from tune_swa.training.run import LOOP_VERSION


def run_session(checked: CheckedRequest, prepared: Prepared, site: Site, log: Log) -> Outcome:
    """Run all trials that are left, and finish the search.

    Raises:
        RequestError: the search cannot be resumed here, or a tracker cannot be used; nothing was trained.
        SearchFailed: no trial completed, or a disk or Ray refused.
        Interrupted: a signal ended it; the journal has everything.
    """
    ray_runtime.quiet_loggers()  # those of Tune set themselves up at its import
    request, events, state = checked.request, checked.events, checked.state
    weights, data = prepared.weights, prepared.data
    context = _make_trial_context(request, data, weights, site)
    with (
        open_result_writer(request) as result_writer,
        _open_coordinator(request, state, context) as coordinator,
    ):
        if state.header is None:
            _begin_search(request, coordinator, data, context, site)
        else:
            _resume_search(request, coordinator, data, context, site.placement, events)
        print_note(request, site.placement.memory_line)
        log.begin()
        _record_session(request, coordinator, site.placement, resumed=bool(events))
        interrupted = TrialLoop(request, coordinator, site.placement, result_writer).run(context)
        return finish_search(request, coordinator, data, result_writer, interrupted=interrupted)


def _make_trial_context(
    request: Request, data: Dataset, weights: StateDict | None, site: Site
) -> TrialContext:
    """Collect what all trials have in common.

    Raises:
        RequestError: a node cannot take part, or the nodes compute with different numerics.
    """
    numerics, version = agree_on_numerics(request, site, data)
    return TrialContext(
        store=request.store,
        data=request.experiment.data,
        data_dir=request.images_dir,
        fingerprint=data.fingerprint,
        numerics=numerics,
        torch=version,
        weights=weights,
        checkpoint_every=request.experiment.search.checkpoint_every,
        keep_all=request.experiment.search.keep_checkpoints == "all",
        context_bytes=site.placement.context_bytes,
        trial_bytes=site.placement.trial_bytes,
        plugins=list_sources(),
        images=_pickle_images(request, data),
    )


def _pickle_images(request: Request, data: Dataset) -> bytes | None:
    """The images for workers of this machine, which need not look for them again; None: they have to."""
    if request.address is not None or data.cache_path is None:
        return None
    return pickle.dumps(data)


@contextmanager
def _open_coordinator(
    request: Request, state: ExperimentState, context: TrialContext
) -> Iterator[Coordinator]:
    """Open the journal; errors of its disk and signals outside of Ray's loop end the search.

    Raises:
        SearchFailed: a disk refused.
        Interrupted: a signal asked for it.
    """
    namer = TrunkNamer(
        data=context.fingerprint,
        weights=hash_weights(context.weights),
        numerics=context.numerics.as_dict(),
        version=f"{LOOP_VERSION}/{torch.__version__}",
        plugins={source.name: source.digest for source in context.plugins},
    )
    coordinator = Coordinator(
        request.experiment, request.folder, state, request.store, namer, confirm=request.confirm
    )
    try:
        yield coordinator
    except KeyboardInterrupt:  # Ray's loop has handlers of its own
        raise Interrupted("interrupted") from None
    except OSError as error:
        raise SearchFailed(
            f"{error.filename or request.folder}: {error.strerror or error}. What was written is "
            "intact; free space or restore access, then continue with --resume"
        ) from None
    finally:
        coordinator.close()


def _begin_search(
    request: Request, coordinator: Coordinator, data: Dataset, context: TrialContext, site: Site
) -> None:
    """Record what the results depend on."""
    header = build_header(request.experiment, data, context.weights, context.numerics, site.surveys)
    coordinator.record_event(header)


def _resume_search(
    request: Request,
    coordinator: Coordinator,
    data: Dataset,
    context: TrialContext,
    placement: Placement,
    events: list[Event],
) -> None:
    """Replay the earlier sessions, and print what is lost or different now.

    Raises:
        RequestError: the images, the weights or the numerics are not those that the search began with.
    """
    header = coordinator.state.header
    assert header is not None
    check_unchanged(header, data, context.weights, context.numerics)
    lost = replay_events(coordinator, events)
    retry_exhausted(coordinator, placement.gpus_per_trial)
    for line in (describe_sampler_changes(header), *lost):
        print_note(request, line)


def _record_session(
    request: Request, coordinator: Coordinator, placement: Placement, *, resumed: bool
) -> None:
    """Write the resolved space file, and record the resources of this session."""
    space = request.folder / SPACE
    write_space(request.experiment, space)
    if request.storage is not None:  # so that another search sees that the name is taken
        request.store.write(SPACE, partial(shutil.copyfile, space))
    started = SessionStarted(
        number=coordinator.state.sessions + 1,
        slots=placement.slots,
        gpus=placement.gpus,
        cpus=placement.cpus,
        resumed=resumed,
        storage=request.storage,
        gpu_share=placement.as_dict() if placement.gpus else None,
        spec=request.experiment.model_dump(mode="json", by_alias=True),
    )
    coordinator.record_event(started)
