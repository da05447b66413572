"""Check torch and the GPUs."""

from __future__ import annotations

from collections.abc import Iterator

from tune_swa.child_process import Child
from tune_swa.doctor.findings import Finding
from tune_swa.hardware.gpu_survey import Surveyor, explain_missing_gpus
from tune_swa.hardware.torch_probe import Gpu, GpuSurvey, TorchFacts
from tune_swa.text import format_bytes

TORCH_SECONDS = 120.0
"""torch takes its time on a slow file system."""
BUSY = 0.8
"""A GPU with a smaller share of its memory free is used by other programs, too."""
ON_CPU = "searches run on the CPU, which will do for small images and short searches"


def check_torch(child: Child, surveyor: Surveyor) -> Iterator[Finding]:
    """Wait for both probes, and check what they found."""
    facts = TorchFacts(**child.result(TORCH_SECONDS))
    yield check_cpu(facts)
    yield from check_gpus(surveyor.result())


def check_cpu(facts: TorchFacts) -> Finding:
    """Check that torch trains on the CPU, and that torchvision belongs to it."""
    if facts.cpu_error is not None:
        text, remedy = (
            f"cannot train on the CPU ({facts.cpu_error})",
            "Install torch for this kind of machine",
        )
        return Finding("problem", "torch", text, remedy)
    if facts.torchvision_error is not None:
        text = f"torchvision cannot be used ({facts.torchvision_error})"
        remedy = "Install both of the same release: pip install --upgrade torch torchvision"
        return Finding("problem", "torch", text, remedy)
    built = f"built with CUDA {facts.cuda}" if facts.cuda else "built for the CPU alone"
    return Finding("ok", "torch", f"trains on the CPU; {built}")


def check_gpus(survey: GpuSurvey) -> Iterator[Finding]:
    """Check each GPU, or explain why there is none."""
    if not survey.gpus:
        yield _explain_no_gpu(survey)
    for index, gpu in enumerate(survey.gpus):
        yield _check_gpu(f"GPU {index}", gpu, survey)


def _check_gpu(area: str, gpu: Gpu, survey: GpuSurvey) -> Finding:
    about = gpu.name
    if gpu.memory:
        about += f", {format_bytes(gpu.memory)}, compute capability {gpu.capability}"
    if gpu.error is not None:
        remedy = (
            f"torch is built with CUDA {survey.cuda}, the driver serves up to CUDA {survey.driver_cuda}. "
            "Update the driver, or install a build of torch for this GPU; until then leave it out with "
            "CUDA_VISIBLE_DEVICES, or use --gpus 0"
        )
        return Finding("problem", area, f"{about}: torch cannot train on it ({gpu.error})", remedy)
    about += ", bf16" if gpu.bf16 else ", no bf16, so fp16 or fp32 is used"
    if gpu.free < BUSY * gpu.memory:
        text = f"{about}; only {format_bytes(gpu.free)} are free: other programs use it"
        remedy = "See what runs there with nvidia-smi; leave it out with CUDA_VISIBLE_DEVICES"
        return Finding("note", area, text, remedy)
    return Finding("ok", area, f"{about}; a training step works")


def _explain_no_gpu(survey: GpuSurvey) -> Finding:
    if survey.driver_cuda is None:
        remedy = "With an NVIDIA card: install its driver; in a container: docker run --gpus all"
        return Finding("note", "GPU", f"none that torch can use; {ON_CPU}", remedy)
    if survey.hidden:
        text = f"the environment variable CUDA_VISIBLE_DEVICES hides all GPUs; {ON_CPU}"
        return Finding("note", "GPU", text, "Unset it")
    missing = explain_missing_gpus(survey)
    if missing is None:
        return Finding("note", "GPU", f"a driver (CUDA {survey.driver_cuda}), but no GPU; {ON_CPU}")
    why, remedy = missing
    return Finding("problem", "GPU", why, f"{remedy}, or use --gpus 0")
