"""Several networks as one model, which gives their mean probability."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tune_swa.config.network_names import is_arch_name
from tune_swa.plugins import check_builder
from tune_swa.training.model import build_model
from tune_swa.training.networks import build_shapes, load_named, name_head_parameters


class MeanProbability(nn.ModuleList):
    """Networks whose probabilities are averaged; in a state_dict the names of network k begin with `k.`.

    The outputs are the logarithms of the mean probability p. Softmax gives p back, since exp(log p) = p and p
    sums to 1 over the classes: whatever takes a network's logits can take them as well, and a temperature
    divides them as it divides logits.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Logarithms [B, C] float32 of the mean probability of images [B, 3, H, W].

        They are added in fp64, in the order of the networks, as `MemberEvaluator` does.
        """
        total: Tensor | None = None
        for network in self:
            said = torch.log_softmax(network(images).float().double(), dim=1)
            total = said if total is None else torch.logaddexp(total, said)
        assert total is not None
        return (total - math.log(len(self))).float()


def build_networks(about: Mapping[str, Any], count: int) -> nn.Module:
    """A model of so many networks in eval mode, on the CPU, whose weights are still to be loaded.

    Args:
        about: what `best_model.json` says of a network.
        count: of networks; of one it is that network itself.

    Raises:
        RequestError: the library that has the network is missing, or has it no more; or another plugin
            than the one that built it is loaded.
    """
    check_builder(about["arch"], about.get("plugins"))
    image_size = about.get("preprocessing", {}).get("image_size", 224)
    network = build_model(about["num_classes"], 0, arch=about["arch"], image_size=image_size).eval()
    if count == 1:
        return network
    return MeanProbability(copy.deepcopy(network) for _ in range(count)).eval()


def load_networks(weights: Sequence[Mapping[str, Tensor]], about: Mapping[str, Any]) -> nn.Module:
    """`build_networks` with a state_dict for each of them, at least one.

    Raises:
        RequestError: as of `build_networks`.
        ValueError: the weights are of another number of classes.
    """
    if is_arch_name(about["arch"]):  # where the last parameter of the head has a row for each class
        head = name_head_parameters(build_shapes(about["arch"], 1))[-1]
        # before so many are made room for
        if any(len(state[head]) != about["num_classes"] for state in weights):
            raise ValueError(f"{head} is of another number of classes than {about['num_classes']}")
    model = build_networks(about, len(weights))
    for network, state in zip(list_networks(model), weights, strict=True):
        load_named(network, state)
    return model


def list_networks(model: nn.Module) -> list[nn.Module]:
    """The networks of a model that `build_networks` made."""
    return list(model) if isinstance(model, MeanProbability) else [model]
