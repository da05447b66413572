"""Every image decoded and resized once per machine, into a memory-mapped array that all trials share."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import PIL

from tune_swa.config import DataSpec
from tune_swa.data.decoding import decode_images
from tune_swa.data.image_notes import DEEP_GREY, ImageNotes
from tune_swa.data.similarity import Copies, find_copies, hash_all
from tune_swa.data.sources import SKIPPED, Labels, Listing, Parts, Source
from tune_swa.errors import RequestError
from tune_swa.files import expand_home, has_home, hold_lock, is_locked, is_writable, private_folder, sync_file
from tune_swa.text import format_bytes

logger = logging.getLogger(__name__)

FORMAT = 2
READER = 2
"""Number of the way in which files are read, which goes up when more of them can be, or more is noted."""
IMAGES, LABELS, PARTS, META = "images.npy", "labels.npy", "parts.npy", "meta.json"
COPIES = "copies-1.npz"
"""Which images show the same. Its number goes up when they are found in another way; entries of before
it was written, or of another number, get it from their pixels."""
_ENTRY = re.compile(r"[0-9a-f]{24}|\.[0-9a-f]{24}\.new")
"""Names of entries, and of those that are being written."""
CHUNK = 256
"""Images hashed at a time."""

Pixels = npt.NDArray[np.uint8]
ProgressCallback = Callable[[int, int], object]


@dataclass(frozen=True, eq=False)
class Decoded:
    """A source's images, decoded."""

    folder: Path
    images: Pixels
    """[N, H, W, 3], memory-mapped, read-only."""
    labels: Labels
    parts: Parts
    class_names: tuple[str, ...]
    fingerprint: str
    """Hash of pixels, labels, parts and names."""
    image_notes: ImageNotes
    """Notes on images skipped and converted."""


def cache_folder() -> Path:
    """`$TUNE_SWA_CACHE`, else `tune_swa` in the user's cache folder, else in the folder for temporary files.

    The latter for users without a home folder that they can write to, as in many containers.
    """
    own = os.environ.get("TUNE_SWA_CACHE")
    if own:
        return expand_home(own, "TUNE_SWA_CACHE").absolute()
    named = os.environ.get("XDG_CACHE_HOME")
    if named:
        return expand_home(named, "XDG_CACHE_HOME").absolute() / "tune_swa"
    folder = Path.home() / ".cache" / "tune_swa" if has_home() else None
    return folder if folder is not None and is_writable(folder) else private_folder("cache")


def name_entry(source: Source, spec: DataSpec) -> str:
    """Name of a source's entry: a hash of everything that its pixels depend on."""
    settings: list[object] = [spec.image_size, spec.resize, spec.unreadable]
    if spec.unreadable == "skip" and spec.suffixes == "all":  # an earlier reader skipped more
        settings.append(READER)
    facts = [FORMAT, source.identify_images(), *settings, PIL.__version__]
    return hashlib.blake2b(json.dumps(facts).encode(), digest_size=12).hexdigest()


def find_entry(source: Source, spec: DataSpec, *, verify: bool = False) -> Decoded | None:
    """The entry of a source if it is there and whole, without decoding anything.

    Args:
        source: where the images come from.
        spec: size and way of resizing.
        verify: read all pixels and compare their hash, which notices bits that have flipped. Costs what
            reading them costs (about a second for a gigabyte), and leaves them in the system's cache.
    """
    folder = cache_folder() / name_entry(source, spec)
    found = read_entry(folder)
    if found is not None and verify and _hash_content(found) != found.fingerprint:
        found = None
    if found is None and folder.exists():
        why = "of an earlier version" if _of_earlier_reader(folder) else "damaged"
        logger.warning("%s: the decoded images there are %s; they are decoded again", folder, why)
        _remove_entry(folder)
    return found


def decode_source(
    source: Source, listing: Listing, spec: DataSpec, progress: ProgressCallback | None = None
) -> Decoded:
    """Decode the images of a source into its entry.

    Several processes that ask at once decode once: the others wait.

    Args:
        source: where the images come from.
        listing: its images.
        spec: size and way of resizing.
        progress: called with (images done, images in all) while decoding.

    Raises:
        RequestError: images that cannot be decoded, or no room for them.
    """
    folder = cache_folder() / name_entry(source, spec)
    try:
        with hold_lock(folder.with_name(f"{folder.name}.lock")):
            found = read_entry(folder)  # another process may have been faster
            if found is None:
                _write_entry(source.name, listing, spec, folder, progress)
                found = read_entry(folder)
    except OSError as error:
        raise _explain_unwritable(folder.parent, error.strerror or str(error)) from None
    assert found is not None
    return found


