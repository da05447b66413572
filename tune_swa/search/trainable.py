"""What runs in a worker: one trial from its last checkpoint to its end, reporting every epoch."""

from __future__ import annotations

import gc
import io
import json
import logging
import os
import time
import traceback
from base64 import b64encode
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from ray import tune

from tune_swa.data.dataset import Dataset, prepare
from tune_swa.errors import RequestError
from tune_swa.journal import KEPT_WHILE_RUNNING
from tune_swa.search.names import CHECKPOINTS, PAYLOAD, TRUNKS, epoch_of, state_name
from tune_swa.spec import DataSpec, RunSettings
from tune_swa.storage import Store
from tune_swa.training import checkpoint as checkpoints
from tune_swa.training.allocator import give_back_memory, keep_freed_memory
from tune_swa.training.loop import EpochRecord, Run
from tune_swa.training.metrics import NonFiniteError
from tune_swa.training.model import StateDict, build_model
from tune_swa.training.numerics import Numerics

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shared:
    """What all trials of an experiment have in common; travels once, through Ray's object store."""

    store: Store
    """Where checkpoints are; every worker sees it."""
    data: DataSpec
    data_dir: Path | None
    fingerprint: str
    """Of the images and their division, as the driver found them."""
    numerics: Numerics
    torch: str
    """Its version on all computers that were asked; others may join later."""
    weights: StateDict | None
    checkpoint_every: int | Literal["auto"]
    keep_all: bool


_dataset: tuple[tuple[DataSpec, Path | None], Dataset] | None = None


def train_trial(config: dict[str, Any], shared: Shared) -> None:
    """Ray's trainable: run one trial and report every epoch.

    Whatever goes wrong inside (a non-finite loss, memory, damaged data) is reported as the trial's
    reason rather than raised: a deterministic run would fail the same way when Ray retries it.
    What is wrong with the machine (a full disk, other images) is reported as a reason to stop the
    search: it says nothing about the trial, and would fail all others as well. The death of the
    process is left to Ray, which starts the trial again.
    """
    gc.freeze()  # what is alive between two trials stays: looking through it takes a quarter of a second
    try:
        if config["trial"] is None:  # the worker is wanted, for a trial that waits for its trunk
            build_model(_data(shared).num_classes, seed=0)  # for what it imports
        else:
            _train(config, shared)
    except NonFiniteError as error:
        _report(event="failed", error=str(error), trunk_epoch=error.trunk_epoch)
    except MachineError as error:
        _report(event="halted", error=str(error))
    except torch.cuda.OutOfMemoryError as error:
        first = str(error).splitlines()[0]
        _report(
            event="failed",
            error=f"GPU memory is exhausted ({first}). Use fewer trials per GPU (--gpus-per-trial), "
            "a smaller train.batch_size or a smaller data.image_size",
        )
    except Exception as error:
        logger.exception("trial %s failed", config["trial"])
        _report(event="failed", error=f"{type(error).__name__}: {error}"[:500])
    except BaseException as error:
        # Ray leaves a trial that it has stopped by SystemExit, whose frames hold the whole run
        traceback.clear_frames(error.__traceback__)
        raise
    finally:
        # the process is used again for another trial
        gc.collect()
        give_back_memory()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class MachineError(Exception):
    """This machine cannot go on, through no fault of the trial."""


def _train(config: dict[str, Any], shared: Shared) -> None:
    torch.set_num_threads(shared.numerics.threads)
    if shared.numerics.device == "cpu":
        keep_freed_memory()
    if shared.numerics.device == "cuda":
        torch.cuda.set_per_process_memory_fraction(config["gpus"])
    name = config["trial"]
    run = Run(RunSettings.model_validate(config["settings"]), _data(shared), shared.numerics, shared.weights)
    folder, trunk = f"{CHECKPOINTS}/{name}", f"{TRUNKS}/{config['trunk']}"
    published = set(config["published"])
    try:
        restored = restore(
            run,
            shared.store,
            folder,
            config["recorded_epochs"],
            trunk,
            set(config["publish"]) | published,
            config["checkpoints"],
        )
    except OSError as error:
        raise MachineError(
            f"{shared.store.where}: checkpoints of {name} cannot be read now ({error}). If one of them never "
            "can be again, remove it: the trial then goes on from the one before"
        ) from error
    _report(
        event="started",
        device=_device_name(shared.numerics),
        node=os.uname().nodename,
        from_epoch=run.epoch,
        damaged=[*restored.damaged, *_lost(shared.store, trunk, published, restored)],
    )
    if restored.checkpoint is not None and run.record is not None:
        # the worker may have died between saving this epoch and reporting it
        if run.done and config["test"]:
            _report_test(run)
        own = restored.checkpoint.startswith(f"{folder}/")
        _report_epoch(run, restored.checkpoint if own else None, None if own else run.record)
    to_publish = set(config["publish"]) - published
    rhythm = Rhythm(1 if shared.keep_all and shared.checkpoint_every == "auto" else shared.checkpoint_every)
    while not run.done:
        taken_over = run.trained is not None
        run.advance()
        state = run.trained if run.averaging is None and run.epoch in to_publish else None
        if state is not None and not taken_over:
            with rhythm.saving():
                _write(run.trunk_state(), shared, state_name(trunk, run.epoch))
        run.finish_epoch()
        saved = None
        # a published state does for a checkpoint, unless an average has been added to it
        stands = state is not None and run.averaging is None and not shared.keep_all
        if run.done or (rhythm.due(run.epoch) and not stands):
            with rhythm.saving():
                saved = _save(run, shared, folder)
        if run.done and config["test"]:  # before the report of the last epoch, which ends the trial
            _report_test(run)
        _report_epoch(run, saved, state, taken_over=taken_over)


