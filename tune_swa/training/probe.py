"""What torch can do on this machine, tried out. To be called in a process of its own: it may crash."""

from __future__ import annotations

import ctypes
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Gpu:
    """One GPU, as torch sees it."""

    name: str
    memory: int
    """In bytes."""
    free: int
    """Bytes that nobody has taken."""
    capability: str
    """Compute capability, such as 9.0."""
    bf16: bool
    """Whether it computes with bf16 itself."""
    error: str | None = None
    """Why it cannot train; None: it can."""


@dataclass(frozen=True)
class TorchFacts:
    """What was found."""

    cuda: str | None = None
    """CUDA (or ROCm) version that torch was built with; None: for the CPU alone."""
    driver_cuda: str | None = None
    """Newest CUDA version that the driver serves; None: there is no driver."""
    hidden: bool = False
    """Whether CUDA_VISIBLE_DEVICES leaves all GPUs out."""
    cpu_error: str | None = None
    """Why the CPU cannot train; None: it can."""
    gpu_error: str | None = None
    """Why torch found no GPU, in its own words."""
    gpus: tuple[Gpu, ...] = ()
    weights_url: str | None = None
    """Where torchvision has its ImageNet weights."""
    weights_file: str = ""
    """Where they are put on this machine."""
    weights_here: bool = False
    images_url: str | None = None
    """Where torchvision has a set of images: one for all of them."""
    torchvision_error: str | None = None
    """Why torchvision cannot be imported."""

    @classmethod
    def from_dict(cls, facts: dict[str, Any]) -> TorchFacts:
        gpus = tuple(Gpu(**gpu) for gpu in facts["gpus"])
        return cls(**{**facts, "gpus": gpus})


def probe() -> dict[str, Any]:
    """`TorchFacts` of this machine, as a dictionary."""
    import torch

    torch.set_num_threads(1)
    count = torch.cuda.device_count()
    facts = TorchFacts(
        cuda=torch.version.cuda or torch.version.hip,
        driver_cuda=driver_cuda(),
        hidden=os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1"),
        cpu_error=_train_a_step("cpu"),
        gpu_error=None if count else _why_no_gpu(),
        gpus=tuple(map(_look_at, range(count))),
        **_torchvision(),
    )
    return asdict(facts)


def driver_cuda(library: str = "libcuda.so.1") -> str | None:
    """The newest CUDA version that the driver of this machine serves; None: there is none."""
    version = ctypes.c_int()
    try:
        if ctypes.CDLL(library).cuDriverGetVersion(ctypes.byref(version)) != 0:
            return None
    except (OSError, AttributeError):
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def _why_no_gpu() -> str:
    import torch

    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except Exception as error:  # AssertionError and RuntimeError, both with a message
        return _first_line(error)
    return "torch.cuda.device_count() is 0"


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
        error = _first_line(raised)
    capability = f"{about.major}.{about.minor}"
    return Gpu(about.name, about.total_memory, free, capability, bf16, error)


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
        return _first_line(error)
    return None if right else f"a convolution in {precision} gives wrong numbers"


def _torchvision() -> dict[str, Any]:
    try:
        from torchvision.datasets import CIFAR10

        from tune_swa.training.model import imagenet_weights

        url, file = imagenet_weights()
    except Exception as error:  # of another torch, its import fails in many ways
        return {"torchvision_error": f"{type(error).__name__}: {_first_line(error)}"}
    return {
        "weights_url": url,
        "weights_file": str(file),
        "weights_here": file.exists(),
        "images_url": CIFAR10.url,
    }


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
