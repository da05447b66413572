"""Makes the GPUs of MADE_UP_GPUS known to a process once it has imported torch, and nothing before."""

from __future__ import annotations

import gc
import os
from types import ModuleType

from helpers.after_import import change_after_import


def install_gpus(module: ModuleType) -> None:
    from made_up_gpus import VARIABLE, MadeUpGpus  # type: ignore[import-not-found]

    MadeUpGpus.from_json(os.environ[VARIABLE]).install()


# until all is imported: looking through it again and again takes a quarter of the time
gc.disable()
change_after_import("torchvision.models", lambda module: gc.enable())
if "MADE_UP_GPUS" in os.environ:
    change_after_import("torch", install_gpus)
