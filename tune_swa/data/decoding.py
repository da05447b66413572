"""How images become pixels: as torchvision resizes them, on all cores, the damaged ones told together."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from tune_swa.config import DataSpec
from tune_swa.data.image_notes import Group, Remarks
from tune_swa.data.similarity import Hashes, hash_images
from tune_swa.data.sources import Listing
from tune_swa.errors import RequestError
from tune_swa.text import count_hidden, first_line

CHUNK = 256
"""Images decoded between two reports of progress."""
MOST_THREADS = 16


def resize(image: Image.Image, size: int, how: str) -> Image.Image:
    """torchvision's own resizing of a PIL image: bilinear with antialiasing.

    Args:
        image: at any size.
        size: height and width of the result, in pixels.
        how: `squash` resizes both sides; `crop` resizes the short side and takes the centre.
    """
    from torchvision.transforms import functional

    if how == "squash":
        resized: Image.Image = functional.resize(image, [size, size])
        return resized
    cropped: Image.Image = functional.center_crop(functional.resize(image, [size]), [size, size])
    return cropped


def decode_all(
    listing: Listing,
    spec: DataSpec,
    out: npt.NDArray[np.uint8],
    progress: Callable[[int, int], object] | None = None,
) -> tuple[list[int], Remarks, Hashes]:
    """Decode every image into its row of `out`, [N, H, W, 3], and hash it.

    Returns:
        Rows of the images that were skipped, rising; what there is to tell; hashes of all rows, [N, 2].

    Raises:
        RequestError: images that cannot be decoded, after all have been tried; not with
            `data.unreadable: skip`.
    """
    failures: dict[int, str] = {}
    converted: dict[int, tuple[str, ...]] = {}
    hashes = np.zeros((len(listing), 2), dtype=np.uint64)

    def decode(index: int) -> None:
        try:
            opened = listing.open_image(index)
            out[index] = np.asarray(resize(opened.image, spec.image_size, spec.resize))
        except UnidentifiedImageError:
            failures[index] = "not an image that Pillow knows"
        except Exception as error:  # PIL's decoders raise a dozen types for damaged files
            failures[index] = first_line(error, 200)
        else:
            if opened.conversions:
                converted[index] = opened.conversions

    def hash_chunk(start: int, stop: int) -> None:
        hashes[start:stop] = hash_images(out[start:stop])

    # threads are enough: PIL releases the interpreter's lock while it decodes and resizes
    hashing: list[Future[None]] = []
    with _as_torchvision(), ThreadPoolExecutor(max_workers=min(MOST_THREADS, _cores())) as pool:
        for start in range(0, len(listing), CHUNK):
            stop = min(start + CHUNK, len(listing))
            list(pool.map(decode, range(start, stop)))
            hashing.append(pool.submit(hash_chunk, start, stop))  # while the next ones are decoded
            if progress is not None:
                progress(stop, len(listing))
    for chunk in hashing:
        chunk.result()
    skipped = Group.of(f"{listing.names(index)} ({failures[index]})" for index in sorted(failures))
    if failures and spec.unreadable == "error":
        hidden = skipped.count - len(skipped.first)
        raise RequestError(
            f"{len(failures)} of {len(listing)} images cannot be decoded:\n  "
            + "\n  ".join([*skipped.first, *([count_hidden(hidden)] if hidden else [])])
            + "\nReplace or remove them, or leave them out with --set data.unreadable=skip. Nothing was "
            "trained"
        )
    kinds: dict[str, list[str]] = {}
    for index in sorted(converted):
        for kind in converted[index]:
            kinds.setdefault(kind, []).append(listing.names(index))
    remarks = Remarks(skipped, {kind: Group.of(names) for kind, names in sorted(kinds.items())})
    return sorted(failures), remarks, hashes


@contextmanager
def _as_torchvision() -> Iterator[None]:
    """Let Pillow decode what is large (there is a limit of our own), and say nothing of palettes.

    Both are settings of the process, so they are made here, outside of the threads.
    """
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux only
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
