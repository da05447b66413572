"""Every image decoded and resized once per machine, into a memory-mapped array that all trials share."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image

from tune_swa.data.sources import Labels, Listing, Parts, Source
from tune_swa.errors import RequestError
from tune_swa.spec import DataSpec

FORMAT = 1
IMAGES, LABELS, PARTS, META = "images.npy", "labels.npy", "parts.npy", "meta.json"
CHUNK = 256
"""Images decoded at a time: enough for the threads, little enough for the memory."""
SHOWN = 10

Pixels = npt.NDArray[np.uint8]
ProgressCallback = Callable[[int, int], object]


@dataclass(frozen=True)
class Decoded:
    """A source's images, decoded."""

    folder: Path
    images: Pixels
    """[N, H, W, 3], memory-mapped."""
    labels: Labels
    parts: Parts
    class_names: tuple[str, ...]
    fingerprint: str
    """Hash of pixels, labels, parts and names."""


def cache_folder() -> Path:
    """`$TUNE_SWA_CACHE`, else `tune_swa` in the user's cache folder."""
    own = os.environ.get("TUNE_SWA_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tune_swa"


def key(source: Source, spec: DataSpec) -> str:
    """Name of a source's entry: a hash of everything that its pixels depend on."""
    facts = [FORMAT, source.name, source.identity(), spec.image_size, spec.resize, PIL.__version__]
    return hashlib.blake2b(json.dumps(facts).encode(), digest_size=12).hexdigest()


def find(source: Source, spec: DataSpec) -> Decoded | None:
    """The entry of a source if it is there and whole, without decoding anything."""
    return read(cache_folder() / key(source, spec))


def decoded(source: Source, spec: DataSpec, progress: ProgressCallback | None = None) -> Decoded:
    """The decoded images of a source, from the cache or decoded now.

    Several processes that ask at once decode once: the others wait.

    Args:
        source: where the images come from.
        spec: size and way of resizing.
        progress: called with (images done, images in all) while decoding.

    Raises:
        RequestError: images that cannot be decoded, or no room for them.
    """
    folder = cache_folder() / key(source, spec)
    found = read(folder)
    if found is not None:
        return found
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_name(f"{folder.name}.lock")):
            found = read(folder)  # another process may have been faster
            if found is None:
                _write(source.list_images(), spec, folder, progress)
                found = read(folder)
    except OSError as error:
        raise RequestError(
            f"{folder.parent}: the decoded images cannot be written ({error.strerror or error}). Free space "
            "there, or name another folder in the environment variable TUNE_SWA_CACHE"
        ) from None
    assert found is not None
    return found


def read(folder: Path) -> Decoded | None:
    """Open an entry; None where it is missing, damaged or of another version."""
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        images = np.load(folder / IMAGES, mmap_mode="c")  # private: nobody can write through it
        labels, parts = np.load(folder / LABELS), np.load(folder / PARTS)
        whole = meta["format"] == FORMAT and list(images.shape) == meta["shape"]
        if not whole or not len(images) == len(labels) == len(parts):
            return None
        return Decoded(folder, images, labels, parts, tuple(meta["class_names"]), meta["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def resize(image: Image.Image, size: int, how: str) -> Image.Image:
    """torchvision's own resizing of a PIL image: bilinear with antialiasing."""
    from torchvision.transforms import functional

    if how == "squash":
        resized: Image.Image = functional.resize(image, [size, size])
        return resized
    cropped: Image.Image = functional.center_crop(functional.resize(image, [size]), [size, size])
    return cropped


def _write(listing: Listing, spec: DataSpec, folder: Path, progress: ProgressCallback | None) -> None:
    """Decode into a temporary folder beside `folder`, which takes its name when it is whole."""
    shape = (len(listing), spec.image_size, spec.image_size, 3)
    _check_room(folder.parent, int(np.prod(shape, dtype=np.int64)))
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        images = np.lib.format.open_memmap(temporary / IMAGES, mode="w+", dtype=np.uint8, shape=shape)
        _decode_all(listing, spec, images, progress)
        images.flush()
        np.save(temporary / LABELS, listing.labels)
        np.save(temporary / PARTS, listing.parts)
        meta = {
            "format": FORMAT,
            "shape": list(shape),
            "class_names": list(listing.class_names),
            "fingerprint": _fingerprint(images, listing),
        }
        (temporary / META).write_text(json.dumps(meta, indent=1), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)  # a damaged one
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _decode_all(listing: Listing, spec: DataSpec, images: Pixels, progress: ProgressCallback | None) -> None:
    """Decode every image into its row; those that cannot be are told together at the end."""
    failures: list[str] = []

    def decode(index: int) -> None:
        try:
            images[index] = np.asarray(resize(listing.open_image(index), spec.image_size, spec.resize))
        except Exception as error:  # PIL's decoders raise a dozen types for damaged files
            failures.append(f"{listing.names(index)} ({str(error) or type(error).__name__})")

    # PIL releases the interpreter's lock while it decodes and resizes
    with ThreadPoolExecutor(max_workers=min(16, len(os.sched_getaffinity(0)))) as pool:
        for start in range(0, len(listing), CHUNK):
            stop = min(start + CHUNK, len(listing))
            list(pool.map(decode, range(start, stop)))
            if progress is not None:
                progress(stop, len(listing))
    if failures:
        shown = "\n  ".join(sorted(failures)[:SHOWN])
        more = f"\n  and {len(failures) - SHOWN} more" if len(failures) > SHOWN else ""
        raise RequestError(
            f"{len(failures)} of {len(listing)} images cannot be decoded:\n  {shown}{more}\n"
            "Replace or remove them; nothing was trained"
        )


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise RequestError(
            f"{folder}: decoding the images needs {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free. "
            "Free space there, lower data.image_size, or name another folder in the environment variable "
            "TUNE_SWA_CACHE"
        )


def _fingerprint(images: Pixels, listing: Listing) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for start in range(0, len(images), CHUNK):
        digest.update(np.ascontiguousarray(images[start : start + CHUNK]).data)
    digest.update(listing.labels.tobytes())
    digest.update(listing.parts.tobytes())
    digest.update(json.dumps([images.shape, listing.class_names]).encode())
    return digest.hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait for the lock and hold it; the system frees it when the process dies."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
