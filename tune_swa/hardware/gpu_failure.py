"""Errors after which a process can use its GPU no more."""

from __future__ import annotations

import os
import re

import torch

from tune_swa.hardware.gpu_memory import is_memory_exhausted
from tune_swa.text import first_line

STICKY_CODES = frozenset(
    {
        214,  # cudaErrorECCUncorrectable
        220,  # cudaErrorNvlinkUncorrectable
        226,  # cudaErrorContained
        700,  # cudaErrorIllegalAddress
        702,  # cudaErrorLaunchTimeout
        709,  # cudaErrorContextIsDestroyed
        710,  # cudaErrorAssert
        714,  # cudaErrorHardwareStackError
        715,  # cudaErrorIllegalInstruction
        716,  # cudaErrorMisalignedAddress
        717,  # cudaErrorInvalidAddressSpace
        718,  # cudaErrorInvalidPc
        719,  # cudaErrorLaunchFailure
        721,  # cudaErrorTensorMemoryLeak
        810,  # cudaErrorMpsClientTerminated
        911,  # cudaErrorExternalDevice
    }
)
"""Codes of CUDA's runtime that leave a process without a usable context. Of most, driver_types.h says: "To
continue using CUDA, the process must be terminated and relaunched"."""
_STICKY_TEXTS = (
    "illegal memory access",
    "uncorrectable ECC error",
    "uncorrectable NVLink error",
    "unspecified launch failure",
    "launch timed out",
    "device-side assert",
    "misaligned address",
    "illegal instruction",
    "hardware stack error",
    "invalid program counter",
    "operation not supported on global/shared address space",
    "context is destroyed",
)
"""The runtime's words for those codes, for errors that come without one."""


def is_gpu_lost(error: BaseException, *, on_gpu: bool) -> bool:
    """Whether this process can use its GPU no more, after an error in it.

    Args:
        error: what was raised.
        on_gpu: whether the process works on a GPU. Then, whatever the error says, the GPU is asked: an error
            in a kernel can surface in any later call, under any name.
    """
    return _names_lost_gpu(error) or (on_gpu and not _answers())


def describe_gpu_error(error: BaseException) -> str:
    """The first line of an error, without torch's advice on debugging."""
    return f"{type(error).__name__}: {first_line(error)}"[:300]


def describe_gpu() -> str:
    """Name, index and UUID of the present GPU: `NVIDIA L4 (GPU 2, GPU-8f0e...)`.

    The index is the machine's, by `CUDA_VISIBLE_DEVICES`, which may also hold UUIDs or not be set at all.
    """
    device = torch.cuda.current_device()
    visible = [entry.strip() for entry in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    entry = visible[device] if device < len(visible) and visible[device] else str(device)
    uuid = str(getattr(torch.cuda.get_device_properties(device), "uuid", ""))
    uuid = uuid if not uuid or uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
    facts = [f"GPU {entry}"] if entry.isdigit() else [entry]
    if uuid and (entry.isdigit() or entry.startswith("MIG")):
        facts.append(uuid)
    return f"{torch.cuda.get_device_name(device)} ({', '.join(facts)})"


def _names_lost_gpu(error: BaseException) -> bool:
    if not isinstance(error, RuntimeError):
        return False
    text = str(error)
    # torch's AcceleratorError names its code; older ones and its other wrappers only have the runtime's words
    code = getattr(error, "error_code", None)
    if isinstance(code, int):
        return code in STICKY_CODES
    return re.search(r"CUDA (?:driver )?error", text) is not None and any(t in text for t in _STICKY_TEXTS)


def _answers() -> bool:
    """Whether the GPU still takes work and gives its result back."""
    try:
        torch.cuda.synchronize()
        torch.ones(2, device="cuda").sum().item()
    except Exception as error:
        return is_memory_exhausted(error)  # there was no room for the sum, which the driver could say
    return True
