"""Long thin images: the same squares as torchvision's, without the gigantic image in between."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import functional

from helpers.drawn_images import draw_tree, folder_spec
from tune_swa.data import resizing
from tune_swa.data.dataset import prepare_dataset
from tune_swa.data.resizing import resize_image

STRIPS = [(30_000, 1), (1, 30_000), (1_000_000, 1), (1, 1_000_000), (300_000, 3), (2, 400_000)]


def ramp(width: int, height: int) -> Image.Image:
    """Grey that rises along the long side, and red along the other."""
    rows, columns = np.mgrid[0:height, 0:width]
    grey = (rows / height if height > width else columns / width) * 255
    return Image.fromarray(np.stack([grey, grey, 255 - grey], axis=-1).astype(np.uint8))


@pytest.mark.parametrize("how", ["squash", "crop"])
@pytest.mark.parametrize("size", [(1, 1), (2, 1), *STRIPS])
def test_every_shape_becomes_a_square(size: tuple[int, int], how: str) -> None:
    square = resize_image(ramp(*size), 224, how)
    assert square.size == (224, 224)
    if max(size) > 2:
        grey = np.asarray(square)[..., 0].astype(int)
        assert grey[112, 112] == pytest.approx(127, abs=1)
        spread = grey.max() - grey.min()
        assert spread <= 1 if how == "crop" else spread > 250


@pytest.mark.parametrize("how", ["squash", "crop"])
@pytest.mark.parametrize(
    "size", [(40, 7), (7, 40), (300, 20), (21, 333), (64, 64), (63, 65), (5, 2), (500, 400)]
)
def test_what_is_computed_is_what_torchvision_computes(
    size: tuple[int, int], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), dtype=np.uint8))
    if how == "squash":
        expected = functional.resize(drawn, [32, 32])
    else:
        expected = functional.center_crop(functional.resize(drawn, [32]), [32, 32])
    assert np.array_equal(np.asarray(resize_image(drawn, 32, how)), np.asarray(expected))
    monkeypatch.setattr(resizing, "MOST", 0)
    found = np.asarray(resize_image(drawn, 32, how)).astype(int)
    assert np.abs(found - np.asarray(expected)).max() <= (1 if how == "crop" else 2)  # rounding


def test_a_strip_takes_little_memory() -> None:
    """30,000 x 1 pixels are 1.5 billion with a short side of 224."""
    program = """
import resource
from PIL import Image
from tune_swa.data.resizing import resize_image
resize_image(Image.new("RGB", (30, 20)), 224, "crop")
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 1_000_000_000, resource.RLIM_INFINITY))
for size in ((30_000, 1), (1, 30_000), (1, 3_000_000)):
    for how in ("squash", "crop"):
        resize_image(Image.new("RGB", size), 224, how)
"""
    if not Path("/proc/self/statm").exists():
        pytest.skip("Linux only")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_set_with_strips(tmp_path: Path) -> None:
    draw_tree(tmp_path, {"train": 5, "test": 2})
    Image.new("RGB", (30_000, 1), "red").save(tmp_path / "train" / "sea" / "a.png")
    Image.new("RGB", (1, 30_000), "red").save(tmp_path / "train" / "sea" / "b.png")
    data = prepare_dataset(folder_spec(resize="crop", image_size=224), tmp_path)
    red = (np.array(data.images) == (255, 0, 0)).all(axis=(1, 2, 3))
    assert red.sum() == 2
