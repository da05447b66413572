"""Cut PNG, JPEG and WebP files down to their first image, and recognise files that are no images."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff"
_PNG_CHUNKS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf"})
"""Chunks that the pixels and the orientation come from."""
_EXIF, _ADOBE, _SCAN = 0xE1, 0xEE, 0xDA
_APPLICATION, _COMMENT = range(0xE0, 0xF0), 0xFE
_WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD9))
_HEAD = 512
"""Bytes by which a file is recognised."""


def remove_metadata(data: bytes) -> bytes | None:
    """The same image without text, colour profiles, thumbnails and later frames, which are parsed before it.

    Returns:
        A file of the same format; None: it is of another one than PNG, JPEG and WebP.
    """
    if data.startswith(PNG):
        return b"".join(_keep_png_chunks(data))
    if data.startswith(JPEG):
        return b"".join(_keep_jpeg_segments(data))
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _keep_webp_frame(data)
    return None


def _keep_png_chunks(data: bytes) -> Iterator[bytes]:
    yield PNG
    at = len(PNG)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        chunk = data[at : at + 12 + length]
        at += 12 + length
        ancillary = bool(kind[0] & 32)
        if kind in _PNG_CHUNKS and not (ancillary and _is_damaged(chunk)):
            yield chunk


def _is_damaged(chunk: bytes) -> bool:
    return zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big")


def _keep_jpeg_segments(data: bytes) -> Iterator[bytes]:
    yield data[:2]
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF or data[at + 1] == 0xFF:  # between two segments
            at += 1
            continue
        marker = data[at + 1]
        if marker in _WITHOUT_LENGTH:
            at += 2
            continue
        if marker == _SCAN:
            yield data[at:]
            return
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        segment = data[at:end]
        if _is_needed(marker, segment):
            yield segment
        at = max(end, at + 2)


def _is_needed(marker: int, segment: bytes) -> bool:
    if marker == _ADOBE:  # says how colours are coded
        return segment[4:9] == b"Adobe" and len(segment) >= 16
    return marker == _EXIF or not (marker in _APPLICATION or marker == _COMMENT)


def _keep_webp_frame(data: bytes) -> bytes | None:
    """The first frame, if it is as large as the image, without transparency."""
    canvas, at = None, 12
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        if kind == b"VP8X":
            canvas = data[at + 12 : at + 18]  # height and width, less one, in 3 bytes each
        if kind in (b"VP8 ", b"VP8L"):
            padded = data[at : at + 8 + length + length % 2]
            return b"RIFF" + struct.pack("<I", 4 + len(padded)) + b"WEBP" + padded
        if kind == b"ANMF":  # a frame: its position and size, and chunks like those of an image
            if data[at + 14 : at + 20] != canvas:
                return None
            at += 8 + 16
        else:
            at += 8 + length + length % 2
    return None


def find_orientation(exif: bytes) -> int | None:
    """The orientation in an EXIF block of which other parts may be damaged.

    Returns:
        1 where it is not there; None: the block cannot be read.
    """
    tiff = exif.removeprefix(b"Exif\0\0")
    if not tiff:
        return 1
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    try:
        (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, directory)
        for entry in range(count):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", tiff, directory + 2 + 12 * entry)
            if (tag, kind) == (0x0112, 3):
                return int(value)
    except struct.error:
        return None
    return 1


def recognise_content(data: bytes) -> str | None:
    """What the beginning of a file that Pillow does not know belongs to; None: nothing that is known."""
    head = data[:_HEAD]
    text = head.lstrip().lower()
    brand = head[8:12]
    if head[4:8] == b"ftyp":
        if brand in (b"avif", b"avis"):  # this Pillow reads none, or the file is cut off
            return "AVIF, cut off or without support for it in Pillow"
        return "HEIC" if brand in (b"heic", b"heix", b"hevc", b"mif1", b"msf1") else "a video"
    for beginning, name in (
        (b"<!doctype html", "a web page"),
        (b"<html", "a web page"),
        (b"<svg", "an SVG drawing"),
        (b"%pdf", "a PDF document"),
        (b"version https://git-lfs", "a pointer of Git LFS (`git lfs pull` fetches the file)"),
        (b"pk\x03\x04", "a ZIP archive"),
    ):
        if text.startswith(beginning):
            return name
    if b"<svg" in text:
        return "an SVG drawing"
    return "nothing but zeros" if head and not any(head) else None
