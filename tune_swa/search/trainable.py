"""What runs in a worker: one trial from its last checkpoint to its end, reporting every epoch."""

from __future__ import annotations

import gc
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ray import tune

from tune_swa.data.dataset import Dataset, prepare
from tune_swa.journal import KEPT_WHILE_RUNNING
from tune_swa.search.recorder import CHECKPOINTS
from tune_swa.search.scheduler import PAYLOAD
from tune_swa.spec import DataSpec, RunSettings
from tune_swa.training import checkpoint as checkpoints
from tune_swa.training.loop import Run
from tune_swa.training.metrics import NonFiniteError
from tune_swa.training.model import StateDict
from tune_swa.training.numerics import Numerics

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shared:
    """What all trials of an experiment have in common; travels once, through Ray's object store."""

    folder: Path
    """The experiment's folder."""
    data: DataSpec
    data_dir: Path | None
    fingerprint: str
    """Of the images and their division, as the driver found them."""
    numerics: Numerics
    weights: StateDict | None
    gpus_per_trial: float
    checkpoint_every: int
    keep_all: bool


_dataset: tuple[tuple[DataSpec, Path | None], Dataset] | None = None


def train_trial(config: dict[str, Any], shared: Shared) -> None:
    """Ray's trainable: run one trial and report every epoch.

    Whatever goes wrong inside (a non-finite loss, memory, damaged data) is reported as the trial's
    reason rather than raised: a deterministic run would fail the same way when Ray retries it.
    The death of the process is left to Ray, which starts the trial again.
    """
    try:
        _train(config, shared)
    except NonFiniteError as error:
        _report(event="failed", error=str(error))
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
    finally:
        # the process is used again for another trial
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _train(config: dict[str, Any], shared: Shared) -> None:
    torch.set_num_threads(shared.numerics.threads)
    if shared.numerics.device == "cuda" and shared.gpus_per_trial < 1:
        torch.cuda.set_per_process_memory_fraction(shared.gpus_per_trial)
    name = config["trial"]
    run = Run(RunSettings.model_validate(config["settings"]), _data(shared), shared.numerics, shared.weights)
    folder = shared.folder / CHECKPOINTS / name
    restored = restore(run, folder, config["recorded_epochs"])
    _report(event="started", device=_device_name(shared.numerics), from_epoch=run.epoch)
    if restored is not None:
        # the worker may have died between saving this epoch and reporting it
        _report_epoch(run, restored, shared)
    for _ in run:
        saved = None
        if run.done or run.epoch % shared.checkpoint_every == 0:
            saved = folder / f"epoch-{run.epoch - 1:05d}.pt"
            checkpoints.save(run.state_dict(), saved)
            if not shared.keep_all:
                for old in stored(folder)[:-KEPT_WHILE_RUNNING]:
                    old.unlink(missing_ok=True)
        _report_epoch(run, saved, shared)


def restore(run: Run, folder: Path, recorded_epochs: int) -> Path | None:
    """Load the newest checkpoint that can be used into `run`; return it, or None for a fresh start.

    A checkpoint may be one epoch ahead of the journal (saved, not yet recorded), never more. A
    damaged one is passed over for the one before it.
    """
    for path in reversed(stored(folder)):
        try:
            state = checkpoints.load(path, run.device)
        except checkpoints.CheckpointError as error:
            logger.warning("%s; falling back to the one before", error)
            continue
        if state["epoch"] <= recorded_epochs + 1:
            run.load_state_dict(state)
            _remove_after(folder, path)
            return path
    _remove_after(folder, None)
    return None


def _remove_after(folder: Path, path: Path | None) -> None:
    """Remove checkpoints later than the one that is continued from: they would pass for the newest."""
    for later in stored(folder):
        if path is None or later > path:
            later.unlink(missing_ok=True)


def stored(folder: Path) -> list[Path]:
    """Checkpoints in a trial's folder, oldest epoch first."""
    return sorted(folder.glob("epoch-*.pt"))


def _report_epoch(run: Run, saved: Path | None, shared: Shared) -> None:
    assert run.record is not None
    checkpoint = saved.relative_to(shared.folder).as_posix() if saved else None
    _report(event="epoch", record=run.record.as_dict(), checkpoint=checkpoint)


def _report(**message: Any) -> None:
    tune.report({PAYLOAD: json.dumps(message, allow_nan=False)})


def _data(shared: Shared) -> Dataset:
    """The images of this machine, opened once per worker process."""
    global _dataset
    key = (shared.data, shared.data_dir)
    if _dataset is None or _dataset[0] != key:
        _dataset = (key, prepare(shared.data, shared.data_dir))
    data = _dataset[1]
    if data.fingerprint != shared.fingerprint:
        raise RuntimeError(
            f"the images on {os.uname().nodename} differ from those that the search began with "
            f"(fingerprint {data.fingerprint[:12]}, expected {shared.fingerprint[:12]})"
        )
    return data


def _device_name(numerics: Numerics) -> str:
    if numerics.device == "cpu":
        return f"cpu x{numerics.threads}"
    return f"{torch.cuda.get_device_name()} ({os.environ.get('CUDA_VISIBLE_DEVICES', '0')})"
