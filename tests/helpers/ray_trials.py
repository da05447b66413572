"""A trainable that reports made-up curves, for searches in which nothing is trained."""

from __future__ import annotations

import io
import json
import math
import os
import time
from base64 import b64encode
from typing import Any

import numpy as np
from ray import tune

from tune_swa.experiment.layout import PAYLOAD


def two_right() -> bytes:
    """The file of predictions of a run that is right on both of its test images."""
    values = {name: np.full(2, 0.9) for name in ("probability", "confidence", "nll", "brier")}
    file = io.BytesIO()
    np.savez(
        file, label=np.zeros(2, np.int32), **{"shipped.predicted": np.zeros(2, np.int32)},
        **{f"shipped.{name}": array for name, array in values.items()},
    )  # fmt: skip
    return file.getvalue()


def made_up_trial(config: dict[str, Any], context: Any) -> None:
    """Reports like the real one; better for lr and swa_lr near 1e-2. Weight decays stand for faults.

    States are published in the journal alone: there is nothing in them to go on from.
    """
    if config["trial"] is None:  # only the worker is wanted
        return
    settings = config["settings"]
    fault = settings["train"]["weight_decay"]
    begun = {
        "event": "started", "device": os.environ.get("CUDA_VISIBLE_DEVICES", "none"), "node": "here",
        "from_epoch": 0, "damaged": [],
    }  # fmt: skip
    tune.report({PAYLOAD: json.dumps(begun)})
    for epoch in range(settings["train"]["epochs"]):
        start = settings["swa_start"]
        averaged = 0 if start is None else max(0, epoch - start)
        quality = 0.9 - 0.1 * abs(math.log10(settings["lr"]) + 2)
        if averaged:
            quality += 0.05 - 0.02 * abs(math.log10(settings["swa_lr"]) + 2)
        if fault >= 0.5:
            time.sleep(fault)
        if fault == 0.1 and epoch == 1:
            message = {"event": "failed", "error": "the training loss is nan in epoch 1"}
            tune.report({PAYLOAD: json.dumps(message)})
            return
        if fault == 0.2 and epoch == 1:
            return
        if fault == 0.3 and epoch == 1:
            os._exit(9)
        if fault == 0.4 and epoch == 2:
            marker = context.store.root / f"{config['trial']} died once"
            if not marker.exists():
                marker.touch()
                os._exit(9)
        record = {
            "epoch": epoch, "phase": "branch" if averaged else "trunk", "learning_rate": settings["lr"],
            "train_loss": 1 - quality / 2, "accuracy": quality * (1 - 0.5 ** (epoch + 1)),
            "live_accuracy": quality / 2, "nll": 1.0, "ece": 0.1, "n_averaged": averaged,
            "train_seconds": 0.1, "bn_seconds": 0.0, "eval_seconds": 0.0, "images_per_second": 500.0,
        }  # fmt: skip
        publishes = averaged <= 1 and epoch in config["publish"] and epoch not in config["published"]
        report = {
            "event": "epoch", "record": record, "checkpoint": None,
            "published": {**record, "phase": "trunk", "n_averaged": 0} if publishes else None,
        }  # fmt: skip
        if config["test"] and epoch == settings["train"]["epochs"] - 1:
            metrics = {"accuracy": quality, "nll": 1.0, "ece": 0.1, "brier": 0.5}
            tested = {
                "event": "tested", "images": 2, "shipped": metrics, "refreshed": None,
                "predictions": b64encode(two_right()).decode(),
            }  # fmt: skip
            tune.report({PAYLOAD: json.dumps(tested)})
        tune.report({PAYLOAD: json.dumps(report)})


# ------------------------------------------------------- the real trial, on a GPU that is made to fail


def sticky_error() -> Exception:
    """What torch raises for an error that leaves a process without its GPU."""
    import torch

    error = torch.AcceleratorError(
        "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be reported later"
    )
    error.error_code = 700  # type: ignore[attr-defined]
    return error


def trial_that_needs_a_whole_gpu(config: dict[str, Any], context: Any) -> None:
    """The real one; from the first average on, torch's allocator refuses it less than a whole GPU."""
    import torch

    from tune_swa.averaging.swa import Averaging
    from tune_swa.execution.trainable import train_trial

    def refuse(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 44.00 MiB.")

    update = Averaging.update_average
    if config["gpus"] < 1:
        Averaging.update_average = refuse  # type: ignore[method-assign]
    try:
        train_trial(config, context)
    finally:
        Averaging.update_average = update  # type: ignore[method-assign]


def trial_that_loses_its_gpu(config: dict[str, Any], context: Any) -> None:
    """The real one; the process that trains swa-0001 first raises in whatever it trains from then on."""
    from tune_swa.execution.trainable import train_trial
    from tune_swa.training.run import Run

    marker = context.store.root / "lost"
    with (context.store.root / "processes").open("a") as file:
        file.write(f"{os.getpid()}\n")
    if config["trial"] == "swa-0001" and not marker.exists():
        train = Run.train_epoch

        def lose(run: Run) -> float:
            if run.epoch == 1 or marker.exists():
                marker.write_text(str(os.getpid()))
                raise sticky_error()
            return train(run)

        Run.train_epoch = lose  # type: ignore[method-assign]
    train_trial(config, context)


def trial_that_always_loses_its_gpu(config: dict[str, Any], context: Any) -> None:
    """The real one; swa-0000 loses the GPU of every process that trains it."""
    from tune_swa.execution.trainable import train_trial
    from tune_swa.training.run import Run

    def lose(run: Run) -> float:
        raise sticky_error()

    if config["trial"] == "swa-0000":
        Run.train_epoch = lose  # type: ignore[method-assign]
    train_trial(config, context)


def trial_without_memory_at_first(config: dict[str, Any], context: Any) -> None:
    """The made-up one, in a worker that has no memory for the first attempt at each trial."""
    from unittest import mock

    from tune_swa.execution import trainable

    marker = context.store.root / f"{config['trial']} had no memory"
    if config["trial"] is None or marker.exists():
        made_up_trial(config, context)
        return
    marker.touch()
    with mock.patch.object(trainable, "_build_run", side_effect=MemoryError("made up")):
        trainable.train_trial(config, context)
