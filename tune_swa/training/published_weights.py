"""Weights that torchvision and timm publish for their networks, and the images that these were trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from tune_swa.config.network_names import TIMM
from tune_swa.data.normalization import Channels, to_channels
from tune_swa.errors import RequestError
from tune_swa.plugins import require_model
from tune_swa.text import first_line, name_first
from tune_swa.training.network_layout import POSITIONS
from tune_swa.training.networks import import_timm, list_arguments, read_timm_config


@dataclass(frozen=True)
class Preprocessing:
    """What the images were that published weights come from."""

    image_size: int
    """Pixels of a side."""
    mean: Channels
    """Subtracted from images in [0, 1], per channel."""
    std: Channels
    """Divisor of the difference."""


def read_preprocessing(arch: str) -> Preprocessing:
    """Return what the library says of its default weights of a network.

    Raises:
        RequestError: timm is missing or has no such network, or a plugin builds it.
    """
    if require_model(arch) is not None:
        raise RequestError(
            f"data.normalize: auto: nobody publishes weights for a plugin's {arch}. Give imagenet, dataset, "
            "none, or the numbers"
        )
    if arch.startswith(TIMM):
        published = read_timm_config(arch)
        size, mean, std = published.input_size[-1], published.mean, published.std
    else:
        from torchvision.models import get_model_weights

        transforms = get_model_weights(arch).DEFAULT.transforms()
        size, mean, std = transforms.crop_size[0], transforms.mean, transforms.std
    return Preprocessing(int(size), to_channels(mean), to_channels(std))


def check_published(arch: str) -> None:
    """Check that there are published weights of a network; torchvision has them for all of its own.

    Raises:
        RequestError: timm has none; names related networks for which it has some.
    """
    if not arch.startswith(TIMM) or read_timm_config(arch).has_weights:
        return
    name = arch.removeprefix(TIMM)
    tagged = [f"{TIMM}{tag}" for tag in import_timm().list_pretrained(f"{name.partition('.')[0]}*")]
    others = f"It does for {name_first(tagged, 5)}; or start" if tagged else "Start"
    raise RequestError(
        f"model.weights: timm publishes no weights for {name}. {others} from random ones "
        "(--set model.weights=none)"
    )


def download_timm_weights(arch: str, image_size: int) -> Mapping[str, Tensor]:
    """Load the weights that timm publishes for a network, with a classifier as published; position embeddings
    are resized by timm.

    Raises:
        RequestError: there are none, or they cannot be downloaded.
    """
    check_published(arch)
    timm, name = import_timm(), arch.removeprefix(TIMM)
    published = read_timm_config(arch)
    arguments = list_arguments(arch, image_size)
    try:
        network = timm.create_model(name, pretrained=True, **arguments)
    except Exception as error:  # the hub's client raises a dozen types for a network that is missing
        raise RequestError(
            f"model.weights: timm's weights of {name} could not be downloaded ({first_line(error, 200)}). "
            f"Fetch model.safetensors of {published.hf_hub_id or name} from the Hugging Face hub elsewhere, "
            "name that file (--set model.weights=FILE), or start from random weights (--set "
            "model.weights=none)"
        ) from None
    state: Mapping[str, Tensor] = network.state_dict()
    return state


def resize_positions(arch: str, state: Mapping[str, Tensor], image_size: int) -> Mapping[str, Tensor]:
    """Resize the position embeddings of torchvision's vision transformers to images of another size, as
    torchvision does.

    Raises:
        RequestError: they are not those of square images.
    """
    if not arch.startswith("vit_") or POSITIONS not in state or require_model(arch) is not None:
        return state
    from torchvision.models.vision_transformer import interpolate_embeddings

    patch = int(arch.rpartition("_")[2])
    try:
        return dict(interpolate_embeddings(image_size, patch, dict(state)))
    except ValueError as error:
        raise RequestError(f"model.weights: {POSITIONS} does not fit {arch} ({first_line(error)})") from None
