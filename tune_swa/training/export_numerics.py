"""Choose the numerics of an export: those of the search where this machine has them, else its CPU's."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Any

import torch

from tune_swa.config import TrainSpec
from tune_swa.errors import RequestError
from tune_swa.hardware.torch_probe import cudnn_version
from tune_swa.text import first_line
from tune_swa.training.numerics import Numerics, decide_numerics, describe_hardware


def choose_numerics(recorded: Mapping[str, Any], train: TrainSpec, size: int) -> tuple[Numerics, str | None]:
    """The numerics of the record if this machine has them, else those of its CPU.

    Args:
        recorded: `numerics` of `best_model.json`.
        train: settings of the run.
        size: pixels of a side.

    Returns:
        Them, and why they are the CPU's where the record's are a GPU's; never an error.
    """
    why_not = None
    if recorded["device"] == "cuda":
        why_not = _explain_missing(recorded["precision"])
        if why_not is None:
            try:
                train = _as_recorded(recorded, train)
                return decide_numerics(train, size, device="cuda", threads=recorded["threads"]), None
            except RequestError as error:
                why_not = str(error)
    return resolve_on_cpu(recorded, train, size), why_not


def resolve_on_cpu(recorded: Mapping[str, Any], train: TrainSpec, size: int) -> Numerics:
    """The numerics of the record; where that is a GPU's, fp32."""
    train = _as_recorded(recorded, train)
    if recorded["device"] != "cpu":
        train = train.model_copy(update={"precision": "fp32"})
    return decide_numerics(train, size, device="cpu", threads=recorded["threads"])


def _as_recorded(recorded: Mapping[str, Any], train: TrainSpec) -> TrainSpec:
    return train.model_copy(
        update={"precision": recorded["precision"], "channels_last": recorded["channels_last"]}
    )


def _explain_missing(precision: str) -> str | None:
    """Why no GPU here computes in a precision; None: one does."""
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        name = torch.cuda.get_device_name()
        if precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            return f"{name} has no bf16"
        if precision == "tf32" and torch.version.hip is None and torch.cuda.get_device_capability() < (8, 0):
            return f"{name} has no TF32"
    except (AssertionError, RuntimeError) as error:  # torch for the CPU alone; no GPU, or a driver too old
        return first_line(error).partition(". ")[0]  # what follows is advice on installing drivers
    return None


def list_differences(about: Mapping[str, Any], numerics: Numerics, why_not: str | None) -> list[str]:
    """Describe what differs here from where the model was recorded.

    Args:
        about: the content of `best_model.json`.
        numerics: what is computed with here.
        why_not: why that is not a GPU, from `choose_numerics`.
    """
    here, machine = describe_hardware(), about["hardware"]
    pairs = [(key, about["numerics"][key], getattr(numerics, key)) for key in ("device", "precision")]
    pairs.append(("torch", about["versions"]["torch"], importlib.metadata.version("torch")))
    if numerics.device == "cuda":
        pairs.append(("GPU", next(iter(machine["gpus"]), None), torch.cuda.get_device_name()))
        pairs.append(("cuDNN", machine.get("cudnn"), cudnn_version()))
    else:
        pairs.append(("processor", machine["processor"], here["processor"]))
    found = [f"{name} was {before}, is {now}" for name, before, now in pairs if before != now]
    if why_not is not None:
        found[0] += f" ({why_not})"
    return found
