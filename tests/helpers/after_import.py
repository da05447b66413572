"""Change a module right after it is imported."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class AfterImport:
    """Finds one module as it would be found, and calls `change` with it once it has run."""

    def __init__(self, name: str, change: Callable[[ModuleType], None]) -> None:
        self._name, self._change = name, change

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != self._name:
            return None
        sys.meta_path.remove(self)  # type: ignore[arg-type]
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_change(module: ModuleType) -> None:
            execute(module)
            self._change(module)

        spec.loader.exec_module = execute_and_change  # type: ignore[method-assign]
        return spec


def change_after_import(name: str, change: Callable[[ModuleType], None]) -> None:
    """Call `change` with the module `name` when this process imports it, at once where it has."""
    if name in sys.modules:
        change(sys.modules[name])
        return
    sys.meta_path.insert(0, AfterImport(name, change))  # type: ignore[arg-type]
