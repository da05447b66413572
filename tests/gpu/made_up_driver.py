"""The driver's libraries, which programs open by name: NVML counts GPUs, libcuda has a version."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from made_up_gpus import MadeUpGpus, Put  # type: ignore[import-not-found]

SUCCESS = 0
REAL = ctypes.CDLL


class Nvml:
    """NVML: it counts GPUs whatever the driver's age, and knows nothing of CUDA_VISIBLE_DEVICES."""

    def __init__(self, gpus: MadeUpGpus) -> None:
        self._uuids = [card.uuid for card in gpus.cards if not card.is_slice]
        if any(card.is_slice for card in gpus.cards):  # slices are of one GPU
            self._uuids.append("GPU-that-is-sliced")

    def nvmlInit(self) -> int:  # noqa: N802
        return SUCCESS

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:  # noqa: N802
        count._obj.value = len(self._uuids)
        return SUCCESS

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, handle: Any) -> int:  # noqa: N802
        handle._obj.value = index + 1  # 0 would read back as None
        return SUCCESS

    def nvmlDeviceGetUUID(self, handle: Any, buffer: Any, length: int) -> int:  # noqa: N802
        buffer.value = self._uuids[handle.value - 1].encode()[: length - 1]
        return SUCCESS


class Driver:
    """libcuda."""

    def __init__(self, gpus: MadeUpGpus) -> None:
        self._gpus = gpus

    def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802
        version._obj.value = self._gpus.driver
        return SUCCESS


def install(gpus: MadeUpGpus, put: Put) -> None:
    """Let `ctypes.CDLL` open the made-up libraries. Without a driver there are none, here too."""

    class Library(REAL):
        _made_up: Any = None

        def __init__(self, name: Any, *arguments: Any, **options: Any) -> None:
            kind = {"libnvidia-ml.so.1": Nvml, "libcuda.so.1": Driver}.get(str(name))
            if kind is None:
                super().__init__(name, *arguments, **options)
            elif gpus.driver is None:
                raise OSError(f"{name}: cannot open shared object file: No such file or directory")
            else:
                self._made_up = kind(gpus)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._made_up, name) if self._made_up else super().__getattr__(name)

    put(ctypes, "CDLL", Library)
