"""Find images that show the same: identical pixels, and nearly identical ones by a perceptual hash.

All sums are of whole numbers below 2^53, so they are exact and every machine finds the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Hashes = npt.NDArray[np.uint64]
"""For each image a number for the pixels sampled from it, and its difference hash, [N, 2]."""
Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

CHUNK = 256
"""Images hashed at a time."""
CELLS = (8, 9)
"""Rows and columns of the mean brightnesses that a difference hash compares."""
SAMPLES = 4
"""Pixels sampled along each side of a cell: the cost does not grow with the image."""
DECIDED = 16
"""Fewer of the 64 comparisons that are beyond `NOISE` say too little of an image: a page, a night sky."""
NOISE = 2 * SAMPLES**2
"""Two grey levels between neighbouring cells, in the unit of their sums."""
SMALLEST = 16
"""Images of fewer pixels a side are not compared by their hash, which has 9 columns of cells."""
NEAR_BITS = 6
"""Hashes of nearly identical images differ in so many of 64 bits at most. Those of 97 to 99 of a hundred
photographs do that are saved again as JPEG or at half their size; of 500,000 pairs of different ones none."""
WINDOW = 8
"""Images that have the same two bytes of a hash are compared with so many of the next ones."""
COMPARED = 32
"""Pixels a side at which candidates are compared, about: compression hardly shows there."""
LIKENESS = 0.95
"""Least correlation of the pixels of nearly identical images."""
DETAIL = 0.85
"""Least correlation of the differences between their neighbouring pixels. Saved again as JPEG of quality 50,
99 of a hundred photographs have 0.95 and more; different ones of one layout have less than 0.7."""
PROBE = 1000
"""Images among which it is tried whether the hash tells the images of a set apart."""
PROBED_PAIRS = 200
CREDIBLE_SHARE = 0.25
"""The hash is trusted where so many of the pairs that it takes for alike are alike in their pixels ..."""
CREDIBLE_ERRORS = 1e-4
"""... or where at most so many of all pairs are taken for alike and are not."""
_DIGEST = 16


@dataclass(frozen=True, eq=False)
class Copies:
    """Groups of images of a set that show the same."""

    identical: Rows
    """For each image the first row with the same pixels: its own if there is no earlier one, [N]."""
    near: Rows
    """Likewise of the images that are linked by pairs of nearly identical ones, identical ones included."""
    near_compared: bool
    """Whether the hash tells the images of this set apart; else `near` is `identical`."""


def hash_images(images: Pixels) -> Hashes:
    """Hash some images.

    The difference hash (as in the library ImageHash): a bit for each pair of neighbours in a grid of 8 x 9
    mean brightnesses, set where the right one is brighter. Brightness is the green channel. The hash is 0
    where too few of the neighbours differ to tell an image from others.

    Args:
        images: [n, S, S, 3].

    Returns:
        [n, 2]; identical images have the same first number, and nearly always only those.
    """
    height, width = images.shape[1:3]
    rows, columns = (
        _sample_positions(side, cells * SAMPLES) for side, cells in zip((height, width), CELLS, strict=True)
    )
    green = (rows[:, None] * width + columns) * 3 + 1  # [32, 36]
    sampled = np.take(images.reshape(len(images), -1), green, axis=1)  # [n, 32, 36]
    words = sampled.reshape(len(images), -1).view(np.uint64)
    numbers = (words * _draw_weights(words.shape[1])).sum(axis=1, dtype=np.uint64)  # modulo 2^64

    sums = sampled.astype(np.uint16)
    sums = sum(sums[:, i::SAMPLES] for i in range(1, SAMPLES)) + sums[:, ::SAMPLES]
    sums = sum(sums[:, :, i::SAMPLES] for i in range(1, SAMPLES)) + sums[:, :, ::SAMPLES]  # [n, 8, 9]
    differences = np.diff(sums.astype(np.int16), axis=2).reshape(len(images), 64)
    bits = np.ascontiguousarray(np.packbits(differences > 0, axis=1)).view(np.uint64)[:, 0]
    bits[np.count_nonzero(np.abs(differences) > NOISE, axis=1) < DECIDED] = 0
    return np.stack([numbers, bits], axis=1)


def hash_all(images: Pixels) -> Hashes:
    """`hash_images` of any number of images."""
    chunks = [hash_images(images[i : i + CHUNK]) for i in range(0, len(images), CHUNK)]
    return np.concatenate([np.zeros((0, 2), np.uint64), *chunks])


def find_copies(images: Pixels, hashes: Hashes, rows: Rows) -> Copies:
    """Find the images of a set that show the same.

    Pixels are read of those images alone whose hashes are alike.

    Args:
        images: [N, S, S, 3].
        hashes: of all of them, [N, 2].
        rows: those to compare, rising; the others are no copies of anything.
    """
    identical = _find_identical(images, hashes[:, 0], rows)
    outlines = hashes[:, 1]
    firsts = rows[(identical[rows] == rows) & (outlines[rows] != 0)]
    large = min(images.shape[1:3]) >= SMALLEST
    if not large or not is_hash_credible(images, outlines, firsts):
        return Copies(identical, identical, near_compared=False)
    pairs = firsts[find_candidates(outlines[firsts])]
    linked = _link_pairs(len(images), pairs[compare_pixels(images, pairs)])
    return Copies(identical, linked[identical], near_compared=True)


def is_hash_credible(images: Pixels, outlines: Hashes, rows: Rows) -> bool:
    """Whether images of a set with like hashes are alike, tried on some of them.

    In sets of small drawings (digits on a plain ground) many different images have like outlines, and
    some of them even like pixels.

    Args:
        images: [N, S, S, 3].
        outlines: their difference hashes, [N].
        rows: the images to choose from.
    """
    probe = rows[_spread_evenly(len(rows), PROBE)]
    distances = np.bitwise_count(outlines[probe][:, None] ^ outlines[probe][None, :])
    first, second = np.nonzero(np.triu(distances <= NEAR_BITS, k=1))
    chosen = _spread_evenly(len(first), PROBED_PAIRS)
    if not len(chosen):
        return True
    alike = compare_pixels(images, np.stack([probe[first[chosen]], probe[second[chosen]]], axis=1))
    share = float(np.count_nonzero(alike)) / len(alike)
    errors = (1 - share) * len(first)
    return share >= CREDIBLE_SHARE or errors <= max(10, CREDIBLE_ERRORS * len(probe) * (len(probe) - 1) / 2)


def find_candidates(outlines: Hashes) -> Rows:
    """Find pairs of hashes that differ in at most `NEAR_BITS` bits, without comparing every two.

    Hashes of 8 bytes that differ in at most 6 bits have two bytes in common (banding, as in Manku et al.
    2007). For each two bytes the hashes are sorted by these, and compared with their neighbours. Where more
    than `WINDOW` hashes share two bytes, those are compared that are close by the other bytes.

    Returns:
        Pairs of indices, each once, the smaller first, [m, 2].
    """
    count = len(outlines)
    eight = np.ascontiguousarray(outlines).view(np.uint8).reshape(count, 8)
    found = np.zeros(0, dtype=np.int64)
    for chosen in combinations(range(8), 2):
        others = [i for i in range(8) if i not in chosen]
        keys = np.ascontiguousarray(eight[:, [*chosen, *others]]).view(">u8")[:, 0].astype(np.uint64)
        order = np.argsort(keys, kind="stable")
        shared, codes = keys[order] >> np.uint64(48), [found]
        for step in range(1, min(WINDOW + 1, count)):
            same = shared[step:] == shared[:-step]
            if not same.any():
                break
            first, second = order[:-step][same], order[step:][same]
            close = np.bitwise_count(outlines[first] ^ outlines[second]) <= NEAR_BITS
            first, second = first[close], second[close]
            codes.append(np.minimum(first, second) * count + np.maximum(first, second))
        found = np.unique(np.concatenate(codes))
    return np.stack([found // max(1, count), found % max(1, count)], axis=1)


def compare_pixels(images: Pixels, pairs: Rows) -> npt.NDArray[np.bool_]:
    """Whether the two images of each pair are nearly identical: as pixels, and as differences between them.

    Correlations do not see a change of brightness or contrast. Those of the differences are what
    different images with one layout do not have.

    Args:
        images: [N, S, S, 3].
        pairs: rows, [m, 2].

    Returns:
        [m].
    """
    alike = np.zeros(len(pairs), dtype=np.bool_)
    for part in _slice_pairs(len(pairs), images):
        first, second = (_reduce_pixels(images[pairs[part, side]]) for side in (0, 1))
        close = _correlate_pairs(first, second) >= LIKENESS
        alike[part] = close & (
            _correlate_pairs(_stack_differences(first), _stack_differences(second)) >= DETAIL
        )
    return alike


def _find_identical(images: Pixels, numbers: Hashes, rows: Rows) -> Rows:
    """Compare whole images where the numbers of two are the same."""
    order = rows[np.argsort(numbers[rows], kind="stable")]
    same = numbers[order[1:]] == numbers[order[:-1]]
    shared = np.unique(np.concatenate([order[1:][same], order[:-1][same]]))
    identical = np.arange(len(images), dtype=np.int64)
    seen: dict[bytes, int] = {}
    for row in shared:
        digest = hashlib.blake2b(np.ascontiguousarray(images[row]).data, digest_size=_DIGEST).digest()
        identical[row] = seen.setdefault(digest, int(row))
    return identical


def _link_pairs(count: int, pairs: Rows) -> Rows:
    """First row of what each row is linked to, directly or through others, [count]."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ones = np.ones(len(pairs), dtype=np.int8)
    graph = coo_array((ones, (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    _, labels = connected_components(graph, directed=False)
    _, first = np.unique(labels, return_index=True)
    linked: Rows = first[labels].astype(np.int64)
    return linked


def _sample_positions(side: int, count: int) -> Rows:
    """Positions of `count` pixels along a side, evenly spread; some twice where there are fewer."""
    return (2 * np.arange(count, dtype=np.int64) + 1) * side // (2 * count)


def _spread_evenly(count: int, most: int) -> Rows:
    """Choose at most `most` of the first `count` whole numbers, evenly spread."""
    taken = min(count, most)
    return np.arange(taken, dtype=np.int64) * count // max(1, taken)


def _draw_weights(count: int) -> Hashes:
    return np.random.default_rng(0).integers(0, 2**64, count, dtype=np.uint64) | np.uint64(1)


def _slice_pairs(count: int, images: Pixels) -> Iterator[slice]:
    """Number of pairs compared at a time: their pixels take some ten megabytes."""
    size = max(1, 4_000_000 // int(np.prod(images.shape[1:])))
    for start in range(0, count, size):
        yield slice(start, start + size)


def _reduce_pixels(pixels: Pixels) -> Floats:
    """Sums over squares of pixels, so that about `COMPARED` a side are left, [n, k, k, 3]."""
    factor = max(1, min(pixels.shape[1:3]) // COMPARED)
    height, width = (side // factor for side in pixels.shape[1:3])
    rows = np.zeros((len(pixels), height, width * factor, 3), dtype=np.float64)
    for i in range(factor):  # much faster than sum() over short axes
        rows += pixels[:, i : height * factor : factor, : width * factor]
    sums = np.zeros((len(pixels), height, width, 3), dtype=np.float64)
    for i in range(factor):
        sums += rows[:, :, i::factor]
    return sums


def _stack_differences(pixels: Floats) -> Floats:
    down, right = np.diff(pixels, axis=1), np.diff(pixels, axis=2)
    return np.concatenate([down.reshape(len(pixels), -1), right.reshape(len(pixels), -1)], axis=1)


def _correlate_pairs(first: Floats, second: Floats) -> Floats:
    """Pearson's correlation of two images each, of whole numbers, [n]; 0 where one of them is plain."""
    x, y = first.reshape(len(first), -1), second.reshape(len(second), -1)
    count, sum_x, sum_y = x.shape[1], x.sum(axis=1), y.sum(axis=1)
    covariance, variance_x, variance_y = (
        count * np.einsum("nf,nf->n", a, b) - sum_a * sum_b
        for a, b, sum_a, sum_b in ((x, y, sum_x, sum_y), (x, x, sum_x, sum_x), (y, y, sum_y, sum_y))
    )
    variances = variance_x * variance_y
    found: Floats = np.zeros(len(x))
    np.divide(covariance, np.sqrt(variances), out=found, where=variances > 0)
    return found
