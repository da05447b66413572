"""One configuration after the other, images through PIL and a DataLoader: the tutorial's way.

    python benchmarks/peers/tutorial_loop.py '{"epochs": 24, ...}'

trains `task["measured"]` of the configurations, on all cores, and prints one JSON line: seconds of
each epoch.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn
from torch.optim.swa_utils import SWALR, AveragedModel, update_bn
from torch.utils.data import DataLoader
from torchvision import transforms


def main(task: dict[str, Any]) -> list[float]:
    from peers.digits import Pictures, tensors
    from peers.plain_tune import accuracy

    size = task["data"]["image_size"]
    transform = transforms.Compose([transforms.Resize((size, size)), transforms.ToTensor()])
    train_loader = DataLoader(Pictures(task["data"], transform), batch_size=task["batch_size"], shuffle=True)
    val_loader = DataLoader(tensors(task["data"])[1], batch_size=512)
    seconds = []
    for config in task["configurations"][: task["measured"]]:
        torch.manual_seed(task["seed"])
        model = torchvision.models.resnet18(num_classes=task["num_classes"])
        optimizer = torch.optim.Adam(model.parameters(), lr=config["lr"], weight_decay=1e-4)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=task["epochs"])
        average, swa_scheduler = None, None
        for epoch in range(task["epochs"]):
            begun = time.perf_counter()
            model.train()
            for images, labels in train_loader:
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(images), labels).backward()
                optimizer.step()
            if config.get("swa_start") is not None and epoch > config["swa_start"]:
                if average is None:
                    average = AveragedModel(model)
                    swa_scheduler = SWALR(optimizer, config["swa_lr"], anneal_epochs=task["anneal_epochs"])
                average.update_parameters(model)
                swa_scheduler.step()
                update_bn(train_loader, average)
            else:
                scheduler.step()
            accuracy(average or model, val_loader)
            seconds.append(time.perf_counter() - begun)
    return seconds


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    print(json.dumps(main(json.loads(sys.argv[1]))))
