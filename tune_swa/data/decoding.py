"""Decode and resize images on all cores, as torchvision does; report all damaged ones together."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import NoReturn

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from tune_swa.config import DataSpec
from tune_swa.data.image_notes import ImageNotes, NamedImages
from tune_swa.data.resizing import resize_image
from tune_swa.data.similarity import Hashes, hash_images
from tune_swa.data.sources import Listing
from tune_swa.errors import RequestError
from tune_swa.text import count_hidden, first_line

CHUNK = 256
"""Images decoded between two reports of progress."""
MOST_THREADS = 16


def decode_images(
    listing: Listing,
    spec: DataSpec,
    out: npt.NDArray[np.uint8],
    progress: Callable[[int, int], object] | None = None,
) -> tuple[list[int], ImageNotes, Hashes]:
    """Decode every image into its row of `out`, [N, H, W, 3], and hash it.

    Returns:
        Rows of the skipped images, rising; what was skipped and converted; hashes of all rows, [N, 2].

    Raises:
        RequestError: images that cannot be decoded, after all have been tried; not with
            `data.unreadable: skip`, nor for files that may be no images at all (`listing.optional`).
    """
    failures: dict[int, str] = {}
    converted: dict[int, tuple[str, ...]] = {}
    hashes = np.zeros((len(listing), 2), dtype=np.uint64)

    def decode_image(index: int) -> None:
        try:
            opened = listing.open_image(index)
            out[index] = np.asarray(resize_image(opened.image, spec.image_size, spec.resize))
        except UnidentifiedImageError:
            failures[index] = "not an image that Pillow knows"
        except Exception as error:  # PIL's decoders raise a dozen types for damaged files
            # the message of an OSError names the file, which is named before it
            failures[index] = getattr(error, "strerror", None) or first_line(error, 200)
        else:
            converted[index] = opened.conversions

    def hash_chunk(start: int, stop: int) -> None:
        hashes[start:stop] = hash_images(out[start:stop])

    # threads are enough: PIL releases the interpreter's lock while it decodes and resizes
    hashing: list[Future[None]] = []
    with _as_torchvision(), ThreadPoolExecutor(max_workers=min(MOST_THREADS, _count_cores())) as pool:
        for start in range(0, len(listing), CHUNK):
            stop = min(start + CHUNK, len(listing))
            list(pool.map(decode_image, range(start, stop)))
            hashing.append(pool.submit(hash_chunk, start, stop))  # while the next ones are decoded
            if progress is not None:
                progress(stop, len(listing))
    for chunk in hashing:
        chunk.result()
    skipped = NamedImages.from_names(f"{listing.names(i)} ({failures[i]})" for i in sorted(failures))
    if failures.keys() - listing.optional and spec.unreadable == "error":
        _refuse_unreadable(skipped, len(listing))
    return sorted(failures), ImageNotes(skipped, _group_by_conversion(listing, converted)), hashes


def _refuse_unreadable(skipped: NamedImages, total: int) -> NoReturn:
    more = skipped.count - len(skipped.first)
    names = [*skipped.first, *([count_hidden(more)] if more else [])]
    raise RequestError(
        f"{skipped.count} of {total} images cannot be decoded:\n  "
        + "\n  ".join(names)
        + "\nReplace or remove them, or leave them out with --set data.unreadable=skip. Nothing was trained"
    )


def _group_by_conversion(listing: Listing, converted: dict[int, tuple[str, ...]]) -> dict[str, NamedImages]:
    kinds: dict[str, list[str]] = {}
    for index in sorted(converted):
        for kind in converted[index]:
            kinds.setdefault(kind, []).append(listing.names(index))
    return {kind: NamedImages.from_names(names) for kind, names in sorted(kinds.items())}


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


def _count_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux only
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
