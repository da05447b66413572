"""Decide device, number formats and kernels of a run: everything that can change its bits."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from tune_swa.config import TrainSpec
from tune_swa.errors import RequestError
from tune_swa.hardware.torch_probe import Gpu, cudnn_version
from tune_swa.text import first_line

if TYPE_CHECKING:  # a request is checked before torch is imported, which takes a second
    import torch
    from torch import nn

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
_AUTOCAST = frozenset({"bf16", "fp16"})


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
        import torch

        return torch.channels_last if self.channels_last else torch.contiguous_format

    def autocast(self) -> AbstractContextManager[Any]:
        """Context in which the network's forward pass runs."""
        if self.precision not in _AUTOCAST:
            return nullcontext()
        import torch

        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float16
        return torch.autocast(self.device, dtype=dtype)

    def compile_forward(self, model: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return the network's forward pass, compiled if it is to be."""
        import torch

        # dynamic=False: the smaller last batch gets a graph of its own; by default torch would compile one
        # of any batch size for both, which is slower
        return torch.compile(model, dynamic=False) if self.compile else model

    def set_backends(self) -> None:
        """Set for this process what torch decides per process on a GPU: TF32, and the choice of kernels.

        `fp32` is IEEE's: torch lets cuDNN compute convolutions in TF32 unless it is told otherwise.
        """
        if self.device == "cpu":
            return
        import torch

        # Two ways to say it. Once `fp32_precision`, the newer one, differs between matmul, conv and rnn,
        # reading `allow_tf32` raises, and so does everything that reads it (torch.backends.cudnn.flags).
        # `allow_tf32` sets what both read, and torch.compile restores it: tried with torch 2.11 and 2.14.
        torch.backends.cuda.matmul.allow_tf32 = self.precision == "tf32"
        torch.backends.cudnn.allow_tf32 = self.precision == "tf32"
        # measured once for each shape; the shapes of a run are few and come back in every epoch
        torch.backends.cudnn.benchmark = True

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


CHANNELS_LAST_FROM = 64
"""Pixels from which on channels last is the faster format on a CPU; below, it costs a tenth
(benchmarks/step.py)."""


def decide_numerics(
    train: TrainSpec,
    image_size: int,
    *,
    device: str | None = None,
    threads: int | None = None,
    gpus: Sequence[Gpu] | None = None,
) -> Numerics:
    """Decide every `auto` for this machine.

    Args:
        train: the settings.
        image_size: pixels of a side.
        device: `cpu` or `cuda`; default: a GPU if there is one.
        threads: CPU threads of one run; default: torch's present number.
        gpus: every GPU that runs may be placed on, so that all of them compute with the same numerics;
            default: those that this process sees.

    Raises:
        RequestError: a precision that the device cannot run, or a GPU that this build of torch cannot use.
    """
    if device is None:
        device = "cuda" if (_sees_gpus() if gpus is None else gpus) else "cpu"
    kind: Literal["cpu", "cuda"] = "cuda" if device.startswith("cuda") else "cpu"
    wanted = "fp32" if train.arithmetic else train.precision  # block floating point rounds what fp32 computes
    if kind == "cpu":
        precision = _precision_of_cpu(wanted)
    else:
        gpus = local_gpus() if gpus is None else gpus
        check_kernels(gpus)
        precision = _precision_of_gpus(wanted, gpus)
    format_pays = kind == "cuda" or image_size >= CHANNELS_LAST_FROM
    return Numerics(
        device=kind,
        precision=precision,
        threads=threads or _count_threads(),
        channels_last=format_pays if train.channels_last == "auto" else train.channels_last,
        fused=train.fused is not False,
        compile=train.compile,
    )


def _sees_gpus() -> bool:
    import torch

    return torch.cuda.is_available()


def _count_threads() -> int:
    import torch

    return torch.get_num_threads()


def _precision_of_cpu(wanted: str) -> Precision:
    if wanted == "fp16":
        raise RequestError(
            "train.precision: fp16 needs a GPU (its gradients would underflow without the scaler); "
            "use fp32, bf16 or auto on the CPU"
        )
    if wanted == "tf32":
        raise RequestError(
            "train.precision: tf32 needs a GPU of compute capability 8.0 or later; use fp32, bf16 or auto "
            "on the CPU"
        )
    return "bf16" if wanted == "bf16" else "fp32"


def _precision_of_gpus(wanted: str, gpus: Sequence[Gpu]) -> Precision:
    """Return the precision that all GPUs can run, or the one asked for."""
    if wanted == "auto":
        if all(gpu.bf16 for gpu in gpus):
            return "bf16"
        # tensor cores for half floats came with compute capability 7.0
        return "fp16" if all(_parse_capability(gpu) >= (7, 0) for gpu in gpus) else "fp32"
    for gpu in gpus:
        if wanted == "bf16" and not gpu.bf16:
            raise RequestError(f"train.precision: {gpu.name} has no bf16; use fp16, fp32 or auto")
        if wanted == "tf32" and _parse_capability(gpu) < (8, 0):
            raise RequestError(
                f"train.precision: {gpu.name} has no TF32 (compute capability {gpu.capability}; it came "
                "with 8.0); use fp16, fp32 or auto"
            )
    return cast(Precision, wanted)


def local_gpus() -> tuple[Gpu, ...]:
    """The GPUs that this process sees. Initialises CUDA.

    Raises:
        RequestError: there is none that can be used.
    """
    import torch

    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        return tuple(map(_describe_gpu, range(torch.cuda.device_count())))
    except (AssertionError, RuntimeError) as error:  # torch raises either, with or without a driver
        raise RequestError(
            f"no GPU can be used here ({first_line(error)}); train on the CPU with --gpus 0"
        ) from None


def _describe_gpu(index: int) -> Gpu:
    import torch

    about = torch.cuda.get_device_properties(index)
    with torch.cuda.device(index):
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        free = torch.cuda.mem_get_info(index)[0]
    return Gpu(about.name, about.total_memory, free, f"{about.major}.{about.minor}", bf16)


def check_kernels(gpus: Sequence[Gpu]) -> None:
    """Check that this build of torch has kernels for all GPUs: training would fail at its first one.

    Raises:
        RequestError: it has none for one of them.
    """
    import torch

    built_for = compiled_architectures()
    for gpu in gpus:
        if built_for and not any(
            _runs_on(architecture, _parse_capability(gpu)) for architecture in built_for
        ):
            raise RequestError(
                f"torch {torch.__version__} has no kernels for {gpu.name} (compute capability "
                f"{gpu.capability}; it was built for {', '.join(built_for)}). Leave that GPU out with "
                "CUDA_VISIBLE_DEVICES, install a build of torch for it, or train on the CPU with --gpus 0"
            )


def compiled_architectures() -> list[str]:
    """Return the architectures this build of torch has kernels for, such as `sm_90`; empty: not known, or not
    CUDA's.

    `torch.cuda.get_arch_list` has the same list, but hides it where there is no GPU, as in the driver of
    a search that leaves CUDA alone.
    """
    import torch

    read = getattr(torch._C, "_cuda_getArchFlags", None)
    if read is None or torch.version.hip:  # ROCm names its architectures in another way
        return []
    return (read() or "").split()


def _runs_on(architecture: str, capability: tuple[int, int]) -> bool:
    """Whether a GPU runs what was compiled for `architecture` (CUDA programming guide, "Compute
    Capabilities"): machine code within its major version, PTX on everything later."""
    match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", architecture)
    if match is None:
        return False
    kind, major, minor, only = match.groups()
    built = (int(major), int(minor))
    if only == "a":  # uses features that no other version has
        return capability == built
    if kind == "sm" or only == "f":
        return capability[0] == built[0] and capability >= built
    return capability >= built


def _parse_capability(gpu: Gpu) -> tuple[int, int]:
    major, _, minor = gpu.capability.partition(".")
    return int(major), int(minor)


def describe_hardware(gpus: Sequence[Gpu] = ()) -> dict[str, Any]:
    """Describe this machine for the record. Leaves CUDA alone.

    Args:
        gpus: those that are trained on.
    """
    import platform

    found = {
        "machine": platform.machine(),
        "processor": _processor_name(),
        "cores": os.cpu_count(),
        "gpus": [gpu.name for gpu in gpus],
        "system": platform.platform(),
    }
    if gpus:
        import torch

        found |= {"cuda": torch.version.cuda, "cudnn": cudnn_version()}
    return found


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
