"""A trainable that reports made-up curves, for searches in which nothing is trained."""

from __future__ import annotations

import json
import math
import os
import time
from base64 import b64encode
from typing import Any

from ray import tune

from tune_swa.search.names import PAYLOAD


def made_up_trial(config: dict[str, Any], shared: Any) -> None:
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
        quality = 1 - 0.1 * abs(math.log10(settings["lr"]) + 2)
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
            marker = shared.store.root / f"{config['trial']} died once"
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
                "predictions": b64encode(b"").decode(),
            }  # fmt: skip
            tune.report({PAYLOAD: json.dumps(tested)})
        tune.report({PAYLOAD: json.dumps(report)})
