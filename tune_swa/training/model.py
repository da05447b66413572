"""The network, and the weights it starts from."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Mapping
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from tune_swa.errors import RequestError
from tune_swa.randomness import derive_seed
from tune_swa.spec import ModelSpec

StateDict = Mapping[str, Tensor]
CLASSIFIER = ("fc.weight", "fc.bias")


def build_model(num_classes: int, seed: int, weights: StateDict | None = None) -> nn.Module:
    """Return torchvision's ResNet-18 with `num_classes` outputs, on the CPU, in train mode.

    Args:
        num_classes: width of the classifier.
        seed: of the random initialisation. The global generator is left as it was.
        weights: what `resolve_weights` returned. A classifier of another width in it is passed
            over, so the fresh one stays.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "initialisation"))
        model = torchvision.models.resnet18(num_classes=num_classes)
    if weights is not None:
        fitting = dict(weights)
        if fitting["fc.weight"].shape[0] != num_classes:
            for name in CLASSIFIER:
                fitting[name] = model.state_dict()[name]
        model.load_state_dict(fitting)
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
        return _download()
    return _read(Path(spec.weights).expanduser())


def fingerprint(weights: StateDict | None) -> str:
    """Hash of the starting weights; `none` for random ones."""
    if weights is None:
        return "none"
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def _download() -> StateDict:
    entry = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    file = folder / entry.url.rpartition("/")[2]
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # torch says there what it downloads
            state: StateDict = entry.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # URLError is an OSError; a wrong hash a RuntimeError
        raise RequestError(
            f"model.weights: the ImageNet weights could not be downloaded ({error}). Put {file.name} "
            f"into {folder} by hand, name a state_dict file (--set model.weights=FILE), or start from "
            "random weights (--set model.weights=none)"
        ) from None
    return state


def _read(path: Path) -> StateDict:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise RequestError(
            f"model.weights: {path}: no such file; expected none, imagenet or a state_dict file"
        ) from None
    except IsADirectoryError:
        raise RequestError(f"model.weights: {path} is a folder, expected a state_dict file") from None
    except Exception as error:  # torch.load raises a dozen types for files that are not its own
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RequestError(
            f"model.weights: {path} cannot be read as a state_dict ({first[:200]}). Write it with "
            "torch.save(model.state_dict(), path)"
        ) from None
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise RequestError(f"model.weights: {path} holds no state_dict (names with tensors)")
    state = {str(name).removeprefix("module."): tensor for name, tensor in loaded.items()}
    _check(state, path)
    infinite = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if infinite:
        raise RequestError(
            f"model.weights: {path}: {', '.join(infinite[:3])}: not finite, so every trial would fail. Save "
            "weights from before their training diverged"
        )
    # half floats are for storing: training starts from fp32
    return {name: t.float() if t.is_floating_point() else t for name, t in state.items()}


def _check(state: StateDict, path: Path) -> None:
    """Every tensor but the classifier's must be there, in the shape that ResNet-18 has."""
    expected = torchvision.models.resnet18(num_classes=2).state_dict()
    missing = [n for n in expected if n not in state]
    unknown = [n for n in state if n not in expected]
    wrong = [
        n for n in expected if n in state and n not in CLASSIFIER and state[n].shape != expected[n].shape
    ]
    for what, names in (("lacks", missing), ("has unknown", unknown), ("has other shapes for", wrong)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise RequestError(
                f"model.weights: {path} is not of torchvision's resnet18: it {what} "
                f"{', '.join(names[:3])}{more}"
            )
