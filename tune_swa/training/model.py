"""The network, and the weights it starts from."""

from __future__ import annotations

import contextlib
import hashlib
import io
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tune_swa.config import ModelSpec
from tune_swa.config.network_names import TIMM
from tune_swa.errors import RequestError
from tune_swa.files import expand_home
from tune_swa.hardware.pretrained_weights import locate_imagenet_weights
from tune_swa.seeds import derive_seed
from tune_swa.text import name_first
from tune_swa.training.network_layout import NetworkLayout
from tune_swa.training.network_search import (
    FoundNetwork,
    NoNetworkError,
    SeveralNetworksError,
    find_models,
    find_network,
)
from tune_swa.training.networks import build_network, build_shapes, name_head_parameters
from tune_swa.training.published_weights import download_timm_weights, resize_positions
from tune_swa.training.weights_file import WeightsFileError, list_weights_files, read_weights_file

StateDict = Mapping[str, Tensor]
SAVE = "Write it with torch.save(model.state_dict(), path)"
"""What is advised where a file holds no weights."""


def build_model(
    num_classes: int,
    seed: int,
    weights: StateDict | None = None,
    *,
    arch: str = "resnet18",
    image_size: int = 224,
) -> nn.Module:
    """Return a network with `num_classes` outputs, on the CPU, in train mode.

    Args:
        num_classes: width of the classifier.
        seed: of the random initialisation. The global generator is left as it was.
        weights: what `resolve_weights` returned. Where it has no classifier, or one of another
            width, the fresh one stays.
        arch: name of the network, as `model.arch` gives it.
        image_size: pixels of a side.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "initialisation"))
        model = build_network(arch, num_classes, image_size)
    if weights is not None:
        heads = frozenset(name_head_parameters(model))
        state = model.state_dict()  # with the versions of its layers, which some networks want to be told
        fits = all(name in weights and weights[name].shape == state[name].shape for name in heads)
        state.update((name, tensor) for name, tensor in weights.items() if fits or name not in heads)
        model.load_state_dict(state)
    return model


def resolve_weights(
    spec: ModelSpec, report: Callable[[str], object] | None = None, image_size: int = 224
) -> StateDict | None:
    """Load the starting weights, once per experiment; None for random ones.

    Args:
        spec: the network, and where they come from.
        report: receives a line on what was taken from a file that holds more than one plain state_dict.
        image_size: pixels of a side, which position embeddings are resized to.

    Raises:
        RequestError: the download failed, or the file holds no weights of the network.
    """
    if spec.weights == "none":
        return None
    if spec.weights == "imagenet":
        if spec.arch.startswith(TIMM):
            return _prepare_weights(download_timm_weights(spec.arch, image_size), spec.arch)
        return _download_imagenet(spec.arch, image_size)
    path = expand_home(spec.weights, "model.weights:")
    found = _read_network(path, SAVE, spec.weights_key, spec.arch, image_size)
    note = _describe_network(path, found)
    if note is not None and report is not None:
        report(note)
    return _prepare_weights(resize_positions(spec.arch, found.state, image_size), path)


def describe_classifier(spec: ModelSpec, weights: StateDict | None, num_classes: int) -> str | None:
    """A line on the classifier of a weights file, if a fresh one takes its place; None: it stays."""
    if weights is None or spec.weights == "imagenet":
        return None
    network = build_shapes(spec.arch, 1)
    head = name_head_parameters(network)[-1]
    if head not in weights:
        return f"model.weights: no classifier was taken; {num_classes} classes get a fresh one"
    classes = weights[head].shape[0]
    if classes == num_classes:
        return None
    return f"model.weights: its classifier has {classes} classes; the {num_classes} here get a fresh one"


def hash_weights(weights: StateDict | None) -> str:
    """Hash of the starting weights; `none` for random ones."""
    if weights is None:
        return "none"
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def _download_imagenet(arch: str, image_size: int) -> StateDict:
    from torchvision.models import get_model_weights

    entry = get_model_weights(arch).DEFAULT
    _, file = locate_imagenet_weights(arch)
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
    found = _read_network(file, "Delete it, and it is downloaded again", None, arch, image_size)
    return _prepare_weights(resize_positions(arch, found.state, image_size), file)


def _read_network(path: Path, remedy: str, key: str | None, arch: str, image_size: int) -> FoundNetwork:
    """Read the network that fits from a file.

    Args:
        path: of the file.
        remedy: what to do with a file that holds none.
        key: place of the network in the file.
        arch: name of the network.
        image_size: that it is built for.

    Raises:
        RequestError: the file cannot be read, or none fits.
    """
    try:
        loaded = read_weights_file(path)
    except FileNotFoundError:
        raise RequestError(
            f"model.weights: {path}: no such file; expected none, imagenet or a state_dict file. If it has "
            "moved, set model.weights to its new place: weights are recognised by their content"
        ) from None
    except IsADirectoryError:
        files = list_weights_files(path)
        hint = f". Give one of its files: {name_first(files, 3)}" if files else ""
        raise RequestError(f"model.weights: {path} is a folder, expected a state_dict file{hint}") from None
    except OSError as error:
        raise RequestError(
            f"model.weights: {path} cannot be read as a state_dict ({error.strerror or error}). {remedy}"
        ) from None
    except WeightsFileError as error:
        raise RequestError(
            f"model.weights: {path} cannot be read as a state_dict ({error.reason}). {error.remedy or remedy}"
        ) from None
    try:
        return find_network(loaded, NetworkLayout.of_network(arch, image_size), key)
    except SeveralNetworksError as error:
        raise RequestError(
            f"model.weights: {path} {error}. Choose one with --set model.weights_key=KEY"
        ) from None
    except NoNetworkError as error:
        models = find_models(loaded)
        if models:
            raise RequestError(_explain_model(path, *models[0])) from None
        if remedy == SAVE and str(error).startswith("is not of"):
            remedy = "Name the network that it is of (--set model.arch=NAME), or take another file"
        raise RequestError(f"model.weights: {path} {error}. {remedy}") from None


def _explain_model(path: Path, keys: tuple[Any, ...], name: str) -> str:
    """What to do with a file that holds a network as an object, which only running its code could read."""
    at = "".join(f"[{key!r}]" for key in keys)
    code = (
        f"import torch; torch.save(torch.load({str(path)!r}, map_location='cpu', weights_only=False)"
        f"{at}.state_dict(), 'weights.pt')"
    )
    return (
        f"model.weights: {path} holds other things than tensors: a whole model ({name}), which would run its "
        "own code when it is read. Where you trust it and its code is installed, write its weights with: "
        f"python -c {shlex.quote(code)}"
    )


def _describe_network(path: Path, found: FoundNetwork) -> str | None:
    """What was taken from a file; None where that is all it has, under the network's own names."""
    parts = []
    if found.place:
        parts.append(f"took {found.place}")
    if found.left_out:
        parts.append(f"left out {name_first(found.left_out, 5)}")
    if found.others:
        parts.append(f"{name_first(found.others, 3)} would fit as well (choose with model.weights_key)")
    return f"model.weights: {path}: {'; '.join(parts)}" if parts else None


def _prepare_weights(state: StateDict, path: Path | str) -> StateDict:
    """The weights as training starts from them: fp32, whatever they were stored in.

    Raises:
        RequestError: some are not finite.
    """
    prepared = {n: (t.float() if t.is_floating_point() else t).detach() for n, t in state.items()}
    infinite = [name for name, tensor in prepared.items() if not torch.isfinite(tensor).all()]
    if infinite:
        raise RequestError(
            f"model.weights: {path}: {name_first(infinite, 3)}: not finite, so every trial would fail. Save "
            "weights from before their training diverged"
        )
    return prepared
