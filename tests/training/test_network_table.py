"""The table of families in docs/networks.md says what the networks do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatch

import pytest
from torch import nn
from torchvision.ops import StochasticDepth

from helpers.programs import ROOT
from tune_swa.config import ModelSpec
from tune_swa.config.network_names import TORCHVISION_NETWORKS
from tune_swa.errors import RequestError
from tune_swa.training.network_checks import check_network
from tune_swa.training.networks import build_shapes, has_batch_norm

SMALLEST_SIZE = 8
"""That `data.image_size` allows."""


def read_families() -> Iterator[tuple[str, str, bool, bool]]:
    """Pattern of names, smallest image size, and whether there are batch norm and layers that draw."""
    text = (ROOT / "docs" / "networks.md").read_text().split("| dropout or stochastic depth |\n")[1]
    for line in text.split("\n\n")[0].splitlines()[1:]:
        cells = [cell.strip().split(" / ") for cell in line.strip("|").split("|")]
        for number, names in enumerate(cells[0]):
            size, norm, draws = (cell[number % len(cell)] for cell in cells[1:])
            for pattern in re.findall("`(.*?)`", names):
                yield pattern, size, norm == "yes", draws == "yes"


FAMILIES = list(read_families())


def find_family(arch: str) -> str:
    """The first pattern that a name matches."""
    return next(pattern for pattern, *_ in FAMILIES if fnmatch(arch, pattern))


def test_every_network_is_in_the_table() -> None:
    assert {find_family(arch) for arch in TORCHVISION_NETWORKS} == {pattern for pattern, *_ in FAMILIES}


@pytest.mark.parametrize(("pattern", "size", "norm", "draws"), FAMILIES, ids=[f[0] for f in FAMILIES])
def test_a_family_is_as_the_table_has_it(pattern: str, size: str, norm: bool, draws: bool) -> None:
    arch = [arch for arch in TORCHVISION_NETWORKS if find_family(arch) == pattern][-1]
    least = int(arch.rpartition("_")[2]) if pattern == "vit_*" else int(re.findall(r"\d+", size)[0])
    check_network(ModelSpec(arch=arch), least)
    if least > SMALLEST_SIZE and pattern != "maxvit_t":  # whose sizes are rounded up on the way
        with pytest.raises(RequestError, match="does not take images"):
            check_network(ModelSpec(arch=arch), least - 1)
    network = build_shapes(arch, 3, least)
    drawing = [m for m in network.modules() if isinstance(m, nn.Dropout | StochasticDepth) and m.p > 0]
    assert (has_batch_norm(network), bool(drawing)) == (norm, draws)
