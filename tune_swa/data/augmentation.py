"""Change the training images of an epoch: which augmentation gives which image what.

The numbers of an epoch are drawn at once (`epoch_draws`), and the images of a batch are changed together
(`pixel_geometry`, `pixel_colours`, `trivial_augment`), or one after the other by a plugin's function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from tune_swa.config.augmentation import (
    Augmentation,
    ColorJitter,
    CutMix,
    MixUp,
    PlainAugmentation,
    PluginAugmentation,
    RandomErasing,
    RandomResizedCrop,
    Rotation,
    TrivialAugment,
    parse_augmentation,
)
from tune_swa.data.custom_augmentation import CustomAugmentation
from tune_swa.data.epoch_draws import EpochDraws, draw_crops, draw_erased
from tune_swa.data.image_groups import ImageGroups
from tune_swa.data.mixing import Mixing
from tune_swa.data.pixel_colours import scale_brightness, scale_contrast, scale_saturation, turn_hue
from tune_swa.data.pixel_geometry import (
    build_rotations,
    crop_and_resize,
    flip_images,
    map_affine,
    mask_rectangles,
    shift_images,
)
from tune_swa.data.trivial_augment import TrivialChange

Change: TypeAlias = Callable[[Tensor, slice], Tensor]
"""Changes images [B, H, W, 3] uint8 that stand at some places of the epoch's order."""

CHUNK_VALUES = {"cpu": 2**18, "cuda": 2**24}
"""Of images that are changed together: what stays in a CPU's cache, and on a GPU takes little memory."""
JITTERS = {
    "brightness": scale_brightness,
    "contrast": scale_contrast,
    "saturation": scale_saturation,
    "hue": turn_hue,
}


