"""Build a network that a plugin registers, and try it before anything is trained."""

from __future__ import annotations

import copy
import json
import os
import sys
from collections.abc import Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from tune_swa.config import ModelSpec
from tune_swa.errors import RequestError
from tune_swa.plugin_files import PluginSource, explain_user_error
from tune_swa.plugins import RegisteredModel, find_source, load_plugins, require_model, require_source

HEAD_MARK = "_tune_swa_head"
"""Attribute of a network that names its classifier layer; copies of the network have it too."""
BATCH, CLASSES = 2, 3
"""Images and classes that a network is tried with."""


def build_registered(registered: RegisteredModel, num_classes: int) -> nn.Module:
    """Build a plugin's network, with weights from torch's global generator, on the CPU, in train mode.

    Raises:
        RequestError: the builder fails, or returns something else.
    """
    source = find_source(registered.plugin)
    file = None if source is None else source.file
    what = f"model.arch: {registered.name}"
    try:
        network = registered.function(num_classes)
    except (Exception, SystemExit) as error:
        raise explain_user_error(what, error, file) from None
    if not isinstance(network, nn.Module):
        got = type(network).__name__
        raise RequestError(f"{what} ({file}): its builder has to return a torch.nn.Module, got {got}")
    if registered.head is not None:
        object.__setattr__(network, HEAD_MARK, registered.head)
    return network.train()


def build_plugin_network(plugins: Sequence[str | Path], name: str, num_classes: int) -> nn.Module:
    """Run plugins, as `--plugin` does, and build a network of theirs; what `classify.py` of an export does.

    Raises:
        RequestError: there is no such module or network, or its code fails.
    """
    load_plugins([str(plugin) for plugin in plugins])
    registered = require_model(name)
    if registered is None:
        raise RequestError(f"model.arch: none of {', '.join(map(str, plugins))} registers {name}")
    return build_registered(registered, num_classes)


def list_plugin_files(arch: str) -> dict[str, str]:
    """Return the file that builds a network, by its name, with its text; empty for a network of a library,
    and for a module of a package, which cannot be run by itself."""
    registered = require_model(arch)
    source = None if registered is None else find_source(registered.plugin)
    if source is None or source.is_package or "." in source.module:
        return {}
    return {f"{'plugin_' if _is_taken(source) else ''}{source.name}.py": source.text}


def _is_taken(source: PluginSource) -> bool:
    """Whether the plugin's name is that of `classify.py`, or of a module that this may import: from its own
    folder before others."""
    if source.name == "classify" or source.name in sys.stdlib_module_names:
        return True
    other = None if "." in source.name else PathFinder.find_spec(source.name)
    return (
        other is not None
        and other.origin is not None
        and os.path.realpath(other.origin) != os.path.realpath(source.file)
    )


def write_plugin_call(arch: str) -> str | None:
    """Write the expression that builds a plugin's network beside its file; None: it is a library's."""
    registered = require_model(arch)
    if registered is None:
        return None
    files = ", ".join(f"here / {json.dumps(name)}" for name in list_plugin_files(arch))
    modules = files or json.dumps(registered.plugin)
    return f'build_plugin_network([{modules}], {json.dumps(arch)}, about["num_classes"])'


def check_registered(registered: RegisteredModel, model: ModelSpec, image_size: int) -> nn.Module:
    """Build a plugin's network twice, and pass two images through it. Returns one of the two, for `CLASSES`
    classes.

    Raises:
        RequestError: it fails, or is no network for such images.
    """
    what = f"model.arch: {registered.name}"
    source = require_source(what, registered)
    if model.weights == "imagenet":
        raise RequestError(
            f"model.weights: imagenet: nobody publishes weights for a plugin's {registered.name}. Let its "
            "builder load some (--set model.weights=none), or name a file"
        )
    with torch.random.fork_rng(devices=[]):
        networks = []
        for _ in range(2):
            torch.manual_seed(0)
            networks.append(build_registered(registered, CLASSES))
        try:
            problem = _find_problem(registered, networks[0], networks[1], image_size)
        except Exception as error:
            raise explain_user_error(what, error, source.file) from None
    if problem is not None:
        raise RequestError(f"{what} ({source.file}): {problem}")
    return networks[0]


