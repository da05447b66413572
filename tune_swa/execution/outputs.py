"""Open what a search writes while it runs: result files, the report, and the logs of experiment trackers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from tune_swa.execution.request import Request
from tune_swa.experiment.updates import Log
from tune_swa.monitoring.result_writer import ResultWriter
from tune_swa.results.report.images import write_illustrated_report
from tune_swa.tracking.optuna_log import StudyFile
from tune_swa.tracking.tensorboard import EventFiles
from tune_swa.tracking.trackers import TrackerThread

DELIVERY_SECONDS = 60.0
"""Time that trackers get for what they have not sent yet."""
STOPPED_DELIVERY_SECONDS = 2.0
"""The same where the search was stopped, or failed: it has to end soon."""


@contextmanager
def open_result_writer(request: Request) -> Iterator[ResultWriter]:
    """Connect to the trackers of the request; yields what writes all outputs.

    Raises:
        RequestError: a tracker cannot be used.
    """
    experiment, folder = request.experiment, request.folder
    names = dict.fromkeys(name for name in request.logs if name != "none")
    trackers = [TrackerThread(name, experiment, folder) for name in names]
    files: list[Log] = [StudyFile()] if "none" in request.logs else [StudyFile(), EventFiles()]
    patience = STOPPED_DELIVERY_SECONDS
    try:
        for tracker in trackers:
            tracker.connect()
        yield ResultWriter(
            folder,
            request.store if request.storage is not None else None,
            write_report=partial(
                write_illustrated_report, experiment=experiment, data_dir=request.images_dir
            ),
            logs=[*files, *trackers],
        )
        patience = DELIVERY_SECONDS
    finally:
        for tracker in trackers:
            tracker.close(patience)
