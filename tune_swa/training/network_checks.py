"""Check that a network takes the images of a search, and resolve what follows from the network.

torch is imported where a network has to be looked at, which the usual one need not.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

from tune_swa.config import ChannelStatistics, Experiment, ModelSpec
from tune_swa.config.cautions import write_option
from tune_swa.config.network_names import TIMM
from tune_swa.data.normalization import IMAGENET
from tune_swa.errors import RequestError
from tune_swa.plugins import RegisteredModel, require_model
from tune_swa.text import first_line

if TYPE_CHECKING:
    from torch import nn

PLAIN = "resnet18"
"""Takes images of every size that `data.image_size` allows, and has batch normalisation: the driver need not
import torchvision to know."""
PLAIN_BODY, PLAIN_INPUTS = 11_176_512, 512
"""Its parameters without the classifier, and the inputs of that."""
CLASSES = 3
SIZES = (*range(8, 64, 4), 75, *range(64, 160, 16), *range(160, 385, 32), 299, 448, 512, 518)
"""Pixels that are tried where a network does not take those asked for: multiples of usual patches, and sizes
that published weights have."""


def check_network(model: ModelSpec, image_size: int) -> None:
    """Check that the network exists, takes images of this size in training, gives one number a class, and has
    the published weights that it is to start from.

    Raises:
        RequestError: it does not; says which sizes it takes, or which networks have weights.
    """
    if model.arch == PLAIN:
        return
    registered = require_model(model.arch)
    if registered is not None:
        from tune_swa.training.plugin_networks import check_registered

        _check_named_head(registered, check_registered(registered, model, image_size))
        return
    problem = _find_problem(model.arch, image_size)
    if problem is None:
        if model.weights == "imagenet":
            from tune_swa.training.published_weights import check_published

            check_published(model.arch)
        return
    smaller = next((s for s in sorted(SIZES, reverse=True) if s < image_size and _fits(model.arch, s)), None)
    larger = next((s for s in sorted(SIZES) if s > image_size and _fits(model.arch, s)), None)
    sizes = [str(size) for size in (smaller, larger) if size is not None]
    if not sizes:
        raise RequestError(
            f"model.arch: {model.arch} cannot be trained here: {problem}. Take another network"
        )
    raise RequestError(
        f"data.image_size: {model.arch} does not take images of {image_size} px ({problem}). Give "
        f"{' or '.join(sizes)} (--set data.image_size={sizes[-1]}), or take another model.arch"
    )


def check_frozen(experiment: Experiment) -> None:
    """Check that the network has what settings of `train` set apart: a classifier, or batch normalisation.

    Raises:
        RequestError: it has no batch normalisation, and that alone would be frozen; or which layer of a
            plugin's network is the classifier is not known.
    """
    arch = experiment.model.arch
    if arch == PLAIN:
        return
    _check_separate_head(experiment)
    if "bn" not in experiment.list_extremes("train.freeze"):
        return
    from tune_swa.training.networks import build_shapes, has_batch_norm

    if not has_batch_norm(build_shapes(arch, CLASSES, experiment.data.image_size)):
        searched = any(parameter.name == "train.freeze" for parameter in experiment.parameters)
        other = f"Give {write_option(experiment, 'train.freeze', 'none')} or backbone"
        advice = "Leave bn out of space.train.freeze" if searched else other
        raise RequestError(
            f"train.freeze: bn would freeze nothing: {arch} has no batch normalisation. {advice}"
        )


def _check_named_head(registered: RegisteredModel, network: nn.Module) -> None:
    """Check that the layer that a plugin names as the head of its network is the classifier, where a layer is
    that. A head that is not named matters only to settings that ask for one (`_check_separate_head`).

    Raises:
        RequestError: another layer is; names it.
    """
    if registered.head is None:
        return
    heads, known = _list_heads(registered, network)
    layer = _name_last_layer(heads)
    if layer and not known.intersection(heads):
        raise _name_other_head("model.arch", registered, layer)


def _check_separate_head(experiment: Experiment) -> None:
    """Check that a plugin's network has a classifier where one is asked for; errors as of `check_frozen`."""
    arch = experiment.model.arch
    apart = {
        "train.freeze": "backbone" in experiment.list_extremes("train.freeze"),
        "train.head_lr_factor": any(f != 1 for f in experiment.list_extremes("train.head_lr_factor")),
        "train.arithmetic": experiment.train.arithmetic is not None,
    }
    asking = next((name for name, asks in apart.items() if asks), None)
    registered = require_model(arch)
    if asking is None or registered is None:
        return
    heads, known = _list_heads(registered, None)
    if known.intersection(heads):
        return
    layer = _name_last_layer(heads)
    if layer:
        raise _name_other_head(asking, registered, layer)
    if asking != "train.arithmetic":  # which then has no output to leave unrounded
        raise RequestError(
            f"{asking}: no layer of {arch} is known as its classifier. Build that of torch.nn.Linear, and "
            "name it with register_model(..., head=NAME)"
        )


