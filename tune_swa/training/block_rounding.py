"""Round tensors to block floating point: whole numbers of few bits, and one exponent for each block."""

from __future__ import annotations

import torch
from torch import Tensor

FLOAT_BIAS, FRACTION_BITS = 127, 23
"""Of float32 (IEEE 754): the exponent is stored with this bias, above these bits."""
LARGEST_EXPONENT = 127


def round_blocks(values: Tensor, bits: int, noise: Tensor | None = None) -> Tensor:
    """Return `values` rounded to block floating point, as float32 numbers.

    A block with largest absolute value m has the exponent e = floor(log2 m) and the grid 2^(e - bits + 2), of
    which it holds whole multiples from -2^(bits-1) to 2^(bits-1) - 1 (Yang et al. 2019). A tensor of one
    dimension is one block; others have a block for each index of their first dimension: a filter of a weight,
    an image of a batch. A block of zeros stays zero. NaN stays; infinity becomes the largest number.

    Args:
        values: float32, of any shape.
        bits: of a number, its sign included; 3 to 16.
        noise: uniform numbers in [0, 1), [same shape], for stochastic rounding: a number moves up with the
            probability of its distance from the grid point below. Its memory takes the result. None: to the
            nearest, a half to even.
    """
    steps, grid = _count_steps(values, bits, noise)
    return steps.mul_(grid)


def find_saturated(rounded: Tensor, original: Tensor, bits: int) -> Tensor:
    """Find the blocks that hold the lowest number, -2^(bits-1) times the grid: [blocks] bool.

    Its exponent is above that of the block, so to round the block again takes a grid twice as wide. All other
    blocks stay as they are.

    Args:
        rounded: what `round_blocks` returned.
        original: what it was given.
        bits: of a number.
    """
    _, grid = _find_grids(original, bits)
    lowest = rounded.amin(_inner_dims(rounded), keepdim=True)
    return lowest.eq(grid * -(2 ** (bits - 1))).flatten()


def _count_steps(values: Tensor, bits: int, noise: Tensor | None) -> tuple[Tensor, Tensor]:
    """Whole multiples of the grid, [same shape], and the grid of each block."""
    per_grid, grid = _find_grids(values, bits)
    # products with a power of two are exact, so adding the noise in the same pass rounds once all the same
    steps = (
        torch.mul(values, per_grid).round_() if noise is None else noise.addcmul_(values, per_grid).floor_()
    )
    top = 2 ** (bits - 1)
    return steps.clamp_(-top, top - 1), grid


def _find_grids(values: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Powers of two for each block, [blocks, 1, ...]: grid points per unit, and the distance between them."""
    inner = _inner_dims(values)
    largest = torch.maximum(values.amax(inner, keepdim=True), -values.amin(inner, keepdim=True))
    # The exponent is read from the bits, which is exact: log2 rounds up just below a power of two. Zero gets
    # the least exponent whose powers below are finite, infinity the largest one.
    exponent = (largest.abs().view(torch.int32) >> FRACTION_BITS) - FLOAT_BIAS
    exponent = exponent.clamp_(bits - FLOAT_BIAS - 1, LARGEST_EXPONENT)
    return _raise_two(bits - 2 - exponent), _raise_two(exponent - (bits - 2))


def _inner_dims(values: Tensor) -> list[int]:
    """Dimensions that a block extends over."""
    return list(range(0 if values.dim() < 2 else 1, values.dim()))


def _raise_two(exponent: Tensor) -> Tensor:
    """2^exponent as float32 for int32 exponents from -126 to 127, exact on every device."""
    return ((exponent + FLOAT_BIAS) << FRACTION_BITS).view(torch.float32)
