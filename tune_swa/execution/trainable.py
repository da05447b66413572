"""Run one trial in a worker, from its last checkpoint to its end, reporting every epoch."""

from __future__ import annotations

import gc
import logging
import os
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tune_swa.config import DataSpec, RunSettings, format_value
from tune_swa.data.dataset import Dataset, prepare_dataset
from tune_swa.data.gather import release_resident_images
from tune_swa.errors import RequestError
from tune_swa.execution.gpu_share import MARGIN
from tune_swa.execution.merge_job import compute_merge
from tune_swa.execution.training_thread import run_in_training_thread
from tune_swa.execution.trial_checkpoints import (
    CheckpointSchedule,
    MachineError,
    read_live_record,
    restore,
    save_checkpoint,
    write_state,
)
from tune_swa.execution.trial_context import TrialContext
from tune_swa.execution.trial_reports import report_epoch, report_message, report_test
from tune_swa.execution.warm_up import warm_up
from tune_swa.experiment.layout import CHECKPOINTS, KEPT_WHILE_RUNNING, TRUNKS, state_name
from tune_swa.hardware.allocator import give_back_memory, keep_freed_memory
from tune_swa.hardware.gpu_failure import describe_gpu, describe_gpu_error, is_gpu_lost
from tune_swa.hardware.gpu_memory import (
    is_memory_exhausted,
    limit_memory,
    release_memory,
    wait_for_memory,
)
from tune_swa.hardware.shortages import is_host_memory_exhausted, is_machine_short
from tune_swa.plugins import describe_failure, install_plugins
from tune_swa.text import first_line
from tune_swa.training.metrics import NonFiniteError
from tune_swa.training.run import Run

logger = logging.getLogger(__name__)

LEAVING_EXIT = 71
"""Exit status of a worker process that cannot use its GPU any more, or has run out of memory."""
USED_PART = 0.9
"""Fraction of its limit that a trial of unknown size is assumed to use: a little of every card is the
driver's own, and must not be waited for."""


@dataclass
class _Recorded:
    """The driver's record of a trial: as it was handed out, and what was reported since."""

    epochs: int
    checkpoints: list[str]
    published: set[int]

    @classmethod
    def of_config(cls, config: dict[str, Any]) -> _Recorded:
        """Return the record as the trial was handed out."""
        return cls(config["recorded_epochs"], list(config["checkpoints"]), set(config["published"]))

    def add_epoch(self, epoch: int, saved: str | None, *, published: bool, keep_all: bool) -> None:
        """Take in an epoch whose report has been answered."""
        self.epochs = max(self.epochs, epoch + 1)
        if saved is not None and saved not in self.checkpoints:
            self.checkpoints.append(saved)
            if not keep_all:
                del self.checkpoints[:-KEPT_WHILE_RUNNING]
        if published:
            self.published.add(epoch)


_dataset: tuple[tuple[DataSpec, Path | None], Dataset] | None = None


def train_trial(config: dict[str, Any], context: TrialContext) -> None:
    """Run one trial and report every epoch: Ray's trainable.

    Whatever goes wrong inside (a non-finite loss, memory, damaged data) is reported as the trial's
    reason rather than raised: a deterministic run would fail the same way when Ray retries it.
    What is wrong with the machine (a full disk, other images) is reported as a reason to stop the
    search: it says nothing about the trial, and would fail all others as well. A process that has lost
    its GPU, or has run out of memory, ends itself; the driver decides what follows the death of a process.

    `_run_trial` cleans up, `_attempt_trial` turns errors into reports, `_train_with_retry` retries with
    streamed images, and `_train` is the loop over epochs.
    """
    run_in_training_thread(lambda: _run_trial(config, context))


def _run_trial(config: dict[str, Any], context: TrialContext) -> None:
    gc.freeze()  # what is alive between two trials stays: looking through it takes a quarter of a second
    try:
        failure = _attempt_trial(config, context)
        if failure is not None and failure["event"] in ("lost", "exhausted"):
            _leave_process(failure)
        if failure is not None:
            report_message(**failure)
    finally:
        _clean_up(context)


