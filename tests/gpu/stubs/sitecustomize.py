"""Makes the GPUs of MADE_UP_GPUS known to a process once it has imported torch, and nothing before."""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class _AfterTorch:
    """Finds torch as it would be found, and installs the GPUs after it was run."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != "torch":
            return None
        sys.meta_path.remove(self)  # type: ignore[arg-type]
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def run_and_install(module: ModuleType) -> None:
            run(module)
            from made_up_gpus import VARIABLE, MadeUpGpus  # type: ignore[import-not-found]

            MadeUpGpus.from_json(os.environ[VARIABLE]).install()

        spec.loader.exec_module = run_and_install  # type: ignore[method-assign]
        return spec


if "MADE_UP_GPUS" in os.environ:
    sys.meta_path.insert(0, _AfterTorch())  # type: ignore[arg-type]
