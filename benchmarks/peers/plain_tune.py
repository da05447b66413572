"""The search as one would write it from Ray Tune's PyTorch guide and torch's page on SWA.

A function trainable with a DataLoader, the documented loop of `torch.optim.swa_utils`, an accuracy for
every epoch (of the BN-updated average once there is one), Optuna and ASHA where they are asked for.
It is kept favourable: the images are tensors in memory already, nothing is checkpointed, workers are
used again, and Ray is as quiet as ours.

    python benchmarks/peers/plain_tune.py '{"epochs": 24, ...}'

prints one JSON line: seconds, epochs trained, and (seconds, accuracy) of every report.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

STARTED = time.time()
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")

import ray  # noqa: E402
import torch  # noqa: E402
import torchvision  # noqa: E402
from ray import tune  # noqa: E402
from ray.tune.schedulers import ASHAScheduler  # noqa: E402
from ray.tune.search.optuna import OptunaSearch  # noqa: E402
from torch import nn  # noqa: E402
from torch.optim.swa_utils import SWALR, AveragedModel, update_bn  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402


def accuracy(model: nn.Module, loader: DataLoader[Any]) -> float:
    model.eval()
    right = total = 0
    with torch.no_grad():
        for images, labels in loader:
            right += (model(images).argmax(1) == labels).sum().item()
            total += len(labels)
    return right / total


def train(config: dict[str, Any], sets: tuple[TensorDataset, TensorDataset], task: dict[str, Any]) -> None:
    torch.manual_seed(task["seed"])
    epochs = task["epochs"]
    train_loader = DataLoader(sets[0], batch_size=task["batch_size"], shuffle=True)
    val_loader = DataLoader(sets[1], batch_size=512)
    model = torchvision.models.resnet18(num_classes=task["num_classes"])
    optimizer = torch.optim.Adam(model.parameters(), lr=config["lr"], weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
    swa_start = config.get("swa_start")
    average, swa_scheduler = None, None
    loss_of = nn.CrossEntropyLoss()
    for epoch in range(epochs):
        model.train()
        for images, labels in train_loader:
            optimizer.zero_grad()
            loss_of(model(images), labels).backward()
            optimizer.step()
        if swa_start is not None and epoch > swa_start:
            if average is None:
                average = AveragedModel(model)
                swa_scheduler = SWALR(optimizer, swa_lr=config["swa_lr"], anneal_epochs=task["anneal_epochs"])
            average.update_parameters(model)
            swa_scheduler.step()
            update_bn(train_loader, average)
        else:
            scheduler.step()
        tune.report({"accuracy": accuracy(average or model, val_loader), "at": time.time()})


class Reports(tune.Callback):
    """Remembers when which accuracy arrived."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, float]] = []

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self.seen.append((time.time() - STARTED, result["accuracy"]))


def main(task: dict[str, Any]) -> dict[str, Any]:
    from peers.digits import tensors

    sets = tensors(task["data"])
    ray.init(
        address="local",
        num_cpus=task["cpus"], num_gpus=0, include_dashboard=False, log_to_driver=False,
        logging_level=logging.ERROR,
    )  # fmt: skip
    for name in ("ray.tune.tune", "ray.tune.execution.tune_controller"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    reports = Reports()
    settings: dict[str, Any] = {"reuse_actors": True}
    if "configurations" in task:
        space: dict[str, Any] = {"choice": tune.grid_search(task["configurations"])}
    else:
        low, high = task["swa_lr"]
        rates = tune.loguniform(*task["lr_range"]) if "lr_range" in task else tune.choice(task["lr"])
        space = {
            "lr": rates,
            "swa_start": tune.randint(task["swa_start"][0], task["swa_start"][1] + 1),
            "swa_lr": tune.loguniform(low, high),
        }
        settings |= {
            "num_samples": task["trials"],
            "max_concurrent_trials": task["cpus"],
            "search_alg": OptunaSearch(metric="accuracy", mode="max", seed=task["search_seed"]),
            "scheduler": ASHAScheduler(
                metric="accuracy", mode="max", time_attr="training_iteration", max_t=task["epochs"],
                grace_period=task["grace_period"], reduction_factor=3,
            ),
        }  # fmt: skip
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(_train, sets=sets, task=task), {"cpu": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(**settings),
        run_config=tune.RunConfig(
            storage_path=tempfile.mkdtemp(prefix="plain-tune-"), callbacks=[reports], verbose=0
        ),
    )
    results = tuner.fit()
    # of the trials that came to their end: the last accuracy, as one would choose
    ended = [(r.metrics["accuracy"], r.config) for r in results
             if r.metrics and r.metrics.get("training_iteration") == task["epochs"]]  # fmt: skip
    best = max(ended, key=lambda pair: pair[0], default=None)
    return {"seconds": time.time() - STARTED, "epochs": len(reports.seen), "reports": reports.seen,
            "best": best}  # fmt: skip


def _train(config: dict[str, Any], sets: Any, task: dict[str, Any]) -> None:
    train(config.get("choice", config), sets, task)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    os.environ["PYTHONPATH"] = os.pathsep.join([sys.path[0], os.environ.get("PYTHONPATH", "")])
    print(json.dumps(main(json.loads(sys.argv[1]))))
