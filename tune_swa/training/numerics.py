"""Which device, number formats and kernels a run uses: everything that can change its bits."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from tune_swa.errors import RequestError
from tune_swa.spec import TrainSpec

Precision = Literal["fp32", "bf16", "fp16"]
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Numerics:
    """Resolved once per experiment, recorded, and part of a trunk's name."""

    device: Literal["cpu", "cuda"]
    precision: Precision
    threads: int
    """CPU threads of one run. Reductions are split by thread, so their last bits depend on it."""
    channels_last: bool
    fused: bool
    compile: bool

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def autocast(self) -> AbstractContextManager[Any]:
        """Context in which the network's forward pass runs."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device, dtype=_AUTOCAST[self.precision])

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


CHANNELS_LAST_FROM = 64
"""Pixels from which on channels last is the faster format on a CPU; below, it costs a tenth
(benchmarks/step.py)."""


def resolve(
    train: TrainSpec, image_size: int, *, device: str | None = None, threads: int | None = None
) -> Numerics:
    """Decide every `auto` for this machine.

    Args:
        train: the settings.
        image_size: pixels of a side.
        device: `cpu` or `cuda`; default: a GPU if there is one.
        threads: CPU threads of one run; default: torch's present number.

    Raises:
        RequestError: a precision that the device cannot run.
    """
    kind: Literal["cpu", "cuda"]
    if device is None:
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    else:
        kind = "cuda" if device.startswith("cuda") else "cpu"
    precision = _precision(train.precision, kind)
    format_pays = kind == "cuda" or image_size >= CHANNELS_LAST_FROM
    return Numerics(
        device=kind,
        precision=precision,
        threads=threads or torch.get_num_threads(),
        channels_last=format_pays if train.channels_last == "auto" else train.channels_last,
        fused=train.fused is not False,
        compile=train.compile,
    )


def _precision(wanted: str, kind: str) -> Precision:
    if kind == "cpu":
        if wanted == "fp16":
            raise RequestError(
                "train.precision: fp16 needs a GPU (its gradients would underflow without the scaler); "
                "use fp32, bf16 or auto on the CPU"
            )
        return "bf16" if wanted == "bf16" else "fp32"
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    if wanted == "auto":
        # tensor cores for half floats came with compute capability 7.0, for bf16 with 8.0
        return "bf16" if bf16 else "fp16" if torch.cuda.get_device_capability() >= (7, 0) else "fp32"
    if wanted == "bf16" and not bf16:
        raise RequestError(
            f"train.precision: {torch.cuda.get_device_name()} has no bf16; use fp16, fp32 or auto"
        )
    return "fp16" if wanted == "fp16" else "bf16" if wanted == "bf16" else "fp32"


def hardware() -> dict[str, Any]:
    """What this machine is, for the record."""
    import platform

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "machine": platform.machine(),
        "processor": _processor_name(),
        "cores": os.cpu_count(),
        "gpus": gpus,
        "system": platform.platform(),
    }


def _processor_name() -> str:
    import platform

    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
