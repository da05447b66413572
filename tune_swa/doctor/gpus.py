"""GPUs: what there is, and whether torch can train on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tune_swa.doctor.finding import Finding, note, ok, problem
from tune_swa.hardware.gpu_survey import explain_missing_gpus
from tune_swa.hardware.torch_probe import Gpu, GpuSurvey, TorchFacts
from tune_swa.text import format_bytes

NVIDIA = "0x10de"
BUSY = 0.8
"""A GPU with a smaller share of its memory free than this is somebody else's, too."""
DISPLAY = "0x03"
"""How the PCI class of graphics and compute cards begins."""
ON_CPU = "searches run on the CPU, which will do for small images and short searches"


def cpu(facts: TorchFacts) -> Iterator[Finding]:
    """Whether torch and torchvision work at all."""
    if facts.cpu_error is not None:
        yield problem(
            "torch", f"cannot train on the CPU ({facts.cpu_error})", "Install torch for this kind of machine"
        )
    elif facts.torchvision_error is not None:
        yield problem(
            "torch",
            f"torchvision cannot be used ({facts.torchvision_error})",
            "Install both of the same release: pip install --upgrade torch torchvision",
        )
    else:
        built = f"built with CUDA {facts.cuda}" if facts.cuda else "built for the CPU alone"
        yield ok("torch", f"trains on the CPU; {built}")


def gpus(survey: GpuSurvey, devices: Path = Path("/sys/bus/pci/devices")) -> Iterator[Finding]:
    """A line for each GPU, or why there is none."""
    if not survey.gpus:
        yield _none(survey, installed=nvidia_cards(devices))
    for index, gpu in enumerate(survey.gpus):
        yield _one(f"GPU {index}", gpu, survey)


def _one(area: str, gpu: Gpu, survey: GpuSurvey) -> Finding:
    about = gpu.name
    if gpu.memory:
        about = f"{gpu.name}, {format_bytes(gpu.memory)}, compute capability {gpu.capability}"
    if gpu.error is not None:
        return problem(
            area,
            f"{about}: torch cannot train on it ({gpu.error})",
            f"{_versions(survey)}. Update the driver, or install a build of torch for this GPU; "
            "until then leave it out with CUDA_VISIBLE_DEVICES, or use --gpus 0",
        )
    precision = "bf16" if gpu.bf16 else "no bf16, so fp16 or fp32 is used"
    if gpu.free < BUSY * gpu.memory:
        return note(
            area,
            f"{about}, {precision}; only {format_bytes(gpu.free)} are free: other programs use it",
            "See what runs there with nvidia-smi; leave it out with CUDA_VISIBLE_DEVICES",
        )
    return ok(area, f"{about}, {precision}; a training step works")


def _none(survey: GpuSurvey, *, installed: bool) -> Finding:
    if survey.driver_cuda is None:
        if installed:
            return note(
                "GPU",
                f"a card of NVIDIA's is in this machine, but its driver is not loaded; {ON_CPU}",
                "Install NVIDIA's driver; a container needs access to the GPU (docker run --gpus all)",
            )
        return note("GPU", f"none that torch can use; {ON_CPU}")
    if survey.hidden:
        return note(
            "GPU", f"none is left by the environment variable CUDA_VISIBLE_DEVICES; {ON_CPU}", "Unset it"
        )
    missing = explain_missing_gpus(survey)
    if missing is None:
        return note("GPU", f"there is a driver (CUDA {survey.driver_cuda}), but no GPU; {ON_CPU}")
    why, remedy = missing
    return problem("GPU", why, f"{remedy}, or use --gpus 0")


def _versions(survey: GpuSurvey) -> str:
    driver = (
        f"the driver serves up to CUDA {survey.driver_cuda}" if survey.driver_cuda else "no driver was found"
    )
    return f"torch is built with CUDA {survey.cuda}, {driver}"


def nvidia_cards(devices: Path) -> bool:
    """Whether the machine has such cards, driver or not."""
    for device in devices.glob("*"):
        with suppress(OSError):
            vendor, kind = ((device / name).read_text().strip() for name in ("vendor", "class"))
            if vendor == NVIDIA and kind.startswith(DISPLAY):
                return True
    return False
