"""Find and decode the images in a thread of its own, while Ray starts."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING

from tune_swa.config.cautions import list_cautions
from tune_swa.data.dataset import Dataset, prepare_dataset
from tune_swa.data.folder_names import name_classes
from tune_swa.errors import Interrupted
from tune_swa.execution.ensemble_size import check_ensemble_size
from tune_swa.execution.request import Request, print_note, show_status
from tune_swa.monitoring.decoding_progress import Decoding

if TYPE_CHECKING:
    from tune_swa.training.model import StateDict

logger = logging.getLogger(__name__)

LEAVE_SECONDS = 3.0
"""How long a search that ends waits for the thread, which notices it between two chunks of images."""


@dataclass(frozen=True)
class Prepared:
    """What trials train on, and from."""

    weights: StateDict | None
    data: Dataset


class Preparation:
    """The preparation of weights and images, under way in a thread. A context manager: leaving it ends that.

    Ray is started in the thread that runs the search: the system ends Ray's processes with the thread that
    has started them, and only the main thread gets signals. Both threads import modules meanwhile, but never
    the same ones, which could end in a deadlock: Ray's are left to the thread that runs the search.

    Args:
        request: a request that was checked.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._stopping, self._ended = threading.Event(), threading.Event()
        self._prepared: Prepared | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="preparation", daemon=True)

    def __enter__(self) -> Preparation:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._ended.wait(LEAVE_SECONDS)

    def wait_for_result(self) -> Prepared:
        """Wait until everything is prepared.

        Raises:
            RequestError: images or weights are missing, damaged or too few.
        """
        self._ended.wait()
        if self._error is not None:
            raise self._error
        assert self._prepared is not None
        return self._prepared

    def _run(self) -> None:
        try:
            self._prepared = self._prepare()
        except BaseException as error:  # whatever it is, it belongs to the thread that waits
            self._error = error
        finally:
            self._ended.set()

    def _prepare(self) -> Prepared:
        request = self._request
        with show_status(request, "loading torch and Ray"):
            from tune_swa.training.model import describe_classifier, resolve_weights
            from tune_swa.training.network_checks import list_network_notes

        experiment = request.experiment
        for note in list_network_notes(experiment):
            print_note(request, note)
        size = experiment.data.image_size
        weights = resolve_weights(experiment.model, partial(print_note, request), size)
        data = self._prepare_images()
        check_ensemble_size(experiment, len(data.test), data.num_classes)
        print_note(request, describe_classifier(experiment.model, weights, data.num_classes))
        return Prepared(weights, data)

    def _prepare_images(self) -> Dataset:
        """Find, decode and split the images, with a progress bar where there is something to decode."""
        request = self._request
        for line in request.rescaled:
            print_note(request, f"--epochs: {line}")
        for caution in list_cautions(request.experiment):
            print_note(request, f"Caution: {caution}")
        with Decoding(request.console, quiet=request.quiet) as decoding:

            def show_progress(done: int, total: int) -> None:
                if self._stopping.is_set():
                    raise Interrupted("interrupted")
                decoding(done, total)

            data = prepare_dataset(
                request.experiment.data,
                request.images_dir,
                progress=show_progress,
                verify=True,
                download=request.download,
            )
        if data.folder_notes:
            print_note(request, f"classes: {name_classes(data.class_names)}")
        for line in data.folder_notes:
            print_note(request, line)
        for line in data.image_notes.format_lines():
            logger.info("%s", line)
        print_note(request, data.image_notes.format_summary())
        return data
