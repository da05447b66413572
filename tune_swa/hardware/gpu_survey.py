"""The GPUs of this machine, counted in processes of their own; imports neither torch nor CUDA.

A process that initialises CUDA takes some hundred megabytes of each GPU it touches until it ends. So
the one that drives a search never does: it asks here, once, and hands the facts on.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from tune_swa.child_process import Child, ChildError
from tune_swa.hardware.torch_probe import Gpu, GpuSurvey, driver_cuda, hides_all_gpus

SURVEY_SECONDS = 120.0
"""torch on a slow file system, and a machine with eight GPUs, take their time."""
VISIBLE = "CUDA_VISIBLE_DEVICES"
MIG = "MIG-"
"""Prefix of the names of a GPU's parts (multi-instance GPU). A process sees one of them, the first."""
NONE_THERE = "No CUDA GPUs are available"
"""torch's message when the driver works and has no GPU."""
NOT_BUILT = "Torch not compiled with CUDA"
"""torch's message when it is built for the CPU alone."""


def survey_gpus() -> GpuSurvey:
    """Find the GPUs that this process may use. Takes no time where there is no driver."""
    with Surveyor() as surveyor:
        return surveyor.result()


class Surveyor:
    """A survey that is under way, begun by making this. A context manager: leaving it ends the survey."""

    def __init__(self) -> None:
        self._visible = os.environ.get(VISIBLE)
        self._driver = driver_cuda()
        self._hidden = hides_all_gpus(self._visible)
        self._stack = ExitStack()
        self._children: dict[str, Child] = {}
        self._twice: list[str] = []
        if self._hidden or not (self._driver or Path("/dev/kfd").exists()):  # the latter: AMD's
            return
        for entry in self._split_entries():
            if entry in self._children:
                self._twice.append(entry)
                continue
            environment = {VISIBLE: entry} if entry else None
            child = Child("tune_swa.hardware.torch_probe:probe_gpus", environment=environment)
            self._children[entry] = self._stack.enter_context(child)

    def _split_entries(self) -> list[str]:
        """Entries of CUDA_VISIBLE_DEVICES that a process each has to look at; one empty one: all together."""
        entries = visible_entries(self._visible)
        return entries if any(entry.startswith(MIG) for entry in entries) else [""]

    def result(self) -> GpuSurvey:
        """Wait for what is found. A GPU that is listed and cannot be used is among them, with an error:
        Ray counts the entries of the list, and would send trials there."""
        if not self._children:
            return GpuSurvey(driver_cuda=self._driver, hidden=self._hidden)
        found = {entry: self._read_answer(child) for entry, child in self._children.items()}
        first = next(iter(found.values()))
        if "" in found:
            return first
        gpus = [_only_gpu(entry, survey) for entry, survey in found.items()]
        for entry in self._twice:
            gpu = _only_gpu(entry, found[entry])
            gpus.append(replace(gpu, error=f"{VISIBLE} lists it twice"))
        return replace(first, gpus=tuple(gpus), error=None)

    def _read_answer(self, child: Child) -> GpuSurvey:
        try:
            return GpuSurvey.from_dict(child.result(SURVEY_SECONDS))
        except ChildError as error:
            return GpuSurvey(driver_cuda=self._driver, error=str(error))

    def __enter__(self) -> Surveyor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def visible_entries(visible: str | None) -> list[str]:
    """Return the entries of CUDA_VISIBLE_DEVICES: indices, or names of GPUs or of their parts."""
    return [entry.strip() for entry in (visible or "").split(",") if entry.strip()]


def select_gpu(index: int) -> dict[str, str]:
    """The environment of a process that is to see the GPU of this number alone."""
    entries = visible_entries(os.environ.get(VISIBLE))
    return {VISIBLE: entries[index] if index < len(entries) else str(index)}


def explain_missing_gpus(survey: GpuSurvey) -> tuple[str, str] | None:
    """Why GPUs that are wanted, or seem to be there, cannot be used, and what to do about it.

    None where some can be used, or where there are none and nobody asks for one.
    """
    if survey.gpus or survey.hidden or survey.error is None:
        return None
    if survey.error.startswith(NONE_THERE):
        visible = os.environ.get(VISIBLE)
        if visible is None:
            return None  # a driver without a card
        return f"{VISIBLE}={visible} names no GPU that CUDA finds", f"Unset {VISIBLE}, or name others"
    if survey.error.startswith(NOT_BUILT):
        if not _has_devices():
            return None
        return (
            f"there are GPUs (their driver serves CUDA {survey.driver_cuda}), but torch is built for the CPU "
            "alone",
            "Install a build of torch with CUDA",
        )
    if survey.driver_too_old:
        return (
            f"the driver of the GPUs is too old: it serves up to CUDA {survey.driver_cuda}, and torch is "
            f"built with CUDA {survey.cuda}",
            f"Update the driver, or install a build of torch for CUDA {survey.driver_cuda}",
        )
    return f"CUDA cannot be used ({survey.error})", "See that `nvidia-smi` lists the GPUs without an error"


def _only_gpu(entry: str, survey: GpuSurvey) -> Gpu:
    """The GPU that a process saw which was given this entry alone."""
    if survey.gpus:
        return survey.gpus[0]
    return Gpu(entry, 0, 0, "", bf16=False, error=survey.error or "CUDA finds no such GPU", uuid=entry)


def _has_devices(folder: Path = Path("/dev")) -> bool:
    """Whether the system has device files of GPUs (the latter: of Windows)."""
    return any(folder.glob("nvidia[0-9]*")) or (folder / "dxg").exists()
