"""Check torch, the GPUs, and whether torchvision's weights and sets can be downloaded."""

from __future__ import annotations

import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator

from tune_swa.child_process import Child
from tune_swa.doctor.findings import Finding
from tune_swa.hardware.gpu_survey import Surveyor, explain_missing_gpus
from tune_swa.hardware.torch_probe import Gpu, GpuSurvey, TorchFacts
from tune_swa.text import first_line, format_bytes

TORCH_SECONDS = 120.0
"""torch takes its time on a slow file system."""
NETWORK_SECONDS = 3.0
BUSY = 0.8
"""A GPU with a smaller share of its memory free is used by other programs, too."""
ON_CPU = "searches run on the CPU, which will do for small images and short searches"


def check_torch(child: Child, surveyor: Surveyor) -> Iterator[Finding]:
    """Wait for both probes, and check what they found."""
    facts = TorchFacts(**child.result(TORCH_SECONDS))
    yield check_cpu(facts)
    yield from check_gpus(surveyor.result())
    yield from check_downloads(facts)


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


def check_downloads(facts: TorchFacts) -> Iterator[Finding]:
    """Check that weights and sets of images can be downloaded, or are here already."""
    if facts.weights_url is None or facts.images_url is None:
        text = "not checked: torchvision, which knows the addresses, cannot be used"
        yield Finding("note", "network", text)
        return
    if facts.weights_here:
        yield Finding("ok", "network", f"the ImageNet weights are here already ({facts.weights_file})")
    else:
        yield _check_host(
            "weights: imagenet",
            facts.weights_url,
            f"Use weights: none; or download {facts.weights_url} elsewhere, to {facts.weights_file}",
        )
    yield _check_host(
        "torchvision's sets (dataset: cifar10 and others)",
        facts.images_url,
        "Let torchvision download the set elsewhere, copy its folder, and give that with --data-dir",
    )


def _check_host(setting: str, url: str, remedy: str) -> Finding:
    host, error = urllib.parse.urlsplit(url).hostname, try_url(url)
    if error is None:
        return Finding("ok", "network", f"{setting} can be downloaded ({host} reachable)")
    text = f"{setting} cannot be downloaded: {host} cannot be reached ({error})"
    return Finding("note", "network", text, remedy)


def try_url(url: str) -> str | None:
    """Request the head of `url`, through the user's proxy if there is one; return the error."""
    request = urllib.request.Request(url, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=NETWORK_SECONDS).close()
    except urllib.error.HTTPError as error:  # 405: the server answers, but not to HEAD
        return None if error.code == 405 else f"HTTP {error.code} {error.reason}"
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return first_line(reason) if isinstance(reason, BaseException) else str(reason)
    return None