def _find_problem(
    registered: RegisteredModel, network: nn.Module, again: nn.Module, image_size: int
) -> str | None:
    """What keeps a network from being trained; None: nothing that shows."""
    return (
        _find_odd_parameter(network)
        or _find_odd_head(registered, network)
        or _find_common_state(network, again)
        or _find_odd_output(network, again, image_size)
    )


def _find_odd_parameter(network: nn.Module) -> str | None:
    parameters = dict(network.named_parameters())
    if any(is_lazy(parameter) for parameter in parameters.values()):
        return "has lazy layers, whose shapes are not known before they are used; give them their sizes"
    other = next((n for n, p in parameters.items() if p.dtype != torch.float32), None)
    if other is not None:
        kind = parameters[other].dtype
        return f"{other} is {kind}; parameters have to be float32 (train.precision is for autocast)"
    if not any(parameter.requires_grad for parameter in parameters.values()):
        return "has no parameter that gets a gradient"
    for name, value in network.state_dict().items():
        if not isinstance(value, Tensor):
            return f"{name} in its state_dict is no tensor; checkpoints hold tensors alone"
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            return f"{name} has elements that share memory (as expand makes them); clone it"
    return None


def _find_odd_head(registered: RegisteredModel, network: nn.Module) -> str | None:
    if registered.head is None:
        return None
    layers = dict(network.named_modules())
    if registered.head not in layers:
        return f"has no layer {registered.head!r}, which register_model names as its head"
    if not any(True for _ in layers[registered.head].parameters()):
        return f"{registered.head!r}, which register_model names as its head, has no parameters"
    return None


def _find_common_state(network: nn.Module, again: nn.Module) -> str | None:
    """What two networks of one seed share, or do not have in common."""
    places = {tensor.data_ptr() for tensor in _list_trained(again).values()}
    shared = next((n for n, tensor in _list_trained(network).items() if tensor.data_ptr() in places), None)
    if shared is not None:
        return (
            f"{shared} is the same tensor in two networks, so that a trial would change the weights that "
            "another starts from. Let the builder make all layers, or copy.deepcopy those that it has"
        )
    differing = _find_difference(network.state_dict(), again.state_dict())
    if differing is not None:
        return (
            f"{differing} differs between two networks of one seed, and a resume needs the same weights. "
            "Draw from torch's global generator alone"
        )
    return None


def _list_trained(network: nn.Module) -> dict[str, Tensor]:
    """The tensors that training changes: constants, and weights that the builder freezes, may be shared."""
    found: dict[str, Tensor] = {name: p for name, p in network.named_parameters() if p.requires_grad}
    for name, layer in network.named_modules():
        if isinstance(layer, _BatchNorm):
            found.update(layer.named_buffers(name))
    return {name: tensor for name, tensor in found.items() if tensor.numel()}


def _find_odd_output(network: nn.Module, again: nn.Module, image_size: int) -> str | None:
    images, names = torch.rand(BATCH, 3, image_size, image_size), [*network.state_dict()]
    outputs = []
    for one in (network, again):
        torch.manual_seed(0)
        outputs.append(one(images))
        if (problem := _describe_output(outputs[-1], image_size)) is not None:
            return problem
    if not torch.allclose(outputs[0], outputs[1], rtol=1e-3, atol=1e-5, equal_nan=True):
        return (
            "gives two outputs for the same images from one seed, and a resume needs the same one. Draw from "
            "torch's global generator alone"
        )
    if [*network.state_dict()] != names:
        return "has other tensors in its state_dict once it was used; make all of them when it is built"
    copied = copy.deepcopy(network).eval()  # as the average is made
    with torch.no_grad():
        problem = _describe_output(copied(images), image_size)
    return None if problem is None else f"in eval mode {problem}"


def _describe_output(output: Any, image_size: int) -> str | None:
    """What is wrong with what a network gives; None: nothing."""
    if isinstance(output, Tensor) and tuple(output.shape) == (BATCH, CLASSES):
        return None
    got = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
    return (
        f"maps {BATCH} images of {image_size} px to {got} where there are {CLASSES} classes; expected "
        f"[{BATCH}, {CLASSES}]: a logit for each class"
    )


def _find_difference(one: dict[str, Any], other: dict[str, Any]) -> str | None:
    """Name the first tensor that two state_dicts do not have in common."""
    for name in {**one, **other}:
        if name not in one or name not in other or not torch.equal(one[name], other[name]):
            return name
    return None
