"""Build classification networks of torchvision and timm by name, and find their classifier heads."""

from __future__ import annotations

import copy
import difflib
import warnings
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from tune_swa.config.network_names import TIMM, TORCHVISION_NETWORKS
from tune_swa.errors import RequestError
from tune_swa.plugins import require_model
from tune_swa.text import first_line
from tune_swa.training.plugin_networks import HEAD_MARK, build_registered

AUXILIARY = ("googlenet", "inception_v3")
"""Networks with further classifiers that only training uses. They are built without them: the loss is that
of the last one. As their published weights want it, they rescale their inputs (`transform_input`)."""


def build_network(arch: str, num_classes: int, image_size: int = 224) -> nn.Module:
    """Build a network with random weights from torch's global generator, on the CPU, in train mode.

    Args:
        arch: a name of torchvision's, `timm/` and a name of timm's, or one that a plugin has registered.
        num_classes: width of the classifier.
        image_size: pixels of a side; networks with position embeddings are built for it.

    Raises:
        RequestError: timm or a plugin is missing or has no such network, or the network cannot be built for
            such images.
    """
    registered = require_model(arch)
    if registered is not None:
        return build_registered(registered, num_classes)
    arguments = list_arguments(arch, image_size)
    if arch.startswith(TIMM):
        create, name = import_timm().create_model, arch.removeprefix(TIMM)
        arguments = {"model_name": name, **arguments}
    else:
        # its import takes a second, which the driver of a search can do without
        import torchvision.models

        create = getattr(torchvision.models, arch)
    try:
        with warnings.catch_warnings():  # of timm: names that are about to change
            warnings.simplefilter("ignore", FutureWarning)
            network = create(num_classes=num_classes, **arguments)
    except (AssertionError, TypeError, ValueError, RuntimeError) as error:
        raise RequestError(
            f"model.arch: {arch} cannot be built for images of {image_size} px ({first_line(error, 200)})"
        ) from None
    assert isinstance(network, nn.Module)
    return network


def list_arguments(arch: str, image_size: int) -> dict[str, Any]:
    """List the arguments, besides the number of classes, that a network is built with; most have none.

    Raises:
        RequestError: timm is missing or has no such network.
    """
    if arch.startswith(TIMM):
        published = read_timm_config(arch)
        fixed = published.fixed_input_size and image_size != published.input_size[-1]
        return {"img_size": image_size} if fixed else {}
    if require_model(arch) is not None:
        return {}
    if arch in AUXILIARY:
        return {"aux_logits": False, "init_weights": True, "transform_input": True}
    if arch.startswith("vit_"):
        return {"image_size": image_size}
    if arch.startswith("maxvit_"):
        return {"input_size": [image_size, image_size]}
    return {}


class _EmptyOnMeta(TorchFunctionMode):
    """Parameters on the meta device, all else on the CPU: networks compute their own shapes with tensors."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def build_shapes(arch: str, num_classes: int, image_size: int = 224) -> nn.Module:
    """Build a network without numbers, on the meta device: in a few hundredths of a second and no memory.

    The global generator is left as it was. Arguments and errors as in `build_network`.
    """
    with torch.random.fork_rng(devices=[]):
        if require_model(arch) is not None:  # whose code may do anything with numbers
            # and may give several networks one layer, which loses its numbers on the meta device
            return copy.deepcopy(build_network(arch, num_classes, image_size)).to("meta")
    with torch.random.fork_rng(devices=[]):
        try:
            with _EmptyOnMeta():
                network = build_network(arch, num_classes, image_size)
        except RequestError:
            if not arch.startswith(TIMM):
                raise
            # some of timm's pass an image through their parts to see what shapes come out
            network = build_network(arch, num_classes, image_size)
    return network.to("meta")


def name_head_parameters(network: nn.Module) -> tuple[str, ...]:
    """Name the parameters of the classifier heads of a network."""
    inside = {id(parameter) for head in find_heads(network) for parameter in head.parameters()}
    return tuple(name for name, parameter in network.named_parameters() if id(parameter) in inside)


def find_heads(network: nn.Module) -> Sequence[nn.Module]:
    """Return the layers that map features to classes: one, but of some of timm's networks two.

    timm's networks name theirs, and plugins may do so; else it is the last layer that multiplies.
    """
    named = getattr(network, HEAD_MARK, None)
    if named is not None:
        return [network.get_submodule(named)]
    read_classifier = getattr(network, "get_classifier", None)
    if callable(read_classifier):
        found = read_classifier()
        heads = list(found) if isinstance(found, tuple | list) else [found]
        beside = getattr(network, "aux_head", None)  # of VOLO, which timm names with no other head
        return heads if beside is None else [*heads, beside]
    return [module for module in network.modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1:]


def load_named(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state_dict whose layers' versions were lost, as in a plain dictionary or in safetensors: some
    networks refuse such a one. They are taken to be of the present versions.

    Raises:
        RuntimeError: names or shapes are others.
    """
    own = network.state_dict()
    if own.keys() == state.keys():
        own.update(state)
        network.load_state_dict(own)
    else:
        network.load_state_dict(state)  # which names the differences


def has_batch_norm(network: nn.Module) -> bool:
    """Whether there are statistics to refresh after averaging."""
    return any(isinstance(module, _BatchNorm) for module in network.modules())


def count_parameters(network: nn.Module) -> int:
    """Count the numbers that training changes."""
    return sum(parameter.numel() for parameter in network.parameters())


def list_architectures() -> tuple[str, ...]:
    """List the names that `model.arch` takes: torchvision's, then those of timm where that is installed."""
    try:
        names = import_timm().list_models()
    except RequestError:
        names = []
    return (*TORCHVISION_NETWORKS, *(f"{TIMM}{name}" for name in names))


def import_timm() -> ModuleType:
    """Import timm, which takes seconds.

    Raises:
        RequestError: it is not installed.
    """
    try:
        import timm
    except ImportError as error:
        raise RequestError(
            f"model.arch: {TIMM}... needs the package timm ({first_line(error, 200)}). Install it with "
            'pip install "tune-swa[timm]"'
        ) from None
    module: ModuleType = timm
    return module


def read_timm_config(arch: str) -> Any:
    """Return how timm describes the published weights of a network: sizes, channel statistics, source.

    Raises:
        RequestError: timm is missing or has no such network.
    """
    timm, name = import_timm(), arch.removeprefix(TIMM)
    known = set(timm.list_models()) | set(timm.list_pretrained())
    if name not in known:
        close = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.5)
        hint = "timm.list_models() lists them"
        if close:
            hint = f"Did you mean {' or '.join(f'{TIMM}{match}' for match in close)}?"
        raise RequestError(f"model.arch: timm {timm.__version__} has no network {name!r}. {hint}")
    return timm.models.get_pretrained_cfg(name)


def run_on_meta(network: nn.Module, image_size: int) -> Any:
    """Pass two made-up images through a network of `build_shapes`, in train mode; raises what that raises."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        output: Tensor | Any = network.train()(torch.empty(2, 3, image_size, image_size, device="meta"))
    return output