def _attempt_trial(config: dict[str, Any], context: TrialContext) -> dict[str, Any] | None:
    """Run the trial or merge, or warm the worker up; returns what to report if that failed."""
    try:
        _install_plugins(context)
        if "merge" in config:
            run = _build_run(config, context, stream_images=False)
            compute_merge(run, config["merge"], context.store)
        elif config["trial"] is None:  # the worker is wanted, for a trial that waits for its trunk
            limit, data = _prepare_device(config, context), _open_dataset(context)
            settings = RunSettings.model_validate(config["settings"])
            warm_up(settings, data, context.numerics, stream_images=not _holds_images(data, context, limit))
        else:
            _train_with_retry(config, context)
    except Exception as error:
        failure = _explain_failure(error, config, context)
        traceback.clear_frames(error.__traceback__)  # they hold the run, and the report is yet to come
        return failure
    except BaseException as error:
        # Ray leaves a trial that it has stopped by SystemExit, whose frames hold the whole run
        traceback.clear_frames(error.__traceback__)
        raise
    return None


def _explain_failure(
    error: Exception, config: dict[str, Any], context: TrialContext
) -> dict[str, Any] | None:
    """Turn an error into a report; None if it concerns neither a trial nor a machine."""
    if isinstance(error, MachineError):
        return {"event": "halted", "error": str(error)}
    if isinstance(error, NonFiniteError) and config["trial"] is not None:
        return {"event": "failed", "error": str(error), "trunk_epoch": error.trunk_epoch}
    if is_gpu_lost(error, on_gpu=context.on_gpu):
        logger.exception("the GPU cannot be used any more")
        return {"event": "lost", **_describe_place(context), "reason": describe_gpu_error(error)}
    if is_host_memory_exhausted(error):
        return {"event": "exhausted", "reason": f"{type(error).__name__}: {first_line(error, 200)}"}
    if is_machine_short(error):
        return {"event": "halted", "error": f"on {os.uname().nodename}: {first_line(error, 300)}"}
    if "merge" in config:
        logger.exception("a merge failed")
        return {"event": "unmerged", "error": f"{type(error).__name__}: {error}"[:500]}
    logger.exception("trial %s failed", config["trial"])
    if config["trial"] is None:
        return None  # a trial that needs this will say so itself
    if not is_memory_exhausted(error):
        return {"event": "failed", "error": describe_failure(error)[:500]}
    share = format_value(round(config["gpus"], 4))
    return {
        "event": "failed",
        "error": f"GPU memory is exhausted, with {share} of a GPU and streamed images "
        f"({describe_gpu_error(error)}). Use fewer trials per GPU (a larger --gpus-per-trial; --resume then "
        "runs this trial again), a smaller train.batch_size or a smaller data.image_size",
        "exhausted": config["gpus"],
    }


def _leave_process(failure: dict[str, Any]) -> None:
    """Tell the driver why this process cannot go on, and end it: the trial goes on in another."""
    try:
        report_message(**failure)  # returns when the driver has it
    finally:
        sys.stderr.flush()
        os._exit(LEAVING_EXIT)  # nothing that would still speak to the GPU


def _clean_up(context: TrialContext) -> None:
    """Leave the process ready for another trial."""
    gc.collect()
    give_back_memory()
    if not context.on_gpu:
        return
    try:
        release_memory()
    except RuntimeError:
        logger.exception("the GPU cannot be used any more")
        os._exit(LEAVING_EXIT)


def _prepare_device(config: dict[str, Any], context: TrialContext) -> int | None:
    """Set what is set once for a thread or a process, and wait for the trial's memory.

    Returns:
        Bytes of its GPU that the trial may take; None: it runs on the CPU.
    """
    torch.set_num_threads(context.numerics.threads)  # this setting is per thread
    if not context.on_gpu:
        keep_freed_memory()
        return None
    limit = limit_memory(float(config["gpus"]), context.context_bytes)
    wait_for_memory(min(context.trial_bytes or int(USED_PART * limit), limit))
    return limit


