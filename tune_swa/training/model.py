"""The network, and the weights it starts from."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tune_swa.config import ModelSpec
from tune_swa.errors import RequestError
from tune_swa.files import expand_home
from tune_swa.hardware.pretrained_weights import locate_imagenet_weights
from tune_swa.seeds import derive_seed
from tune_swa.text import name_first

StateDict = Mapping[str, Tensor]
CLASSIFIER = ("fc.weight", "fc.bias")
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.")
"""What DataParallel and AveragedModel, torch.compile, and Lightning modules put before every name."""


def build_model(num_classes: int, seed: int, weights: StateDict | None = None) -> nn.Module:
    """Return torchvision's ResNet-18 with `num_classes` outputs, on the CPU, in train mode.

    Args:
        num_classes: width of the classifier.
        seed: of the random initialisation. The global generator is left as it was.
        weights: what `resolve_weights` returned. Where it has no classifier, or one of another
            width, the fresh one stays.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "initialisation"))
        model = _build_resnet18(num_classes)
    if weights is not None:
        fitting = dict(weights)
        if "fc.weight" not in fitting or fitting["fc.weight"].shape[0] != num_classes:
            fresh = model.state_dict()
            fitting.update({name: fresh[name] for name in CLASSIFIER})
        model.load_state_dict(fitting)
    return model


def _build_resnet18(num_classes: int) -> nn.Module:
    # its import takes a second, which the driver of a search can do without
    from torchvision.models import resnet18

    model = resnet18(num_classes=num_classes)
    assert isinstance(model, nn.Module)
    return model


def resolve_weights(spec: ModelSpec) -> StateDict | None:
    """Load the starting weights, once per experiment; None for random ones.

    Raises:
        RequestError: the download failed, or the file is no state_dict of a ResNet-18.
    """
    if spec.weights == "none":
        return None
    if spec.weights == "imagenet":
        return _download_imagenet()
    return _read_weights(expand_home(spec.weights, "model.weights:"))


def hash_weights(weights: StateDict | None) -> str:
    """Hash of the starting weights; `none` for random ones."""
    if weights is None:
        return "none"
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def _download_imagenet() -> StateDict:
    from torchvision.models import ResNet18_Weights

    entry = ResNet18_Weights.IMAGENET1K_V1
    _, file = locate_imagenet_weights()
    folder = file.parent
    if not file.exists():
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # torch says there what it downloads
                entry.get_state_dict(progress=False, check_hash=True, weights_only=True)
        except (OSError, RuntimeError) as error:  # URLError is an OSError; a wrong hash a RuntimeError
            raise RequestError(
                f"model.weights: the ImageNet weights could not be downloaded ({error}). Put {file.name} "
                f"into {folder} by hand, name a state_dict file (--set model.weights=FILE), or start from "
                "random weights (--set model.weights=none)"
            ) from None
    # torchvision's own way of reading it would run what a pickle says
    return _read_weights(file, "Delete it, and it is downloaded again")


def _read_weights(
    path: Path, remedy: str = "Write it with torch.save(model.state_dict(), path)"
) -> StateDict:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise RequestError(
            f"model.weights: {path}: no such file; expected none, imagenet or a state_dict file"
        ) from None
    except IsADirectoryError:
        raise RequestError(f"model.weights: {path} is a folder, expected a state_dict file") from None
    except Exception as error:  # torch.load raises a dozen types for files that are not its own
        raise RequestError(
            f"model.weights: {path} cannot be read as a state_dict ({_explain_error(error)}). {remedy}"
        ) from None
    state = _unwrap_weights(loaded)
    if state is None:
        raise RequestError(f"model.weights: {path} holds no state_dict (names with tensors). {remedy}")
    _check_weights(state, path, remedy)
    # half floats are for storing: training starts from fp32
    return {name: t.float() if t.is_floating_point() else t for name, t in state.items()}


def _explain_error(error: Exception) -> str:
    """Why a file was not loaded. torch's own words go on for lines, and advise to run what it holds."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if type(error).__name__ == "UnpicklingError":
        return "it holds other things than tensors, a whole model perhaps, or torch.save has not written it"
    return "torch.save has not written it, or it is damaged"


def _unwrap_weights(loaded: Any) -> dict[str, Tensor] | None:
    """The network's own state_dict, taken out of what training programs wrap around it."""
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(isinstance(v, Tensor) for v in loaded.values()):
        return None
    state = {str(name): tensor for name, tensor in loaded.items()}
    while state:
        state.pop("n_averaged", None)
        wrapper = next((w for w in WRAPPERS if all(name.startswith(w) for name in state)), None)
        if wrapper is None:
            break
        state = {name.removeprefix(wrapper): tensor for name, tensor in state.items()}
    return state


def _check_weights(state: StateDict, path: Path, remedy: str) -> None:
    """Every tensor must be there, finite and in the shape that ResNet-18 has for any number of classes."""
    classes = state["fc.bias"].numel() if "fc.bias" in state else 1
    expected = _build_resnet18(max(1, classes)).state_dict()
    # some files come without a classifier; old ones without counters, which torch then takes for 0
    optional = [n for n in expected if n.endswith("num_batches_tracked")]
    if not any(n in state for n in CLASSIFIER):
        optional.extend(CLASSIFIER)
    missing = [n for n in expected if n not in state and n not in optional]
    unknown = [n for n in state if n not in expected]
    known = [n for n in expected if n in state]
    for what, names in (
        ("lacks", missing),
        ("has unknown", unknown),
        ("has other shapes for", [n for n in known if state[n].shape != expected[n].shape]),
        ("has other types for", [n for n in known if not _is_usable(state[n], expected[n])]),
    ):
        if names:
            raise RequestError(
                f"model.weights: {path} is not of torchvision's resnet18: it {what} {name_first(names, 3)}. "
                f"{remedy}"
            )
    infinite = [name for name in known if not torch.isfinite(state[name]).all()]
    if infinite:
        raise RequestError(
            f"model.weights: {path}: {name_first(infinite, 3)}: not finite, so every trial would fail. Save "
            "weights from before their training diverged"
        )


def _is_usable(tensor: Tensor, expected: Tensor) -> bool:
    """Whether a tensor holds the kind of numbers that are expected, and holds them as they are."""
    plain = tensor.layout is torch.strided and not tensor.is_meta and not tensor.is_complex()
    return plain and (tensor.is_floating_point() or not expected.is_floating_point())
