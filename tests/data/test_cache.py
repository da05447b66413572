"""The decoded cache: torchvision's pixels, decoded once, rebuilt when something is wrong with it."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.datasets import ImageFolder

from tune_swa.config import DataSpec
from tune_swa.data import cache, decoding
from tune_swa.data.dataset import prepare_dataset
from tune_swa.errors import RequestError

SPEC = DataSpec(dataset="folder", image_size=24)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Odd sizes and modes: what people's folders hold."""
    rng = np.random.default_rng(0)
    kinds = [
        ("a.jpg", "RGB"), ("b.png", "RGB"), ("c.png", "L"), ("d.png", "P"), ("e.png", "RGBA"),
        ("f.jpg", "CMYK"), ("g.png", "LA"), ("h.bmp", "RGB"), ("i.webp", "RGB"), ("j.png", "1"),
    ]  # fmt: skip
    for part in ("train", "test"):
        for label in ("one", "two"):
            folder = tmp_path / "photos" / part / label
            folder.mkdir(parents=True)
            for i, (name, mode) in enumerate(kinds):
                size = (17 + 13 * i, 90 - 7 * i)
                pixels = rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
                Image.fromarray(pixels).convert(mode).save(folder / name)
    return tmp_path / "photos"


@pytest.mark.parametrize(
    ("resize", "reference"),
    [
        ("squash", [transforms.Resize((24, 24))]),
        ("crop", [transforms.Resize(24), transforms.CenterCrop(24)]),
    ],
)
def test_pixels_are_torchvisions(resize: str, reference: list[object], photos: Path) -> None:
    data = prepare_dataset(SPEC.model_copy(update={"resize": resize}), photos)
    transform = transforms.Compose([*reference, transforms.ToTensor()])
    rows = 0
    for part in ("train", "test"):
        for image, label in ImageFolder(str(photos / part), transform):
            ours = torch.from_numpy(np.array(data.images[rows])).permute(2, 0, 1).to(torch.float32).div(255)
            assert torch.equal(ours, image)
            assert data.labels[rows] == label
            rows += 1
    assert rows == len(data.labels) == 40


