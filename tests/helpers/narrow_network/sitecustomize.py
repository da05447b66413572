"""Puts the narrow ResNet-18 in the place of torchvision's, once a process imports torchvision.models.

Python imports this file by itself where its folder is on PYTHONPATH.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class AfterTorchvision:
    """Finds torchvision.models as it would be found, and replaces its network after it was imported."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != "torchvision.models":
            return None
        sys.meta_path.remove(self)  # type: ignore[arg-type]
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_replace(module: ModuleType) -> None:
            execute(module)
            from helpers.narrow_resnet import build_narrow_resnet

            module.resnet18 = build_narrow_resnet  # type: ignore[attr-defined]

        spec.loader.exec_module = execute_and_replace  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, AfterTorchvision())  # type: ignore[arg-type]