SAVING_SHARE = 0.02
"""Share of a trial's time that checkpoints may take."""
SAVING_SECONDS = 0.2
"""What a checkpoint is thought to take before the first one was timed: a ResNet-18's, on a local disk."""


class Rhythm:
    """When a trial saves a checkpoint: every so many epochs, or as often as costs little.

    Args:
        every: epochs between two; `auto`: once the time since the last one is `1 / SAVING_SHARE` times
            what that one took, so that a kill costs at most that much training.
        clock: seconds that only go up.
    """

    def __init__(self, every: int | Literal["auto"], clock: Callable[[], float] = time.monotonic) -> None:
        self._every = every
        self._clock = clock
        self._saved = clock()
        self._took = SAVING_SECONDS

    def due(self, epochs: int) -> bool:
        """Whether to save after so many epochs of the trial."""
        if self._every != "auto":
            return epochs % self._every == 0
        return self._clock() - self._saved >= self._took / SAVING_SHARE

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Time what it costs."""
        begun = self._clock()
        yield
        self._saved = self._clock()
        self._took = self._saved - begun


def _save(run: Run, shared: Shared, folder: str) -> str:
    """Save the state after the last epoch, remove what is too old, and return the file's name."""
    name = state_name(folder, run.epoch - 1)
    _write(run.state_dict(), shared, name)
    if not shared.keep_all:
        with _disk(shared, folder):
            for old in stored(shared.store, folder)[:-KEPT_WHILE_RUNNING]:
                shared.store.remove(f"{folder}/{old}")
    return name


def _write(state: dict[str, Any], shared: Shared, name: str) -> None:
    with _disk(shared, name.rpartition("/")[0]):
        shared.store.write(name, lambda path: checkpoints.save(state, path))


@contextmanager
def _disk(shared: Shared, folder: str) -> Iterator[None]:
    """Blame the machine, not the trial, for a disk that refuses."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise MachineError(
            f"a checkpoint cannot be written to {shared.store.where}/{folder}: {why}"
        ) from error


@dataclass(frozen=True)
class Restored:
    """What a trial goes on from."""

    checkpoint: str | None
    """The file's name in the store; None for a fresh start."""
    damaged: list[str]
    """Why newer checkpoints could not be used: a line for each, and one for those that are gone."""


def restore(
    run: Run,
    store: Store,
    folder: str,
    recorded_epochs: int,
    trunk: str = "",
    trunk_epochs: Collection[int] = (),
    recorded: Collection[str] = (),
) -> Restored:
    """Load the newest state that can be used into `run`: a checkpoint of its own, or its trunk's.

    A state may be one epoch ahead of the journal (saved, not yet recorded), never more. A damaged one
    is passed over for the one before it, and without any the run starts anew.

    Args:
        run: of the trial.
        store: holds the states.
        folder: the trial's checkpoints.
        recorded_epochs: how many epochs of the trial the journal has.
        trunk: folder of its trunk's states.
        trunk_epochs: those of the trunk's states that the trial may begin from.
        recorded: the trial's checkpoints by the journal; of those that are not there it is told.

    Raises:
        OSError: a folder cannot be listed, or a state cannot be read now. It is left where it is: it may
            be in order.
    """
    damaged: list[str] = []
    found: str | None = None
    own = {epoch_of(name): f"{folder}/{name}" for name in stored(store, folder)}
    states = {
        epoch_of(name): f"{trunk}/{name}"
        for name in (stored(store, trunk) if trunk_epochs else ())
        if epoch_of(name) in trunk_epochs
    }
    for epoch in sorted({*own, *states}, reverse=True):
        # of two after the same epoch, the trial's own has its average
        for name in filter(None, (own.get(epoch), states.get(epoch))):
            if epoch > recorded_epochs or found is not None:
                continue
            try:
                run.load_state_dict(_load(store, name, run.device))
                found = name
            except checkpoints.CheckpointError as error:
                damaged.append(str(error))
    newest = run.epoch - 1 if found else -1
    # damaged, or ahead of the journal: these would pass for the newest
    for epoch, name in own.items():
        if epoch > newest:
            store.remove(name)
    gone = [name for name in recorded if epoch_of(name) > newest and epoch_of(name) not in own]
    if gone:
        names = " and ".join(name.rpartition("/")[2] for name in dict.fromkeys((gone[0], gone[-1])))
        between = f" and {len(gone) - 2} between them" if len(gone) > 2 else ""
        are = "is" if len(gone) == 1 else "are"
        damaged.append(f"{names}{between} {are} not in {store.where}/{folder} any more")
    return Restored(found, damaged)


