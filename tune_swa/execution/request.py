"""The request for a search, and its outcome."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from tune_swa.config import Experiment
from tune_swa.errors import RequestError
from tune_swa.experiment.state import ExperimentState
from tune_swa.files import expand_home
from tune_swa.storage import FolderStore, Store, open_store
from tune_swa.training.network_checks import resolve_normalization

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """Options of the command line besides the space file."""

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
    download: bool = True
    """Whether images may be downloaded to the folder that the space file names."""
    confirm: bool = True
    """Whether fresh seeds follow the search."""
    logs: tuple[str, ...] = ()
    """Trackers besides Optuna's and TensorBoard's files, as `--log` names them; `none`: no TensorBoard."""
    rescaled: tuple[str, ...] = ()
    """What became of the settings that count epochs where `--epochs` changed them, a line each."""
    console: Console = field(default_factory=Console)

    def __post_init__(self) -> None:
        """Resolve what images are normalised with, and take no GPU for trials that want none.

        Raises:
            RequestError: GPUs are asked for nevertheless, or the network is not there.
        """
        object.__setattr__(self, "experiment", resolve_normalization(self.experiment))
        if self.experiment.resources.gpus_per_trial != 0:
            return
        if self.gpus:
            raise RequestError(
                f"--gpus {self.gpus}: resources.gpus_per_trial is 0, which runs the trials on the CPU. Leave "
                "--gpus out, or give each trial a part of a GPU (--gpus-per-trial auto)"
            )
        object.__setattr__(self, "gpus", 0)

    @property
    def folder(self) -> Path:
        """The experiment's folder, absolute: workers run elsewhere."""
        return (self.results_dir / self.experiment.name).absolute()

    @property
    def store(self) -> Store:
        """Place of the checkpoints."""
        if self.storage is None:
            return FolderStore(self.folder)
        return open_store(self.storage, self.experiment.name)

    @property
    def images_dir(self) -> Path | None:
        """Absolute path of the images, from the option or the space file."""
        if self.data_dir:
            return expand_home(self.data_dir, "--data-dir").absolute()
        path = self.experiment.data.path
        return expand_home(path, "data.path:").absolute() if path else None


@dataclass(frozen=True)
class Outcome:
    """Outcome of a finished search."""

    folder: Path
    state: ExperimentState
    best: str | None
    """Name of the trial whose model was exported."""


def print_note(request: Request, text: str | None) -> None:
    """Log a line, and print it unless the user wants quiet."""
    if text:
        logger.warning("%s", text)
        if not request.quiet:
            request.console.print(text, markup=False, soft_wrap=True)


def show_status(request: Request, text: str) -> AbstractContextManager[object]:
    """A line that shows what is waited for, unless the user wants quiet."""
    return nullcontext() if request.quiet else request.console.status(text)
