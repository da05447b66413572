"""Change the colours of the images of a batch, each by a number of its own.

By the formulas of `torchvision.transforms.v2.functional`, which takes one number for all images. Every device
rounds these operations alike. Images are [B, H, W, 3] uint8, and so are results; factors are [B] float32.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

GREY_WEIGHTS = (0.2989, 0.587, 0.114)
"""Of red, green and blue, as torchvision's."""


def scale_brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Multiply each image with its factor."""
    return _to_bytes(images * _per_image(factors))


def scale_contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Blend each image with its mean grey level: 0 is that level alone, 1 the image."""
    grey = _convert_to_grey(images)
    pixels = torch.full((), grey[0].numel(), dtype=torch.float64, device=images.device)
    mean = (
        grey.sum(dim=(1, 2, 3), dtype=torch.float64) / pixels
    ).float()  # exact in any order: whole numbers
    return _blend_images(images.float(), _per_image(mean), factors)


def scale_saturation(images: Tensor, factors: Tensor) -> Tensor:
    """Blend each image with its grey one: 0 is grey, 1 the image."""
    return _blend_images(images.float(), _convert_to_grey(images), factors)


def scale_sharpness(images: Tensor, factors: Tensor) -> Tensor:
    """Blend each image with a blurred one: 0 is blurred, 1 the image. The outermost pixels stay."""
    height, width = images.shape[1:3]
    if min(height, width) <= 2:
        return images
    whole = images.int()
    rows = whole[:, :-2] + whole[:, 1:-1] + whole[:, 2:]
    total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * whole[:, 1:-1, 1:-1]
    blurred = (total / torch.full((), 13.0, device=images.device)).round_()
    inner = images[:, 1:-1, 1:-1].float()
    result = images.clone()
    result[:, 1:-1, 1:-1] = _blend_images(inner, blurred, factors)
    return result


def turn_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of each image, in turns of the colour circle."""
    colours = images / torch.full((), 255.0, device=images.device)
    red, green, blue = colours.unbind(dim=-1)
    value, least = colours.amax(dim=-1), colours.amin(dim=-1)
    chroma = value - least
    grey = chroma == 0
    divisor = torch.where(grey, 1.0, chroma)
    hue = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )
    sixths = ((hue * (1 / 6) + 1).fmod(1.0) + turns.view(-1, 1, 1)).remainder(1.0) * 6
    channels = []
    for offset in (5, 3, 1):  # of a channel, the share of the chroma that it lacks is a trapezium in the hue
        place = (sixths + offset).remainder(6.0)
        lacking = torch.minimum(place, 4 - place).clamp_(0, 1)
        channels.append(value - chroma * lacking)
    return (torch.stack(channels, dim=-1).clamp_(0, 1) * 255.999).to(torch.uint8)


def cut_bits(images: Tensor, masks: Tensor) -> Tensor:
    """Keep the bits of each image that are in its mask, [B] uint8."""
    return images & _per_image(masks)


def invert_bright(images: Tensor, thresholds: Tensor) -> Tensor:
    """Invert the values of each image that are its threshold or more."""
    return torch.where(images >= _per_image(thresholds), 255 - images, images)


def stretch_contrast(images: Tensor) -> Tensor:
    """Stretch each channel of each image to the whole range of values."""
    from torchvision.transforms.v2 import functional  # its import takes a second

    return _apply_channels_first(functional.autocontrast, images)


def equalize_values(images: Tensor) -> Tensor:
    """Equalise the histogram of each channel of each image."""
    from torchvision.transforms.v2 import functional

    return _apply_channels_first(functional.equalize, images)


def _apply_channels_first(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Apply a function of torchvision's that needs no numbers, and therefore takes a batch as it is."""
    return function(images.permute(0, 3, 1, 2).contiguous()).permute(0, 2, 3, 1).contiguous()


def _convert_to_grey(images: Tensor) -> Tensor:
    """Grey levels [B, H, W, 1] float32, rounded down."""
    red, green, blue = (
        channel * weight for channel, weight in zip(images.unbind(dim=-1), GREY_WEIGHTS, strict=True)
    )
    return (red + green + blue).floor_()[..., None]


def _blend_images(images: Tensor, others: Tensor, factors: Tensor) -> Tensor:
    ratio = _per_image(factors)
    return _to_bytes(images * ratio + others * (1 - ratio))


def _per_image(numbers: Tensor) -> Tensor:
    return numbers.view(-1, 1, 1, 1)


def _to_bytes(values: Tensor) -> Tensor:
    """Clamp to 0..255 and round down."""
    return values.clamp_(0, 255).to(torch.uint8)