def _name_last_layer(parameters: list[str]) -> str:
    return parameters[-1].rpartition(".")[0] if parameters else ""


def _name_other_head(what: str, registered: RegisteredModel, layer: str) -> RequestError:
    taken = f"named {registered.head}" if registered.head else "taken to be its last linear one"
    call = f"register_model({registered.name!r}, ..., head={layer!r})"
    return RequestError(
        f"{what}: the classifier of {registered.name} is {taken}, and {layer} is the layer that depends on "
        f"the number of classes. Name that: {call}"
    )


def _list_heads(registered: RegisteredModel, network: nn.Module | None) -> tuple[list[str], set[str]]:
    """Name the parameters of a network that depend on the number of classes, and those of its head.

    Args:
        registered: builds it.
        network: what it builds for `CLASSES` classes; None: that is built here.
    """
    import torch

    from tune_swa.training.networks import name_head_parameters
    from tune_swa.training.plugin_networks import build_registered

    with torch.random.fork_rng(devices=[]):
        if network is None:
            network = build_registered(registered, CLASSES)
        wider = build_registered(registered, CLASSES + 1)
    shapes = {name: parameter.shape for name, parameter in wider.named_parameters()}
    heads = [name for name, parameter in network.named_parameters() if parameter.shape != shapes.get(name)]
    return heads, {*name_head_parameters(network)}


def _fits(arch: str, image_size: int) -> bool:
    return _find_problem(arch, image_size) is None


@cache
def _find_problem(arch: str, image_size: int) -> str | None:
    """Return why a network cannot be trained on such images; None: it can."""
    import torch

    from tune_swa.training.networks import build_shapes, read_timm_config, run_on_meta

    if arch.startswith(TIMM):
        read_timm_config(arch)
    try:
        output = run_on_meta(build_shapes(arch, CLASSES, image_size), image_size)
    except RequestError as error:  # it cannot even be built for them
        return str(error).partition(" px (")[2].removesuffix(")") or str(error)
    except Exception as error:  # whatever a network of somebody else's raises
        return first_line(error, 200)
    if not isinstance(output, torch.Tensor) or output.shape != (2, CLASSES):
        return "it gives more than one number for each class"
    return None


def count_weights_of(arch: str, num_classes: int, image_size: int) -> tuple[int, int]:
    """Count the parameters of a network with so many outputs, and those of its head; errors as in
    `build_network`."""
    if arch == PLAIN:
        head = (PLAIN_INPUTS + 1) * num_classes
        return PLAIN_BODY + head, head
    from tune_swa.training.networks import build_shapes, count_parameters, find_heads

    network = build_shapes(arch, num_classes, image_size)
    return count_parameters(network), sum(map(count_parameters, find_heads(network)))


def resolve_normalization(experiment: Experiment) -> Experiment:
    """Put the statistics that the network's published weights were trained with in the place of `auto`.

    Raises:
        RequestError: timm is missing or has no such network.
    """
    if experiment.data.normalize != "auto":
        return experiment
    chosen: str | ChannelStatistics = "none"
    if experiment.model.weights != "none":
        from tune_swa.training.published_weights import read_preprocessing

        published = read_preprocessing(experiment.model.arch)
        statistics = published.mean, published.std
        chosen = (
            "imagenet" if statistics == IMAGENET else ChannelStatistics(mean=statistics[0], std=statistics[1])
        )
    data = experiment.data.model_copy(update={"normalize": chosen})
    return experiment.model_copy(update={"data": data})


def list_network_notes(experiment: Experiment) -> Iterator[str]:
    """Yield sentences on what is different with the network of an experiment.

    Raises:
        RequestError: timm is missing or has no such network.
    """
    model, size = experiment.model, experiment.data.image_size
    if model.weights == "imagenet":
        from tune_swa.training.published_weights import read_preprocessing

        published = read_preprocessing(model.arch)
        if size < published.image_size:
            yield (
                f"the published weights of {model.arch} were trained on images of {published.image_size} px, "
                f"here are {size} (data.image_size)"
            )
    if model.arch != PLAIN:
        from tune_swa.training.networks import build_shapes, count_parameters, has_batch_norm

        network = build_shapes(model.arch, CLASSES, size)
        without = (
            ""
            if has_batch_norm(network)
            else (", and no batch normalisation: nothing is refreshed after averaging (0 s)")
        )
        count = count_parameters(network)
        size_text = f"{count / 1e6:.3g} million" if count >= 1e5 else f"{count:,}"
        yield f"{model.arch} has {size_text} parameters{without}"
