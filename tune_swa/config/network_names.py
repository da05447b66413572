"""The names that `model.arch` takes, checked without importing torch."""

from __future__ import annotations

import difflib
import re
from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema

from tune_swa.plugins import accepts_model, list_models

# fmt: off
TORCHVISION_NETWORKS = (
    "alexnet", "convnext_base", "convnext_large", "convnext_small", "convnext_tiny", "densenet121",
    "densenet161", "densenet169", "densenet201", "efficientnet_b0", "efficientnet_b1", "efficientnet_b2",
    "efficientnet_b3", "efficientnet_b4", "efficientnet_b5", "efficientnet_b6", "efficientnet_b7",
    "efficientnet_v2_l", "efficientnet_v2_m", "efficientnet_v2_s", "googlenet", "inception_v3",
    "maxvit_t", "mnasnet0_5", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3", "mobilenet_v2",
    "mobilenet_v3_large", "mobilenet_v3_small", "regnet_x_16gf", "regnet_x_1_6gf", "regnet_x_32gf",
    "regnet_x_3_2gf", "regnet_x_400mf", "regnet_x_800mf", "regnet_x_8gf", "regnet_y_128gf",
    "regnet_y_16gf", "regnet_y_1_6gf", "regnet_y_32gf", "regnet_y_3_2gf", "regnet_y_400mf",
    "regnet_y_800mf", "regnet_y_8gf", "resnet101", "resnet152", "resnet18", "resnet34", "resnet50",
    "resnext101_32x8d", "resnext101_64x4d", "resnext50_32x4d", "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0", "squeezenet1_0", "squeezenet1_1",
    "swin_b", "swin_s", "swin_t", "swin_v2_b", "swin_v2_s", "swin_v2_t", "vgg11", "vgg11_bn", "vgg13",
    "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn", "vit_b_16", "vit_b_32", "vit_h_14", "vit_l_16",
    "vit_l_32", "wide_resnet101_2", "wide_resnet50_2",
)
# fmt: on
"""torchvision's classification networks, as its 0.26 and later list them (a test compares)."""
TIMM = "timm/"
"""What names of timm's networks begin with."""
_TIMM_NAME = re.compile(r"timm/[A-Za-z0-9][A-Za-z0-9_.-]*")


def is_arch_name(name: str) -> bool:
    """Whether torchvision has such a network, or timm may have."""
    return name in TORCHVISION_NETWORKS or _TIMM_NAME.fullmatch(name) is not None


def _check_arch(name: str) -> str:
    if is_arch_name(name) or accepts_model(name):
        return name
    raise ValueError(explain_unknown_arch(name))


def explain_unknown_arch(name: str) -> str:
    """Say which networks there are with names that are close."""
    known = (*TORCHVISION_NETWORKS, *list_models())
    close = difflib.get_close_matches(name.lower().replace("-", "_"), known, n=3)
    if not close:  # another size of a family, or its bare name
        stem = re.split(r"[_\d]", name.lower(), maxsplit=1)[0]
        close = [known for known in TORCHVISION_NETWORKS if stem and known.startswith(stem)][:5]
    hint = f"Did you mean {' or '.join(close)}? " if close else ""
    own = f"one of your own ({', '.join(list_models())})" if list_models() else "one of your own"
    return (
        f"torchvision has no classification network of this name. {hint}`tune-swa schema` lists its "
        f"{len(TORCHVISION_NETWORKS)}; {TIMM}NAME takes one of timm's, --plugin MODULE {own}"
    )


ArchName = Annotated[
    str,
    AfterValidator(_check_arch),
    WithJsonSchema(
        {
            "type": "string",
            "anyOf": [{"enum": list(TORCHVISION_NETWORKS)}, {"pattern": "^timm/[A-Za-z0-9][A-Za-z0-9_.-]*$"}],
        }
    ),
]
"""A network of torchvision or timm."""