def test_images_are_decoded_once(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []
    first = prepare_dataset(SPEC, photos, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (40, 40)
    monkeypatch.setattr(decoding, "resize_image", None)  # would fail if anything were decoded
    second = prepare_dataset(SPEC, photos)
    assert second.fingerprint == first.fingerprint
    np.testing.assert_array_equal(second.images, first.images)
    assert isinstance(second.images, np.memmap)


@pytest.mark.parametrize("change", ["content", "size", "added", "how"])
def test_what_changes_pixels_is_decoded_anew(change: str, photos: Path) -> None:
    before = prepare_dataset(SPEC, photos)
    spec = SPEC
    if change == "content":
        Image.new("RGB", (30, 30), "red").save(photos / "train" / "one" / "a.jpg")
    elif change == "size":
        spec = SPEC.model_copy(update={"image_size": 25})
    elif change == "added":
        shutil.copy(photos / "train" / "one" / "a.jpg", photos / "train" / "one" / "z.jpg")
    else:
        spec = SPEC.model_copy(update={"resize": "crop"})
    after = prepare_dataset(spec, photos)
    assert after.cache_path != before.cache_path
    assert after.fingerprint != before.fingerprint


def test_a_touched_file_decodes_to_the_same_fingerprint(photos: Path) -> None:
    """The fingerprint is of the pixels, so touching the files changes no results."""
    before = prepare_dataset(SPEC, photos)
    os.utime(photos / "train" / "one" / "a.jpg", (1, 1))
    after = prepare_dataset(SPEC, photos)
    assert after.cache_path != before.cache_path
    assert after.fingerprint == before.fingerprint


def test_it_does_not_matter_how_the_folder_is_reached(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = prepare_dataset(SPEC, photos)
    monkeypatch.setattr(decoding, "resize_image", None)  # would fail if anything were decoded
    monkeypatch.chdir(photos.parent)
    moved = photos.rename(photos.with_name("elsewhere"))
    for folder in (Path("elsewhere"), moved, moved.parent):
        after = prepare_dataset(SPEC, folder)
        assert (after.cache_path, after.fingerprint) == (before.cache_path, before.fingerprint)


@pytest.mark.parametrize(
    "damage",
    ["truncated", "flipped", "empty", "no meta", "garbled meta", "other format", "labels", "label", "parts",
     "remarks", "file"],
)  # fmt: skip
def test_a_damaged_entry_is_rebuilt(damage: str, photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = prepare_dataset(SPEC, photos)
    assert data.cache_path is not None
    pixels = np.array(data.images)
    meta = data.cache_path / cache.META
    if damage == "truncated":
        os.truncate(data.cache_path / cache.IMAGES, 1000)
    elif damage == "flipped":
        with (data.cache_path / cache.IMAGES).open("r+b") as file:
            file.seek(-5, os.SEEK_END)
            file.write(bytes([pixels.reshape(-1)[-5] ^ 1]))
    elif damage == "empty":
        (data.cache_path / cache.IMAGES).write_bytes(b"")
    elif damage == "parts":
        (data.cache_path / cache.PARTS).write_bytes(b"garbled")
    elif damage == "remarks":
        meta.write_text(json.dumps({**json.loads(meta.read_text()), "remarks": []}))
    elif damage == "file":
        shutil.rmtree(data.cache_path)
        data.cache_path.write_text("a file")
    elif damage == "no meta":
        meta.unlink()
    elif damage == "garbled meta":
        meta.write_text("{")
    elif damage == "other format":
        meta.write_text(json.dumps({**json.loads(meta.read_text()), "format": 0}))
    elif damage == "labels":
        np.save(data.cache_path / cache.LABELS, np.zeros(3, dtype=np.int64))
    else:
        np.save(data.cache_path / cache.LABELS, data.labels + 1)
    again = prepare_dataset(SPEC, photos, verify=True)
    np.testing.assert_array_equal(again.images, pixels)
    assert again.fingerprint == data.fingerprint
    assert "the decoded images there are damaged; they are decoded again" in caplog.text


def _prepare_and_count(photos: str, folder: str, queue: multiprocessing.Queue[int]) -> None:
    os.environ["TUNE_SWA_CACHE"] = folder
    calls: list[int] = []
    prepare_dataset(SPEC, Path(photos), progress=lambda done, total: calls.append(done))
    queue.put(len(calls))


def test_two_processes_decode_once(photos: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[int] = context.Queue()
    arguments = (str(photos), str(tmp_path / "cache"), queue)
    processes = [context.Process(target=_prepare_and_count, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert sorted(queue.get(timeout=5) for _ in processes) == [0, 1]


def test_too_little_room_is_told_before_decoding(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 10, 5))
    monkeypatch.setattr(decoding, "resize_image", None)
    with pytest.raises(RequestError, match=r"needs 69\.1 kB, but 5 bytes are free.*TUNE_SWA_CACHE"):
        prepare_dataset(SPEC, photos)


def test_an_impossible_division_is_told_before_decoding(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "resize_image", None)  # would fail if anything were decoded
    with pytest.raises(RequestError, match=r"data\.train_images: 500 were asked for"):
        prepare_dataset(SPEC.model_copy(update={"train_images": 500}), photos)


def test_a_disk_that_fills_up_is_an_error_and_leaves_nothing(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(RequestError, match=r"cannot be written \(No space left on device\)"):
        prepare_dataset(SPEC, photos)
    assert not list(cache.cache_folder().glob(".*"))


def test_what_a_killed_process_left_is_removed(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(cache.shutil, "rmtree", lambda *_, **__: None)  # no clean-up, as after a kill
        patched.setattr(cache, "decode_images", die)
        with pytest.raises(KeyboardInterrupt):
            prepare_dataset(SPEC, photos)
    assert len(list(cache.cache_folder().glob(".*"))) == 1
    assert len(prepare_dataset(SPEC, photos).labels) == 40
    assert not list(cache.cache_folder().glob(".*"))


def test_an_entry_says_what_it_is(photos: Path) -> None:
    data = prepare_dataset(SPEC, photos)
    assert data.cache_path is not None
    meta = json.loads((data.cache_path / cache.META).read_text())
    assert (meta["source"], meta["image_size"], meta["resize"]) == ("photos", 24, "squash")
    assert dict(zip(meta["class_names"], meta["images_per_class"], strict=True)) == {"one": 20, "two": 20}
    assert meta["shape"] == [40, 24, 24, 3]


def test_a_cache_that_cannot_be_written(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("TUNE_SWA_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(RequestError, match="the decoded images cannot be written"):
        prepare_dataset(SPEC, photos)


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUNE_SWA_CACHE", str(tmp_path))
    assert cache.cache_folder() == tmp_path
    monkeypatch.delenv("TUNE_SWA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_folder() == tmp_path / "xdg" / "tune_swa"


def test_nobody_can_change_the_cache_through_a_dataset(photos: Path) -> None:
    data = prepare_dataset(SPEC, photos)
    with pytest.raises(ValueError, match="read-only"):
        data.images[:] = 0