def _lost(store: Store, trunk: str, published: Collection[int], restored: Restored) -> list[str]:
    """What to say of the newest published state if it is gone and the trial begins before it."""
    newest = max(published, default=-1)
    begins = -1 if restored.checkpoint is None else epoch_of(restored.checkpoint)
    if newest <= begins or newest in map(epoch_of, stored(store, trunk)):
        return []
    return [f"{state_name(trunk, newest)}: is not there, though it was published"]


def _load(store: Store, name: str, device: torch.device) -> dict[str, Any]:
    try:
        with store.local(name) as path:
            return checkpoints.load(path, device)
    except FileNotFoundError as error:  # somebody has removed it since the folder was listed
        raise checkpoints.CheckpointError(f"{name}: cannot be read ({error})") from error


def stored(store: Store, folder: str) -> list[str]:
    """Names of the checkpoints in a trial's folder, oldest epoch first."""
    return [name for name in store.names(folder) if name.startswith("epoch-")]


def _report_epoch(
    run: Run, saved: str | None, published: EpochRecord | None = None, *, taken_over: bool = False
) -> None:
    assert run.record is not None
    _report(
        event="epoch",
        record=run.record.as_dict(),
        checkpoint=saved,
        published=published.as_dict() if published else None,
        taken_over=taken_over,
    )


def _report_test(run: Run) -> None:
    """Report what the finished model says of the test images."""
    shipped = run.test()
    models = {"shipped": shipped}
    if run.averaging is None:
        models["refreshed"] = run.test(refresh=True)
    arrays: dict[str, Any] = {"label": shipped.label.cpu().numpy().astype(np.int32)}
    for name, said in models.items():
        for what in ("predicted", "probability", "confidence", "nll", "brier"):
            values = getattr(said, what).cpu().numpy()
            arrays[f"{name}.{what}"] = values.astype(np.int32) if what == "predicted" else values
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    refreshed = models.get("refreshed")
    _report(
        event="tested",
        images=len(shipped.label),
        shipped=shipped.metrics(),
        refreshed=refreshed.metrics() if refreshed else None,
        predictions=b64encode(file.getvalue()).decode(),
    )


def _report(**message: Any) -> None:
    tune.report({PAYLOAD: json.dumps(message, allow_nan=False)})


def _data(shared: Shared) -> Dataset:
    """The images of this machine, opened once per worker process.

    Raises:
        MachineError: they, or torch, are not those that the search began with.
    """
    global _dataset
    if torch.__version__ != shared.torch:
        raise MachineError(
            f"torch on {os.uname().nodename} is {torch.__version__}, and {shared.torch} where the search "
            "began. Install the same, or take this computer out of the cluster"
        )
    key = (shared.data, shared.data_dir)
    if _dataset is None or _dataset[0] != key:
        try:
            _dataset = (key, prepare(shared.data, shared.data_dir))
        except RequestError as error:
            raise MachineError(f"on {os.uname().nodename}: {error}") from error
    data = _dataset[1]
    if data.fingerprint != shared.fingerprint:
        raise MachineError(
            f"the images on {os.uname().nodename} differ from those that the search began with "
            f"(fingerprint {data.fingerprint[:12]}, expected {shared.fingerprint[:12]})"
        )
    return data


def _device_name(numerics: Numerics) -> str:
    if numerics.device == "cpu":
        return f"cpu x{numerics.threads}"
    return f"{torch.cuda.get_device_name()} ({os.environ.get('CUDA_VISIBLE_DEVICES', '0')})"