def _holds_images(data: Dataset, context: TrialContext, limit: int | None) -> bool:
    """Whether what a trial may take of its GPU holds its images besides the trial, as far as is known.

    A share that was given, or the only one of a small card, may hold a trial and not its images. To find out
    by running out of memory would cost each trial its first steps.
    """
    if limit is None or context.trial_bytes is None:
        return True
    images = (len(data.train) + len(data.val)) * int(np.prod(data.images.shape[1:]))
    return context.trial_bytes * MARGIN + images <= limit


def _train_with_retry(config: dict[str, Any], context: TrialContext) -> None:
    """Train the trial; once more from its last checkpoint, with streamed images, if GPU memory was too small.

    A neighbour's peak, or the memory of one that is about to die, passes; and without resident images
    the trial needs less.
    """
    recorded = _Recorded.of_config(config)
    try:
        _train(config, context, recorded)
        return
    except Exception as error:
        if not is_memory_exhausted(error) or is_gpu_lost(error, on_gpu=context.on_gpu):
            raise
        reason = describe_gpu_error(error)
        traceback.clear_frames(error.__traceback__)  # they hold the run and all of its memory
    # not in the handler: until it is left, the error itself is alive
    logger.warning("%s: %s; once more with streamed images", config["trial"], reason)
    release_resident_images()
    if context.on_gpu:
        release_memory()
    else:
        gc.collect()
    _train(config, context, recorded, retried=reason)


def _train(
    config: dict[str, Any], context: TrialContext, recorded: _Recorded, *, retried: str | None = None
) -> None:
    """Train the trial from its last checkpoint to its end.

    Args:
        config: of the trial.
        context: of the experiment.
        recorded: what the driver has of the trial; every report that it answers is added.
        retried: why this process begins it again, now with streamed images; None: it does not.
    """
    run = _build_run(config, context, stream_images=retried is not None)
    folder, trunk = f"{CHECKPOINTS}/{config['trial']}", f"{TRUNKS}/{config['trunk']}"
    _resume_run(run, config, context, recorded, retried)
    to_publish = set(config["publish"]) - recorded.published
    every_epoch = context.keep_all and context.checkpoint_every == "auto"
    schedule = CheckpointSchedule(1 if every_epoch else context.checkpoint_every)
    while not run.done:
        taken_over = run.live_record is not None
        run.begin_epoch()
        state = run.live_record if run.averaging is None and run.epoch in to_publish else None
        if state is not None and not taken_over:
            with schedule.time_saving():
                write_state(run.trunk_state(), context.store, state_name(trunk, run.epoch))
        run.finish_epoch()
        saved = None
        # a published state does for a checkpoint, unless an average has been added to it
        is_checkpoint = state is not None and run.averaging is None and not context.keep_all
        is_checkpoint = is_checkpoint and run.averages is None  # nor has it a baseline's averages
        if run.done or (schedule.is_due(run.epoch) and not is_checkpoint):
            with schedule.time_saving():
                saved = save_checkpoint(
                    run, context.store, folder, keep_all=context.keep_all, taken_over=taken_over
                )
        if run.done and config["test"]:  # before the report of the last epoch, which ends the trial
            report_test(run, probabilities=config["ensemble"])
        report_epoch(run, saved, state, taken_over=taken_over)
        recorded.add_epoch(run.epoch - 1, saved, published=state is not None, keep_all=context.keep_all)


