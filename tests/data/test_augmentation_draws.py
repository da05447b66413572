"""What is drawn for augmentations has torchvision's distributions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, ks_2samp
from torchvision.transforms import v2

from tune_swa.data.epoch_draws import draw_crops, draw_erased, draw_pasted
from tune_swa.data.trivial_augment import KINDS, draw_trivial

SIDE, COUNT = 32, 3000
IMAGE = torch.zeros(3, SIDE, SIDE)


def draw_with_v2(transform: v2.Transform, keys: list[str]) -> np.ndarray:
    """Parameters of v2's own draws, [n, keys]."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = [transform.make_params([IMAGE]) for _ in range(COUNT)]
    return np.array([[float(params[key]) for key in keys] for params in drawn])


def assert_same_distribution(found: np.ndarray, expected: np.ndarray) -> None:
    """Of each column, and of the first two together."""
    for left, right in zip(found.T, expected.T, strict=True):
        assert ks_2samp(left, right).pvalue > 0.01
        assert left.min() >= right.min() - 2
        assert left.max() <= right.max() + 2
    assert ks_2samp(found[:, 2] * found[:, 3], expected[:, 2] * expected[:, 3]).pvalue > 0.01
    assert ks_2samp(found[:, 2] - found[:, 3], expected[:, 2] - expected[:, 3]).pvalue > 0.01


def test_parts_of_images_are_drawn_as_v2_does() -> None:
    found = draw_crops(np.random.default_rng(0), COUNT, (SIDE, SIDE), (0.08, 1), (3 / 4, 4 / 3))
    expected = draw_with_v2(v2.RandomResizedCrop(SIDE), ["top", "left", "height", "width"])
    assert_same_distribution(found, expected)
    assert ((found[:, :2] >= 0) & (found[:, :2] + found[:, 2:] <= SIDE) & (found[:, 2:] > 0)).all()


def test_erased_rectangles_are_drawn_as_v2_does() -> None:
    found = draw_erased(np.random.default_rng(0), COUNT, (SIDE, SIDE), (0.02, 0.33), (0.3, 3.3))
    assert_same_distribution(found, draw_with_v2(v2.RandomErasing(), ["i", "j", "h", "w"]))


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_pasted_rectangles_are_drawn_as_v2_does(alpha: float) -> None:
    generator = np.random.default_rng(0)
    edges = draw_pasted(generator.beta(alpha, alpha, COUNT), generator, (SIDE, SIDE))
    areas = (edges[:, 2] - edges[:, 0]) * (edges[:, 3] - edges[:, 1])
    expected = draw_with_v2(v2.CutMix(alpha=alpha, num_classes=2), ["lam_adjusted"])[:, 0]
    assert ks_2samp(1 - areas / SIDE**2, expected).pvalue > 0.01
    assert edges.min() == 0
    assert edges.max() == SIDE


def test_each_change_of_trivial_augment_is_as_likely() -> None:
    kinds, strengths = draw_trivial(np.random.default_rng(0), 14_000, 31)
    assert chisquare(np.bincount(kinds, minlength=len(KINDS))).pvalue > 0.01
    ranges = {
        "identity": (0, 0), "shear_x": (-0.99, 0.99), "translate_y": (-32, 32), "rotate": (-135, 135),
        "sharpness": (-0.99, 0.99), "posterize": (2, 8), "solarize": (0, 1), "equalize": (0, 0),
    }  # fmt: skip
    for kind, bounds in ranges.items():
        own = strengths[kinds == KINDS.index(kind)]
        assert (own.min(), own.max()) == pytest.approx(bounds), kind
