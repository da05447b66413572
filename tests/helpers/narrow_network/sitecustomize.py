"""Puts the narrow ResNet-18 in the place of torchvision's, once a process imports torchvision.models.

Python imports this file by itself where its folder is on PYTHONPATH.
"""

from __future__ import annotations

import gc
import sys
from types import ModuleType

from helpers.after_import import change_after_import


def replace_resnet(module: ModuleType) -> None:
    from helpers.narrow_resnet import build_narrow_resnet

    module.resnet18 = build_narrow_resnet  # type: ignore[attr-defined]
    gc.enable()


if "torchvision.models" not in sys.modules:
    gc.disable()  # until all is imported: looking through it again and again takes a quarter of the time
change_after_import("torchvision.models", replace_resnet)
