"""Probe what torch can do on this machine. To be called in a process of its own: it may crash."""

from __future__ import annotations

import ctypes
import importlib
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

from tune_swa.text import first_line


@dataclass(frozen=True)
class Gpu:
    """One GPU, or part of one (MIG), as CUDA sees it."""

    name: str
    memory: int
    """Memory in bytes."""
    free: int
    """Bytes that nobody has taken."""
    capability: str
    """Compute capability, such as 9.0."""
    bf16: bool
    """Whether it computes with bf16 itself."""
    error: str | None = None
    """Why it cannot train; None: it can."""
    uuid: str = ""


@dataclass(frozen=True)
class GpuSurvey:
    """The GPUs that CUDA finds once it is initialised, and the software under them."""

    gpus: tuple[Gpu, ...] = ()
    """GPUs in the order in which CUDA counts them."""
    cuda: str | None = None
    """CUDA (or ROCm) version that torch was built with; None: for the CPU alone."""
    driver_cuda: str | None = None
    """Newest CUDA version that the driver serves; None: there is no driver."""
    driver: str | None = None
    """Version of NVIDIA's driver."""
    cudnn: int | None = None
    """Version of cuDNN as it gives it, such as 92400 for 9.24.0."""
    architectures: tuple[str, ...] = ()
    """Architectures that torch has kernels for, such as sm_90."""
    hidden: bool = False
    """Whether CUDA_VISIBLE_DEVICES leaves all GPUs out."""
    error: str | None = None
    """Why there is no GPU where there is a driver, in torch's words."""

    @classmethod
    def from_dict(cls, facts: dict[str, Any]) -> GpuSurvey:
        gpus = tuple(Gpu(**gpu) for gpu in facts["gpus"])
        return cls(**{**facts, "gpus": gpus, "architectures": tuple(facts["architectures"])})

    @property
    def driver_too_old(self) -> bool:
        """Whether the driver serves an older major version of CUDA than torch was built with."""
        if self.driver_cuda is None or self.cuda is None:
            return False
        # within a major version, programs run on the drivers of all of its minor versions
        return int(self.driver_cuda.partition(".")[0]) < int(self.cuda.partition(".")[0])


@dataclass(frozen=True)
class TorchFacts:
    """Abilities of torch and torchvision that need no GPU."""

    cuda: str | None = None
    """CUDA (or ROCm) version that torch was built with; None: for the CPU alone."""
    cpu_error: str | None = None
    """Why the CPU cannot train; None: it can."""
    torchvision_error: str | None = None
    """Why torchvision cannot be imported."""


def probe_torch() -> dict[str, Any]:
    """`TorchFacts` of this machine, as a dictionary."""
    import torch

    torch.set_num_threads(1)
    return asdict(TorchFacts(built_for(), _train_a_step("cpu"), _find_torchvision_error()))


def probe_gpus() -> dict[str, Any]:
    """`GpuSurvey` of what this process sees, as a dictionary. Initialises CUDA.

    `torch.cuda.device_count` asks NVML before CUDA is initialised, which counts what CUDA may not be able
    to use: GPUs of a driver that is too old, and the whole of a GPU of which only parts can be used.
    """
    import torch

    torch.set_num_threads(1)
    error, count = None, 0
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        # torch.cuda.device_count asks NVML even now, in some versions of torch
        count = torch._C._cuda_getDeviceCount()
    except Exception as raised:  # AssertionError and RuntimeError, both with a message
        error = first_line(raised)
    survey = GpuSurvey(
        gpus=tuple(map(_look_at, range(count))),
        cuda=built_for(),
        driver_cuda=driver_cuda(),
        driver=driver_version(),
        cudnn=cudnn_version() if count else None,
        architectures=tuple(torch.cuda.get_arch_list()),
        error=error,
    )
    return asdict(survey)


def built_for() -> str | None:
    """CUDA or ROCm version that torch was built with; None: for the CPU alone."""
    import torch

    return torch.version.cuda or torch.version.hip


def cudnn_version() -> int | None:
    """Version of cuDNN as it gives it, such as 92400 for 9.24.0; None: this torch has none.

    `torch.backends.cudnn.version` raises at its first call where one of the GPUs is too old for that cuDNN,
    whichever of them are used. That is for a training step on each of them to find.
    """
    import torch

    try:
        version: int | None = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    except RuntimeError:
        version = torch._C._cudnn.getVersionInt()
    return version


def driver_cuda(library: str = "libcuda.so.1") -> str | None:
    """The newest CUDA version that the driver of this machine serves; None: there is none."""
    version = ctypes.c_int()
    try:
        if ctypes.CDLL(library).cuDriverGetVersion(ctypes.byref(version)) != 0:
            return None
    except (OSError, AttributeError):
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def driver_version(library: str = "libnvidia-ml.so.1") -> str | None:
    """Version of NVIDIA's driver, such as 580.65.06; None: it does not say."""
    text = ctypes.create_string_buffer(96)
    try:
        nvml = ctypes.CDLL(library)
        if nvml.nvmlInit_v2() != 0 or nvml.nvmlSystemGetDriverVersion(text, len(text)) != 0:
            return None
        nvml.nvmlShutdown()
    except (OSError, AttributeError):
        return None
    return text.value.decode(errors="replace") or None


def hides_all_gpus(visible: str | None) -> bool:
    """Whether a value of CUDA_VISIBLE_DEVICES leaves no GPU; Slurm says NoDevFiles to jobs without one."""
    return visible is not None and visible.strip() in ("", "-1", "NoDevFiles")


def _look_at(index: int) -> Gpu:
    import torch

    about = torch.cuda.get_device_properties(index)
    free, bf16 = 0, False
    try:
        with torch.cuda.device(index):
            free = torch.cuda.mem_get_info(index)[0]
            bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
            error = _train_a_step(f"cuda:{index}") or (
                _train_a_step(f"cuda:{index}", "bf16") if bf16 else None
            )
    except Exception as raised:
        error = first_line(raised)
    capability = f"{about.major}.{about.minor}"
    uuid = str(getattr(about, "uuid", ""))
    return Gpu(about.name, about.total_memory, free, capability, bf16, error, uuid)


def _train_a_step(device: str, precision: str = "fp32") -> str | None:
    """Run a convolution and its gradient, whose results are known; return what goes wrong."""
    import torch

    precise: AbstractContextManager[Any] = nullcontext()
    if precision == "bf16":
        precise = torch.autocast(device.partition(":")[0], dtype=torch.bfloat16)
    try:
        images = torch.ones(2, 3, 8, 8, device=device)
        weight = torch.ones(4, 3, 3, 3, device=device, requires_grad=True)
        with precise:
            result = torch.nn.functional.conv2d(images, weight)
        result.float().sum().backward()  # type: ignore[no-untyped-call]
        assert weight.grad is not None
        # each output is the sum of 27 ones; each weight meets 6 x 6 places of 2 images
        right = bool((result == 27).all()) and bool((weight.grad == 72).all())
    except Exception as error:
        return first_line(error)
    return None if right else f"a convolution in {precision} gives wrong numbers"


def _find_torchvision_error() -> str | None:
    try:
        importlib.import_module("torchvision.models")
    except Exception as error:  # of another torch, its import fails in many ways
        return f"{type(error).__name__}: {first_line(error)}"
    return None