def check_writable(count: int, spec: DataSpec) -> None:
    """Check that so many images can be decoded into the cache, without writing to it.

    Raises:
        RequestError: there is no room for them, or no access.
    """
    folder = cache_folder()
    above = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not above.is_dir():
        raise _explain_unwritable(folder, os.strerror(errno.ENOTDIR))
    if not os.access(above, os.W_OK | os.X_OK):
        raise _explain_unwritable(folder, os.strerror(errno.EACCES))
    _check_room(above, count * spec.image_size**2 * 3)


def _explain_unwritable(folder: Path, why: str) -> RequestError:
    return RequestError(
        f"{folder}: the decoded images cannot be written ({why}). Name a folder on a local disk with free "
        "space in the environment variable TUNE_SWA_CACHE"
    )


def read_entry(folder: Path) -> Decoded | None:
    """Open an entry; None where it is missing, damaged or of another version."""
    try:
        meta = _read_meta(folder)
        # read-only: for a private writable mapping Linux wants as much memory as there are pixels
        images = np.load(folder / IMAGES, mmap_mode="r")
        labels, parts = np.load(folder / LABELS), np.load(folder / PARTS)
        class_names = tuple(meta["class_names"])
        whole = (
            meta["format"] == FORMAT
            and list(images.shape) == meta["shape"]
            and images.dtype == np.uint8
            and labels.dtype == np.int64
            and len(images) == len(labels) == len(parts)
            and parts.dtype == np.int8
            and 0 <= labels.min() <= labels.max() < len(class_names)
            and all(isinstance(name, str) for name in class_names)
        )
        notes = ImageNotes.from_dict(meta["remarks"])
        whole = whole and not _of_earlier_reader(folder)
        fingerprint = meta["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
    return Decoded(folder, images, labels, parts, class_names, fingerprint, notes) if whole else None


def read_copies(decoded: Decoded) -> Copies | None:
    """Read which images of an entry show the same; None if that has not been found out yet."""
    count = len(decoded.images)
    try:
        with np.load(decoded.folder / COPIES) as file:
            identical, near, compared = (file[name] for name in ("identical", "near", "near_compared"))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    for rows in (identical, near):
        if rows.dtype != np.int64 or rows.shape != (count,) or not 0 <= rows.min() <= rows.max() < count:
            return None
    return Copies(identical, near, near_compared=bool(compared))


def look_for_copies(decoded: Decoded) -> Copies:
    """Read the copies as `read_copies`; found out and kept for entries from before decoding did that."""
    copies = read_copies(decoded)
    if copies is None:
        used = np.flatnonzero(decoded.parts != SKIPPED)
        copies = find_copies(decoded.images, hash_all(decoded.images), used)
        temporary = decoded.folder / f".{COPIES}.{os.getpid()}"
        try:
            _save_copies(temporary, copies)
            temporary.replace(decoded.folder / COPIES)
        except OSError:  # a cache that cannot be written costs time, not results
            logger.info("%s: cannot be written, so copies of images are looked for each time", decoded.folder)
    return copies


@dataclass(frozen=True)
class Entry:
    """One entry of the cache as it lies on the disk."""

    folder: Path
    size: int
    """In bytes."""
    state: Literal["whole", "damaged", "other version", "half written"]


def list_entries(verify_below: int = 0) -> Iterator[Entry]:
    """List the entries of the cache by name.

    Args:
        verify_below: entries of at most so many bytes are read whole and their hash is compared.

    Raises:
        OSError: the cache cannot be read.
    """
    if not cache_folder().exists():
        return
    for folder in sorted(cache_folder().iterdir()):
        name = folder.name
        if not _ENTRY.fullmatch(name):  # locks, downloads
            continue
        if not folder.is_dir():
            yield Entry(folder, folder.stat().st_size, "damaged")
            continue
        size = sum(file.stat().st_size for file in folder.iterdir())
        if name.startswith("."):
            if not is_locked(folder.with_name(f"{name[1:-4]}.lock")):  # else it is being written
                yield Entry(folder, size, "half written")
            continue
        found = read_entry(folder)
        if found is None:
            yield Entry(folder, size, "other version" if _of_other_version(folder) else "damaged")
        elif size <= verify_below and _hash_content(found) != found.fingerprint:
            yield Entry(folder, size, "damaged")
        else:
            yield Entry(folder, size, "whole")


def _of_other_version(folder: Path) -> bool:
    try:
        return bool(_read_meta(folder)["format"] != FORMAT) or _of_earlier_reader(folder)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _of_earlier_reader(folder: Path) -> bool:
    """Whether an entry was written before what is read now was noted of its images."""
    try:
        meta = _read_meta(folder)
        return DEEP_GREY in meta["remarks"]["converted"] and meta.get("reader") != READER
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _read_meta(folder: Path) -> Any:
    return json.loads((folder / META).read_text(encoding="utf-8"))


def _write_entry(
    name: str, listing: Listing, spec: DataSpec, folder: Path, progress: ProgressCallback | None
) -> None:
    """Decode into a temporary folder beside `folder`, which takes its name when it is whole.

    To be called with the entry's lock held.
    """
    shape = (len(listing), spec.image_size, spec.image_size, 3)
    temporary = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    _check_room(folder.parent, int(np.prod(shape, dtype=np.int64)))
    temporary.mkdir()
    try:
        images = np.lib.format.open_memmap(temporary / IMAGES, mode="w+", dtype=np.uint8, shape=shape)
        _reserve_space(temporary / IMAGES)
        skipped, notes, hashes = decode_images(listing, spec, images, progress)
        images.flush()
        parts = listing.parts.copy()
        parts[skipped] = SKIPPED  # the rows stay, in no part
        decoded = Decoded(folder, images, listing.labels, parts, listing.class_names, "", notes)
        _save_copies(temporary / COPIES, find_copies(images, hashes, np.flatnonzero(parts != SKIPPED)))
        _write_synced(temporary / LABELS, lambda file: np.save(file, listing.labels))
        _write_synced(temporary / PARTS, lambda file: np.save(file, parts))
        meta = {
            "format": FORMAT,
            "reader": READER,
            "source": name,
            "image_size": spec.image_size,
            "resize": spec.resize,
            "shape": list(shape),
            "class_names": list(listing.class_names),
            "images_per_class": np.bincount(listing.labels, minlength=len(listing.class_names)).tolist(),
            "remarks": notes.as_dict(),
            "fingerprint": _hash_content(decoded),
        }
        _write_synced(temporary / META, lambda file: file.write(json.dumps(meta, indent=1).encode()))
        _remove_entry(folder)  # a damaged one
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _save_copies(path: Path, copies: Copies) -> None:
    def write(file: BinaryIO) -> None:
        np.savez(
            file,
            identical=copies.identical,
            near=copies.near,
            near_compared=np.array(copies.near_compared),
        )

    _write_synced(path, write)


def _write_synced(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Have the content on the disk before the entry gets its name: after a power cut it is whole, too."""
    with path.open("wb") as file:
        write(file)
    sync_file(path)


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise RequestError(
            f"{folder}: decoding the images needs {format_bytes(needed)}, but {format_bytes(free)} are free. "
            "Free space there, lower data.image_size, or name another folder in the environment variable "
            "TUNE_SWA_CACHE"
        )


def _reserve_space(path: Path) -> None:
    """Take the room now: a full disk is an error here, and would kill the process that writes the pixels."""
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _hash_content(decoded: Decoded) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for start in range(0, len(decoded.images), CHUNK):
        digest.update(np.ascontiguousarray(decoded.images[start : start + CHUNK]).data)
    digest.update(decoded.labels.tobytes())
    digest.update(decoded.parts.tobytes())
    digest.update(json.dumps([decoded.images.shape, decoded.class_names]).encode())
    return digest.hexdigest()


def _remove_entry(entry: Path) -> None:
    """Remove an entry, or a file that stands in its place."""
    if entry.is_file():
        entry.unlink()
    shutil.rmtree(entry, ignore_errors=True)
