"""TrivialAugmentWide (Mueller and Hutter 2021): one of fourteen changes for each image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tune_swa.config.augmentation import TrivialAugment
from tune_swa.data.epoch_draws import EpochDraws, Floats
from tune_swa.data.image_groups import ImageGroups
from tune_swa.data.pixel_colours import (
    cut_bits,
    equalize_values,
    invert_bright,
    scale_brightness,
    scale_contrast,
    scale_saturation,
    scale_sharpness,
    stretch_contrast,
)
from tune_swa.data.pixel_geometry import build_rotations, map_affine

KINDS = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "auto_contrast",
    "equalize",
)
"""The changes, in torchvision's order."""
GREATEST = {
    **dict.fromkeys(("shear_x", "shear_y", "brightness", "color", "contrast", "sharpness"), 0.99),
    **dict.fromkeys(("translate_x", "translate_y"), 32.0),
    "rotate": 135.0,
}
"""Greatest strength of those that go either way, as torchvision's: a slope, pixels, degrees, or the
difference of a factor from 1."""
GEOMETRIC = KINDS[1:6]
FACTORS = {
    "brightness": scale_brightness,
    "color": scale_saturation,
    "contrast": scale_contrast,
    "sharpness": scale_sharpness,
}
GROUPS = ("identity", "geometric", *FACTORS, "posterize", "solarize", "auto_contrast", "equalize")
"""Kinds whose images are changed together."""


def draw_trivial(
    generator: np.random.Generator, count: int, bins: int
) -> tuple[npt.NDArray[np.int64], Floats]:
    """Draw a change for each image.

    Args:
        bins: number of strengths.

    Returns:
        Indices of `KINDS` and strengths, [n] each: bits to keep for `posterize`, a threshold in [0, 1] for
        `solarize`, 0 where there is nothing to draw.
    """
    kinds = generator.integers(0, len(KINDS), count)
    steps = generator.integers(0, bins, count)
    signs = np.where(generator.random(count) <= 0.5, -1.0, 1.0)
    strengths = np.zeros(count)
    for number, kind in enumerate(KINDS):
        chosen = kinds == number
        if kind in GREATEST:
            # torch's values: the last digit decides where one is cut to whole pixels
            values = torch.linspace(0, GREATEST[kind], bins).double().numpy()
            strengths[chosen] = (values[steps] * signs)[chosen]
        elif kind == "posterize":
            values = (8 - torch.arange(bins) / ((bins - 1) / 6)).round().double().numpy()
            strengths[chosen] = values[steps][chosen]
        elif kind == "solarize":
            strengths[chosen] = torch.linspace(1, 0, bins).double().numpy()[steps][chosen]
    return kinds, strengths


def build_matrices(kinds: npt.NDArray[np.int64], strengths: Floats, shape: tuple[int, int]) -> Tensor:
    """Matrices for `map_affine`, [n, 2, 3] float64; of other changes than the geometric ones the identity.

    Shears keep the image's upper edge, or the left one, where it is.
    """
    angles = np.where(kinds == KINDS.index("rotate"), strengths, 0.0)
    matrices = build_rotations(torch.from_numpy(angles)).numpy()
    height, width = shape
    for kind, row, column, centre in (("shear_x", 0, 1, height / 2), ("shear_y", 1, 0, width / 2)):
        slopes = np.where(kinds == KINDS.index(kind), strengths, 0.0)
        matrices[:, row, column] += slopes
        matrices[:, row, 2] += slopes * centre
    for kind, row in (("translate_x", 0), ("translate_y", 1)):
        matrices[:, row, 2] -= np.trunc(np.where(kinds == KINDS.index(kind), strengths, 0.0))
    return torch.from_numpy(matrices)


class TrivialChange:
    """Applies a drawn change to each image of an epoch.

    Args:
        settings: number of strengths.
        draws: of the epoch.
    """

    def __init__(self, settings: TrivialAugment, draws: EpochDraws) -> None:
        generator = draws.open_generator(settings.name)
        kinds, strengths = draw_trivial(generator, draws.count, settings.num_magnitude_bins)
        group_of = [GROUPS.index("geometric" if kind in GEOMETRIC else kind) for kind in KINDS]
        self._groups = ImageGroups(np.array(group_of)[kinds], len(GROUPS), draws)
        matrices = draws.move_numbers(build_matrices(kinds, strengths, draws.shape))
        factors = draws.move_numbers(1 + strengths)
        bits = np.where(kinds == KINDS.index("posterize"), strengths, 8).astype(np.int64)
        masks = draws.move_numbers((255 << (8 - bits) & 255).astype(np.uint8))
        self._steps: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
            "geometric": (map_affine, (matrices,)),
            **{name: (function, (factors,)) for name, function in FACTORS.items()},
            "posterize": (cut_bits, (masks,)),
            "solarize": (invert_bright, (draws.move_numbers(255 * strengths),)),
            "auto_contrast": (stretch_contrast, ()),
            "equalize": (equalize_values, ()),
        }

    def __call__(self, images: Tensor, place: slice) -> Tensor:
        """Change the images [B, H, W, 3] of some places."""
        for name, (function, numbers) in self._steps.items():
            images = self._groups.change_group(GROUPS.index(name), images, place, function, *numbers)
        return images