def _build_run(config: dict[str, Any], context: TrialContext, *, stream_images: bool) -> Run:
    """A run of the trial's settings at epoch 0; its images are streamed where its share cannot hold them."""
    limit, data = _prepare_device(config, context), _open_dataset(context)
    return Run(
        RunSettings.model_validate(config["settings"]),
        data,
        context.numerics,
        context.weights,
        stream_images=stream_images or not _holds_images(data, context, limit),
        score_epochs=config["score"],
        all_draws=config["test"],
        record_spread=config["nll_sd"],
    )


def _resume_run(
    run: Run, config: dict[str, Any], context: TrialContext, recorded: _Recorded, retried: str | None
) -> None:
    """Restore the newest state that the trial can continue from, and report that it starts."""
    name = config["trial"]
    folder, trunk = f"{CHECKPOINTS}/{name}", f"{TRUNKS}/{config['trunk']}"
    observes_trunk = run.averages is not None  # a baseline, whose averages no state of the trunk has
    published = None
    try:
        restored = restore(
            run,
            context.store,
            folder,
            recorded.epochs,
            trunk,
            () if observes_trunk else config["publish"],
            recorded.checkpoints,
            () if observes_trunk else recorded.published,
        )
        own = restored.checkpoint if (restored.checkpoint or "").startswith(f"{folder}/") else None
        epoch = run.epoch - 1
        if own is None:
            published = run.record
        elif recorded.epochs <= epoch and epoch in set(config["publish"]) - recorded.published:
            published = read_live_record(context.store, trunk, epoch, run.device)
    except OSError as error:
        raise MachineError(
            f"{context.store.where}: checkpoints of {name} cannot be read now ({error}). If one of them "
            "never can be again, remove it: the trial then goes on from the one before"
        ) from error
    again = {} if retried is None else {"retried": retried}
    report_message(
        event="started", **_describe_place(context), from_epoch=run.epoch, damaged=restored.damaged, **again
    )
    if restored.checkpoint is not None and run.record is not None:
        # the worker may have died between saving this epoch and reporting it
        if run.done and config["test"]:
            report_test(run, probabilities=config["ensemble"])
        report_epoch(run, own, published, taken_over=restored.taken_over)
        recorded.add_epoch(epoch, own, published=published is not None, keep_all=context.keep_all)


def _install_plugins(context: TrialContext) -> None:
    """Run the user's own code, once in a worker process.

    Raises:
        MachineError: it does not run here, for want of what it imports, for one.
    """
    try:
        install_plugins(context.plugins)
    except RequestError as error:
        raise MachineError(f"on {os.uname().nodename}: {error}") from error


def _open_dataset(context: TrialContext) -> Dataset:
    """The images of this machine, opened once per worker process.

    Raises:
        MachineError: they, or torch, are not those that the search began with.
    """
    global _dataset
    if torch.__version__ != context.torch:
        raise MachineError(
            f"torch on {os.uname().nodename} is {torch.__version__}, and {context.torch} where the search "
            "began. Install the same, or take this node out of the cluster"
        )
    key = (context.data, context.data_dir)
    if _dataset is None or _dataset[0] != key:
        _dataset = (key, _find_images(context))
    data = _dataset[1]
    if data.fingerprint != context.fingerprint:
        raise MachineError(
            f"the images on {os.uname().nodename} differ from those that the search began with "
            f"(fingerprint {data.fingerprint[:12]}, expected {context.fingerprint[:12]})"
        )
    return data


def _find_images(context: TrialContext) -> Dataset:
    try:
        return context.unpickle_images() or prepare_dataset(context.data, context.data_dir)
    except RequestError as error:
        raise MachineError(f"on {os.uname().nodename}: {error}") from error


def _describe_place(context: TrialContext) -> dict[str, str]:
    """The fields of an event that name the device and the node."""
    return {"device": _describe_device(context), "node": os.uname().nodename}


def _describe_device(context: TrialContext) -> str:
    if not context.on_gpu:
        return f"cpu x{context.numerics.threads}"
    try:
        return describe_gpu()
    except RuntimeError as error:  # a GPU that is lost need not say what it is
        return f"a GPU ({describe_gpu_error(error)})"
