"""How images become pixels: as torchvision resizes them, on all cores, the damaged ones told together."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from tune_swa.data.sources import Listing
from tune_swa.errors import RequestError
from tune_swa.spec import DataSpec

CHUNK = 256
"""Images decoded between two reports of progress."""
MOST_THREADS = 16
SHOWN = 10
"""Damaged images named in a message."""


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
) -> None:
    """Decode every image into its row of `out`, [N, H, W, 3]; memory does not grow with N.

    Raises:
        RequestError: images that cannot be decoded, after all have been tried.
    """
    failures: list[tuple[int, str]] = []

    def decode(index: int) -> None:
        try:
            out[index] = np.asarray(resize(listing.open_image(index), spec.image_size, spec.resize))
        except UnidentifiedImageError:
            failures.append((index, "not an image that Pillow knows"))
        except Exception as error:  # PIL's decoders raise a dozen types for damaged files
            failures.append((index, str(error) or type(error).__name__))

    # threads are enough: PIL releases the interpreter's lock while it decodes and resizes
    with ThreadPoolExecutor(max_workers=min(MOST_THREADS, _cores())) as pool:
        for start in range(0, len(listing), CHUNK):
            stop = min(start + CHUNK, len(listing))
            list(pool.map(decode, range(start, stop)))
            if progress is not None:
                progress(stop, len(listing))
    if failures:
        lines = [f"{listing.names(index)} ({why})" for index, why in sorted(failures)[:SHOWN]]
        if len(failures) > SHOWN:
            lines.append(f"and {len(failures) - SHOWN} more")
        raise RequestError(
            f"{len(failures)} of {len(listing)} images cannot be decoded:\n  "
            + "\n  ".join(lines)
            + "\nReplace or remove them; nothing was trained"
        )


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux only
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
