"""A ResNet-18 with an eighth of the channels: checkpoints of 2 MB instead of 134, epochs of milliseconds.

Where `NARROW_BY` is set, its channels are divided by that instead of by eight.

For programs that a test starts, and their Ray workers, `narrow_environment` puts it in torchvision's place.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def narrow_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return `environment` with a `sitecustomize` that narrows the network in every Python process."""
    paths = [str(HERE / "narrow_network"), str(HERE.parent), *filter(None, [environment.get("PYTHONPATH")])]
    return {**environment, "PYTHONPATH": os.pathsep.join(paths)}


def build_narrow_resnet(num_classes: int = 1000) -> Any:
    """Build it as `torchvision.models.resnet18` builds the wide one."""
    from torch import nn
    from torchvision.models.resnet import BasicBlock, ResNet

    divisor = int(os.environ.get("NARROW_BY", "8"))

    class NarrowResNet(ResNet):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(BasicBlock, [2, 2, 2, 2], num_classes)
            self.fc = nn.Linear(512 // divisor, num_classes)

        def _make_layer(self, block: Any, planes: int, *more: Any, **named: Any) -> Any:
            return super()._make_layer(block, planes // divisor, *more, **named)

    return NarrowResNet()