class EpochAugmentation:
    """The augmentations of the images of one epoch.

    Flips come first, then `crop`, whatever the order in which they are listed; then the others as listed.
    `mixup` and `cutmix` are last: they mix images that are converted to numbers (see `mixing`).

    Args:
        texts: augmentations, as `train.augment` has them.
        crop_padding: pixels that `crop` shifts by at most.
        draws: of the epoch.
        num_classes: classes of the labels, which mixing makes probabilities of.

    Raises:
        RequestError: no plugin has registered one of them.
    """

    def __init__(self, texts: Sequence[str], crop_padding: int, draws: EpochDraws, num_classes: int) -> None:
        listed = [parse_augmentation(text) for text in texts]
        names = [augmentation.name for augmentation in listed]
        self._changes: list[Change] = []
        for name, axis in (("hflip", 2), ("vflip", 1)):
            if name in names:
                self._changes.append(_Flip(name, axis, draws))
        if "crop" in names:
            self._changes.append(_Shift(crop_padding, draws))
        self._changes += [_build_change(a, draws) for a in listed if not isinstance(a, _APART)]
        mixed = [a for a in listed if isinstance(a, MixUp | CutMix)]
        self.mixing = Mixing(mixed, draws, num_classes) if mixed else None
        """Mixes images with others; None: nothing does."""

    def change_images(self, images: Tensor, place: slice) -> Tensor:
        """Apply all but the mixing to images [B, H, W, 3] uint8 at some places of the order."""
        if not self._changes:
            return images
        size = max(1, CHUNK_VALUES[images.device.type] // images[0].numel())
        changed = []
        for start, few in zip(range(place.start, place.stop, size), torch.split(images, size), strict=True):
            for change in self._changes:
                few = change(few, slice(start, start + len(few)))
            changed.append(few)
        return torch.cat(changed) if len(changed) > 1 else changed[0]


_APART = (PlainAugmentation, MixUp, CutMix)
"""What is applied before or after the others."""


def _build_change(augmentation: Augmentation, draws: EpochDraws) -> Change:
    if isinstance(augmentation, RandomResizedCrop):
        return _Crop(augmentation, draws)
    if isinstance(augmentation, Rotation):
        return _Turn(augmentation, draws)
    if isinstance(augmentation, ColorJitter):
        return _Jitter(augmentation, draws)
    if isinstance(augmentation, TrivialAugment):
        return TrivialChange(augmentation, draws)
    if isinstance(augmentation, RandomErasing):
        return _Erase(augmentation, draws)
    assert isinstance(augmentation, PluginAugmentation)
    return CustomAugmentation(augmentation.name, draws)


class _Flip:
    def __init__(self, name: str, axis: int, draws: EpochDraws) -> None:
        self._axis = axis
        self._chosen = draws.move_numbers(
            torch.rand(draws.count, generator=draws.open_torch_generator(name)) < 0.5
        )

    def __call__(self, images: Tensor, place: slice) -> Tensor:
        return flip_images(images, self._chosen[place], self._axis)


class _Shift:
    def __init__(self, padding: int, draws: EpochDraws) -> None:
        generator = draws.open_torch_generator("crop")
        self._padding = padding
        self._shifts = draws.move_numbers(
            torch.randint(0, 2 * padding + 1, (draws.count, 2), generator=generator)
        )

    def __call__(self, images: Tensor, place: slice) -> Tensor:
        return shift_images(images, self._shifts[place], self._padding)


class _Crop:
    def __init__(self, settings: RandomResizedCrop, draws: EpochDraws) -> None:
        generator = draws.open_generator(settings.name)
        parts = draw_crops(generator, draws.count, draws.shape, settings.scale, settings.ratio)
        self._parts = draws.move_numbers(parts)

    def __call__(self, images: Tensor, place: slice) -> Tensor:
        return crop_and_resize(images, self._parts[place])


class _Turn:
    def __init__(self, settings: Rotation, draws: EpochDraws) -> None:
        low, high = (
            settings.degrees if isinstance(settings.degrees, tuple) else (-settings.degrees, settings.degrees)
        )
        angles = draws.open_generator(settings.name).uniform(low, high, draws.count)
        self._matrices = draws.move_numbers(build_rotations(torch.from_numpy(angles)))
        self._bilinear = settings.interpolation == "bilinear"

    def __call__(self, images: Tensor, place: slice) -> Tensor:
        return map_affine(images, self._matrices[place], bilinear=self._bilinear)


class _Jitter:
    """Up to four changes of colour, in an order that is drawn for each image."""

    def __init__(self, settings: ColorJitter, draws: EpochDraws) -> None:
        generator = draws.open_generator(settings.name)
        ranges = settings.ranges
        self._functions = [JITTERS[name] for name in ranges]
        order = generator.random((draws.count, len(ranges))).argsort(axis=1)
        factors = [generator.uniform(low, high, draws.count) for low, high in ranges.values()]
        self._factors = [draws.move_numbers(factor) for factor in factors]
        self._turns = [ImageGroups(turn, len(ranges), draws) for turn in order.T]

    def __call__(self, images: Tensor, place: slice) -> Tensor:
        for turn in self._turns:
            for number, function in enumerate(self._functions):
                images = turn.change_group(number, images, place, function, self._factors[number])
        return images


class _Erase:
    def __init__(self, settings: RandomErasing, draws: EpochDraws) -> None:
        generator = draws.open_generator(settings.name)
        erased = generator.random(draws.count) < settings.p
        boxes = draw_erased(generator, draws.count, draws.shape, settings.scale, settings.ratio)
        boxes *= erased[:, None]
        self._edges = draws.move_numbers(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1))
        self._value = draws.move_numbers(np.broadcast_to(np.array(settings.value, np.uint8), (3,)).copy())

    def __call__(self, images: Tensor, place: slice) -> Tensor:
        shape = images.shape[1], images.shape[2]
        inside = mask_rectangles(self._edges[place], shape).to(torch.uint8)[..., None]
        return images * (1 - inside) + inside * self._value  # torch.where takes three times as long on a CPU
