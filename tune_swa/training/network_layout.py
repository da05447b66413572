"""Names and shapes that the weights of a network have, in files of whoever trained it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tune_swa.config.network_names import TIMM, is_arch_name
from tune_swa.training.networks import build_shapes

Parts = tuple[str, ...]
"""A name by its parts, or keys of nested dictionaries from the outside in."""
COUNTER = "num_batches_tracked"
"""End of the names of what counts the batches of batch normalisation."""
POSITIONS = "encoder.pos_embedding"
"""Of torchvision's vision transformers: one row for each patch, and one for the class."""


@dataclass(frozen=True)
class NetworkLayout:
    """What the state_dict of a network looks like."""

    arch: str
    state: Mapping[str, Tensor]
    """Its names, with tensors that have shapes and types alone."""
    heads: tuple[str, ...]
    """Names of the layer that has as many outputs as there are classes."""
    children: Mapping[str, str]
    """Names in `Sequential(*network.children())`, which people cut a classifier off with."""

    @classmethod
    def of_network(cls, arch: str, image_size: int) -> NetworkLayout:
        """Build it from a network's name and the images that it is for; errors as in `build_network`."""
        network, wider = (build_shapes(arch, classes, image_size) for classes in (1, 2))
        others = {name: p.shape for name, p in wider.named_parameters()}
        # some heads have layers before the last one, which are as wide as the features
        heads = tuple(name for name, p in network.named_parameters() if p.shape != others.get(name))
        classifiers = {name.split(".")[0] for name in heads}
        children = {
            str(index): name
            for index, (name, child) in enumerate(network.named_children())
            if name not in classifiers and child.state_dict()
        }
        return cls(arch, network.state_dict(), heads, children)

    @property
    def title(self) -> str:
        """Whose network it is."""
        if self.arch.startswith(TIMM):
            return f"timm's {self.arch.removeprefix(TIMM)}"
        return f"torchvision's {self.arch}" if is_arch_name(self.arch) else f"a plugin's {self.arch}"

    @property
    def first_tensor(self) -> str:
        """Name of its first tensor."""
        return next(iter(self.state))

    @property
    def first_names(self) -> tuple[Parts, ...]:
        """Parts of the names that the first tensor may have, after whatever they begin with."""
        first, *rest = self.first_tensor.split(".")
        indices = [(index, *rest) for index, name in self.children.items() if name == first]
        return ((first, *rest), *indices)

    def list_shapes(self, found: Mapping[str, Tensor]) -> dict[str, torch.Size]:
        """List the names that a file has to have, with shapes: of any number of classes.

        Another kind of classifier is left out: a fresh one takes its place.

        Args:
            found: what the file has, by these names.
        """
        mine, theirs = (
            {name for name in names if self._is_in_classifier(name) and not name.endswith(COUNTER)}
            for names in (self.state, found)
        )
        shapes = {
            name: tensor.shape
            for name, tensor in self.state.items()
            if mine == theirs or not self._is_in_classifier(name)
        }
        if mine == theirs and self.heads:
            bias = found[self.heads[-1]]
            classes = bias.shape[0] if bias.dim() else 1
            for name in self.heads:
                shapes[name] = torch.Size([classes, *shapes[name][1:]])
        positions = found.get(POSITIONS)
        if self.arch.startswith("vit_") and positions is not None and positions.dim() == 3:
            # those of another image size are resized when they are taken
            shapes[POSITIONS] = torch.Size([1, positions.shape[1], shapes[POSITIONS][2]])
        return shapes

    def is_in_body(self, name: str) -> bool:
        """Whether a name begins as those of the network itself do, without its classifier."""
        return _drop_digits(name) in {_drop_digits(n) for n in self.state if not self._is_in_classifier(n)}

    def modernise_name(self, name: str) -> str:
        """Return today's form of a name: published weights of densenets have an older one."""
        if not self.arch.startswith("densenet"):
            return name
        return re.sub(r"(?<=\.)(norm|conv)\.([12])(?=\.)", r"\1\2", name)

    def _is_in_classifier(self, name: str) -> bool:
        return name.split(".")[0] in {head.split(".")[0] for head in self.heads}


def _drop_digits(name: str) -> str:
    """The first part of a name without the number at its end: blocks of a network are counted there."""
    return re.sub(r"\d+$", "", name.split(".")[0])
