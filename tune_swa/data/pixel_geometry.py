"""Crop, turn and shift the images of a batch, each by numbers of its own.

torchvision's functions take one number for all images. These are written for a batch, of operations that
every device rounds alike (no fused multiplication and addition, no matrix products), so that all give the
same bits. Images are [B, H, W, 3] uint8, and so are results.
"""

from __future__ import annotations

import torch
from torch import Tensor


def flip_images(images: Tensor, chosen: Tensor, axis: int) -> Tensor:
    """Mirror the chosen images, [B] bool."""
    return torch.where(chosen.view(-1, 1, 1, 1), images.flip(axis), images)


def shift_images(images: Tensor, shifts: Tensor, padding: int) -> Tensor:
    """Pad with zeros and cut each image out again at its own offset, [B, 2]."""
    count, height, width, _ = images.shape
    padded = torch.nn.functional.pad(images, (0, 0, padding, padding, padding, padding))
    rows = shifts[:, 0, None] + torch.arange(height, device=images.device)  # [B, H]
    columns = shifts[:, 1, None] + torch.arange(width, device=images.device)  # [B, W]
    which = torch.arange(count, device=images.device)
    return padded[which[:, None, None], rows[:, :, None], columns[:, None, :]]


def crop_and_resize(images: Tensor, parts: Tensor) -> Tensor:
    """Cut out a part of each image and resize it to the image's size, bilinear.

    A part is no larger than the image, so there is nothing that antialiasing would change.

    Args:
        images: [B, H, W, 3].
        parts: top, left, height and width, [B, 4].
    """
    tall = _interpolate_rows(images, parts[:, 0], parts[:, 2])
    wide = _interpolate_rows(tall.transpose(1, 2).contiguous(), parts[:, 1], parts[:, 3])
    return wide.transpose(1, 2).round_().to(torch.uint8).contiguous()


def _interpolate_rows(images: Tensor, first: Tensor, extent: Tensor) -> Tensor:
    """Stretch rows [first, first + extent) of each image [B, H, W, 3] to all H, in float32."""
    count, height = images.shape[:2]
    places = torch.arange(height, device=images.device) + 0.5
    scale = extent / torch.full((), height, device=images.device)
    at = (places * scale[:, None] - 0.5).clamp_(min=0)  # [B, H], from the first row on
    low = at.floor()
    weight = (at - low)[:, :, None, None]
    low = low.long()
    high = torch.minimum(low + 1, extent[:, None] - 1)
    which = torch.arange(count, device=images.device)[:, None]
    above, below = (images[which, first[:, None] + row].float() for row in (low, high))
    return above.mul_(1 - weight).add_(below.mul_(weight))


def map_affine(images: Tensor, matrices: Tensor, *, bilinear: bool = False) -> Tensor:
    """Take each pixel from where a matrix sends it; what comes from outside is black.

    Args:
        images: [B, H, W, 3].
        matrices: map a target (x, y, 1) to its source, both from the image's centre and in pixels, [B, 2, 3].
        bilinear: interpolate between four pixels, instead of taking the nearest.
    """
    height, width = images.shape[1:3]
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    y = (torch.arange(height, device=images.device) - (height - 1) / 2)[:, None]
    entries = matrices[:, :, :, None, None]
    column = entries[:, 0, 0] * x + entries[:, 0, 1] * y + (entries[:, 0, 2] + (width - 1) / 2)  # [B, H, W]
    row = entries[:, 1, 0] * x + entries[:, 1, 1] * y + (entries[:, 1, 2] + (height - 1) / 2)
    if not bilinear:
        return _read_pixels(images, row.round_().long(), column.round_().long())
    top, left = row.floor(), column.floor()
    down, right = row - top, column - left
    total = torch.zeros(images.shape, device=images.device)
    for rows, vertical in ((top, 1 - down), (top + 1, down)):
        for columns, horizontal in ((left, 1 - right), (left + 1, right)):
            pixels = _read_pixels(images, rows.long(), columns.long()).float()
            total.add_(pixels.mul_((vertical * horizontal)[..., None]))
    return total.round_().to(torch.uint8)


def _read_pixels(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pixels of each image at [B, H, W] rows and columns; black outside."""
    count, height, width, channels = images.shape
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    which = torch.arange(count, device=images.device)[:, None, None]
    flat = (which * height + rows.clamp_(0, height - 1)) * width + columns.clamp_(0, width - 1)
    pixels = images.reshape(-1, channels).index_select(0, flat.view(-1)).view(*flat.shape, channels)
    return pixels.mul_(inside[..., None])


def build_rotations(degrees: Tensor) -> Tensor:
    """Matrices for `map_affine` that turn anticlockwise, [n, 2, 3] float64, of angles [n]."""
    radians = torch.deg2rad(degrees.double())
    cosine, sine, zero = radians.cos(), radians.sin(), torch.zeros_like(radians)
    return torch.stack([cosine, -sine, zero, sine, cosine, zero], dim=1).view(-1, 2, 3)


def mask_rectangles(edges: Tensor, shape: tuple[int, int]) -> Tensor:
    """Pixels inside of rectangles, [B, H, W] bool.

    Args:
        edges: top, left, bottom and right, [B, 4].
        shape: height and width.
    """
    rows = torch.arange(shape[0], device=edges.device)
    columns = torch.arange(shape[1], device=edges.device)
    down = (rows >= edges[:, :1]) & (rows < edges[:, 2:3])
    across = (columns >= edges[:, 1:2]) & (columns < edges[:, 3:])
    return down[:, :, None] & across[:, None, :]
