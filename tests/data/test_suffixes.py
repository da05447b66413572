"""Which files are images by their suffix, and that every other one is counted."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets.folder import default_loader

from helpers.drawn_images import draw, draw_tree, folder_spec
from helpers.odd_images import pixels
from tune_swa.config.experiment import Experiment
from tune_swa.data import cache
from tune_swa.data.dataset import estimate_dataset, prepare_dataset
from tune_swa.data.image_files import group_by_suffix, list_suffixes
from tune_swa.data.pixels import open_rgb
from tune_swa.data.source_lookup import find_source
from tune_swa.errors import RequestError
from tune_swa.experiment.events import ExperimentCreated
from tune_swa.experiment.folder import keep_suffixes

SUFFIXES = (
    ".jfif", ".jpe", ".gif", ".avif", ".jp2", ".ico", ".tga", ".pcx", ".apng", ".pnm", ".pbm", ".dib", ".sgi",
    ".icns", ".dds", ".qoi", ".im", ".msp", ".xbm", ".mpo",
)  # fmt: skip


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    draw_tree(tmp_path / "photos", {"train": 5, "test": 2})
    return tmp_path / "photos"


def save(path: Path, drawn: Image.Image) -> None:
    mode = {".pbm": "1", ".msp": "1", ".xbm": "1"}.get(path.suffix.lower())
    drawn = drawn.convert(mode) if mode else drawn
    drawn.resize((32, 32) if path.suffix == ".icns" else drawn.size).save(path)


# ------------------------------------------------------------------------------------------- taken


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_that_pillow_reads_are_images(suffix: str, photos: Path) -> None:
    added = photos / "train" / "sea" / f"added{suffix}"
    save(added, Image.fromarray(pixels(4)))
    added.rename(added.with_suffix(suffix.upper()))  # cameras shout
    listing = find_source(folder_spec(), photos).list_images()
    [row] = [i for i in range(len(listing)) if "added" in listing.names(i)]
    expected = default_loader(listing.names(row))
    assert np.array_equal(np.asarray(listing.open_image(row).image), np.asarray(expected))
    assert len(prepare_dataset(folder_spec(), photos).images) == 22


def test_a_set_of_gif_files_alone_is_searched(tmp_path: Path) -> None:
    for part, count in (("train", 5), ("test", 2)):
        for label in ("one", "two"):
            for i in range(count):
                draw(tmp_path / part / label / f"{i}.gif", seed=i)
    assert len(prepare_dataset(folder_spec(), tmp_path).images) == 14
    with pytest.raises(RequestError, match=r"in one, two \(found 10 \.gif\)\. Leave data\.suffixes out"):
        prepare_dataset(folder_spec(suffixes="torchvision"), tmp_path)


def test_content_counts_and_not_the_suffix(tmp_path: Path) -> None:
    for kind in ("PNG", "GIF", "WEBP", "AVIF", "TIFF"):
        path = tmp_path / "wrong.jpg"
        Image.fromarray(pixels(4)).save(path, kind)
        expected = np.asarray(default_loader(str(path)))
        assert np.array_equal(np.asarray(open_rgb(str(path), exif_rotation=False).image), expected)


def test_suffixes_of_what_is_mostly_no_image_are_not_taken() -> None:
    assert not list_suffixes("all") & {".heic", ".eps", ".h5", ".mpeg", ".pcd", ".fits", ".pdf", ".svg", ""}
    assert list_suffixes("torchvision") < list_suffixes("all")


# ---------------------------------------------------------------------------------------- left out


def test_everything_else_is_counted_by_suffix(photos: Path) -> None:
    before = prepare_dataset(folder_spec(), photos)
    assert before.image_notes.left_out == {}
    sea = photos / "train" / "sea"
    (sea / "below").mkdir()
    for name in ("1.heic", "2.HEIC", "below/3.heic", "drawing.svg", "labels.json", "paper.pdf", "IMG_0001"):
        (sea / name).write_bytes(b"x")
    (photos / "test" / "stray.csv").write_bytes(b"x")  # beside the classes
    (sea / ".DS_Store").write_bytes(b"x")
    expected = "3 .heic, 1 without a suffix, 1 .csv, 1 .json, 1 .pdf, 1 .svg (no images by their suffix)"
    assert estimate_dataset(folder_spec(), photos).image_notes.format_left_out() == expected
    data = prepare_dataset(folder_spec(), photos)
    assert data.fingerprint == before.fingerprint
    assert f"files left out: {expected}" in data.image_notes.format_summary()
    lines = "\n".join(data.image_notes.format_lines())
    for name in ("2.HEIC", "below/3.heic", "stray.csv", "IMG_0001"):
        assert name in lines
    recorded = json.loads(json.dumps(data.image_notes.as_dict()))
    assert recorded["left_out"][".heic"]["count"] == 3


def test_many_suffixes_are_one_group() -> None:
    groups = group_by_suffix(f"scan.{i:03}" for i in range(40))
    assert len(groups) == 11
    assert groups["of other suffixes"].count == 30


def test_a_class_without_images_says_what_it_holds(photos: Path) -> None:
    for path in (photos / "train" / "sea").iterdir():
        path.rename(path.with_suffix(".heic"))
    with pytest.raises(
        RequestError, match=r"no images \(.*\) in sea \(found 5 \.heic\)\. .* convert them to \.jpg or \.png"
    ):
        prepare_dataset(folder_spec(), photos)


def test_a_folder_without_images_says_what_it_holds(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / "cat").mkdir(exist_ok=True)
        (tmp_path / "cat" / f"{i}.nef").write_bytes(b"x")
    with pytest.raises(RequestError, match=r"no images were found .*\(found 3 \.nef\)\. .* convert"):
        prepare_dataset(folder_spec(), tmp_path)


# ------------------------------------------------------------------------------------ not decodable


@pytest.mark.parametrize("content", [b"", b"no image", b"GIF89a\x10\0\x10\0\0\0\0,torn"])
@pytest.mark.parametrize("suffix", [".gif", ".ICO", ".rgb", ".avif"])
def test_files_that_were_never_images_stop_nothing(suffix: str, content: bytes, photos: Path) -> None:
    before = prepare_dataset(folder_spec(), photos)
    (photos / "train" / "sea" / f"x{suffix}").write_bytes(content)
    data = prepare_dataset(folder_spec(), photos)
    assert (len(data.train), len(data.val)) == (len(before.train), len(before.val))
    assert data.image_notes.skipped.count == 1
    assert "1 images skipped" in data.image_notes.format_summary()
    assert estimate_dataset(folder_spec(), photos).image_notes.skipped.count == 1


def test_beside_them_a_damaged_photo_is_still_refused(photos: Path) -> None:
    (photos / "train" / "sea" / "x.gif").write_bytes(b"")
    (photos / "train" / "sea" / "y.jpg").write_bytes(b"")
    with pytest.raises(RequestError, match=r"(?s)2 of 23 images cannot be decoded.*y\.jpg"):
        prepare_dataset(folder_spec(), photos)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\0\0\0\x18ftypavif\0\0\0\0", "AVIF, cut off"),
        (b"\n<!DOCTYPE html><title>404", "a web page"),
        (b"version https://git-lfs.example/spec/v1\noid", "git lfs pull"),
        (b'<?xml version="1.0"?>\n<svg width="3">', "an SVG drawing"),
        (b"%PDF-1.7", "a PDF document"),
        (bytes(4096), "nothing but zeros"),
    ],
)
def test_what_is_no_image_is_named(content: bytes, named: str, photos: Path) -> None:
    (photos / "train" / "sea" / "x.jpg").write_bytes(content)
    with pytest.raises(RequestError, match=rf"x\.jpg \(not an image that Pillow knows, but .*{named}"):
        prepare_dataset(folder_spec(), photos)


# ----------------------------------------------------------------------------- searches of before


def test_a_search_that_did_not_read_them_goes_on_without_them(photos: Path) -> None:
    before = prepare_dataset(folder_spec(), photos)
    draw(photos / "train" / "sea" / "x.gif")
    given = Experiment.model_validate(
        {"name": "x", "data": {"dataset": "folder"}, "space": {"lr": 1e-3, "swa_start": 0, "swa_lr": 1e-3}}
    )

    def header(**data: object) -> ExperimentCreated:
        identity = given.fixed_settings()
        return ExperimentCreated(
            format=1, version="0.1.0", spec={}, identity=identity, data=data, numerics={}, hardware={},
            versions={}, seed=0,
        )  # fmt: skip

    begun = keep_suffixes(given, header(skipped={}))
    assert begun.fixed_settings() == given.fixed_settings()
    assert begun.parameters == given.parameters
    spec = begun.data.model_copy(update={"image_size": 16})
    assert prepare_dataset(spec, photos).fingerprint == before.fingerprint
    assert keep_suffixes(given, header(left_out={})) is given
    assert keep_suffixes(given, None) is given


def test_settings_that_did_not_exist_keep_names_and_identity(photos: Path) -> None:
    spec = folder_spec()
    names = {cache.name_entry(find_source(s, photos), s) for s in (spec, folder_spec(suffixes="torchvision"))}
    assert len(names) == 1
    changed = folder_spec(grey_bits=12)
    assert cache.name_entry(find_source(changed, photos), changed) not in names


def test_images_that_were_skipped_before_are_tried_again(photos: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(pixels(4)).save(file, "PNG", exif=b"Exif\0\0junk")
    (photos / "train" / "sea" / "x.png").write_bytes(file.getvalue())
    spec, earlier = (folder_spec(unreadable="skip", suffixes=which) for which in ("all", "torchvision"))
    assert cache.name_entry(find_source(spec, photos), spec) != cache.name_entry(
        find_source(earlier, photos), earlier
    )
    assert prepare_dataset(spec, photos).image_notes.skipped.count == 0
