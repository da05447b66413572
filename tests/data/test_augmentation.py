"""Augmentations of a batch: equal to torchvision's v2, image by image, with the same drawn numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from tune_swa.config.augmentation import parse_augmentation
from tune_swa.data import pixel_colours
from tune_swa.data.augmentation import JITTERS, EpochAugmentation
from tune_swa.data.epoch_draws import EpochDraws, draw_crops, draw_erased, draw_pasted
from tune_swa.data.trivial_augment import GEOMETRIC, KINDS, draw_trivial

COUNT, SIDE = 48, 24
CPU = torch.device("cpu")


def make_images(count: int = COUNT, side: int = SIDE) -> Tensor:
    """Smooth colours with some noise, and a few images of one grey level, [n, H, W, 3] uint8."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(count, 3, 4, 4, generator=generator) * 255
    images = torch.nn.functional.interpolate(coarse, size=side, mode="bilinear")
    images += torch.randn(images.shape, generator=generator) * 8
    images[:3] = torch.tensor([0.0, 255.0, 128.0]).view(3, 1, 1, 1)
    return images.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def make_draws(count: int = COUNT, side: int = SIDE) -> EpochDraws:
    return EpochDraws(3, 5, "train", torch.arange(count), (side, side), CPU)


def change(text: str, images: Tensor) -> Tensor:
    """Images [n, 3, H, W] after one augmentation."""
    draws = make_draws(len(images), images.shape[1])
    plan = EpochAugmentation([text], 4, draws, 3)
    return plan.change_images(images.clone(), slice(0, len(images))).permute(0, 3, 1, 2)


def read_images(images: Tensor) -> list[Tensor]:
    """Each image as v2 takes it, [3, H, W]."""
    return list(images.permute(0, 3, 1, 2).contiguous())


def measure_difference(found: Tensor, expected: list[Tensor]) -> Tensor:
    """Difference in grey levels, [n, 3, H, W]."""
    return (found.int() - torch.stack(expected).int()).abs()


def test_a_crop_is_v2s_within_one_grey_level() -> None:
    images = make_images()
    parts = draw_crops(
        make_draws().open_generator("random_resized_crop"), COUNT, (SIDE, SIDE), (0.1, 1), (0.5, 2)
    )
    expected = [
        functional.resized_crop(image, *part, size=[SIDE, SIDE], antialias=True)
        for image, part in zip(read_images(images), parts.tolist(), strict=True)
    ]
    found = change("random_resized_crop(scale=0.1:1,ratio=0.5:2)", images)
    assert measure_difference(found, expected).max() <= 1
    assert len({tuple(part[2:]) for part in parts.tolist()}) > 20


@pytest.mark.parametrize(
    ("interpolation", "greatest", "share"), [("nearest", 255, 0.001), ("bilinear", 1, 1.0)]
)
def test_a_rotation_is_v2s(interpolation: str, greatest: int, share: float) -> None:
    """Nearest: where a source lies half way between two pixels, the two may choose another one."""
    images = make_images()
    angles = make_draws().open_generator("rotation").uniform(-70, 20, COUNT)
    mode = v2.InterpolationMode(interpolation)
    expected = [
        functional.rotate(image, angle, interpolation=mode)
        for image, angle in zip(read_images(images), angles.tolist(), strict=True)
    ]
    found = change(f"rotation(degrees=-70:20,interpolation={interpolation})", images)
    difference = measure_difference(found, expected)
    assert difference.max() <= greatest
    assert (difference > 0).float().mean() <= share


@pytest.mark.parametrize("angle", [0, 90, 180, -90])
def test_right_angles_move_pixels_without_loss(angle: int) -> None:
    images = make_images()
    expected = [functional.rotate(image, angle) for image in read_images(images)]
    for interpolation in ("nearest", "bilinear"):
        found = change(f"rotation(degrees={angle}:{angle},interpolation={interpolation})", images)
        assert torch.equal(found, torch.stack(expected))


@pytest.mark.parametrize(
    ("function", "expected", "bounds"),
    [
        (pixel_colours.scale_brightness, functional.adjust_brightness, (0, 2)),
        (pixel_colours.scale_contrast, functional.adjust_contrast, (0, 2)),
        (pixel_colours.scale_saturation, functional.adjust_saturation, (0, 2)),
        (pixel_colours.scale_sharpness, functional.adjust_sharpness, (0, 2)),
        (pixel_colours.turn_hue, functional.adjust_hue, (-0.5, 0.5)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_colours_are_v2s_within_one_grey_level(
    function: Callable[..., Tensor], expected: Callable[..., Tensor], bounds: tuple[float, float]
) -> None:
    images = make_images()
    factors = np.random.default_rng(0).uniform(*bounds, COUNT)
    found = function(images, torch.from_numpy(factors).float()).permute(0, 3, 1, 2)
    reference = [
        expected(image, factor) for image, factor in zip(read_images(images), factors.tolist(), strict=True)
    ]
    difference = measure_difference(found, reference)
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 0.02


def test_jitter_changes_each_image_in_its_own_order() -> None:
    images = make_images()
    settings = "color_jitter(brightness=0.4,contrast=0.5:2,saturation=0.4,hue=0.2)"
    ranges = parse_augmentation(settings).ranges  # type: ignore[union-attr]
    assert ranges["contrast"] == (0.5, 2)
    assert ranges["hue"] == (-0.2, 0.2)
    generator = make_draws().open_generator("color_jitter")
    order = generator.random((COUNT, 4)).argsort(axis=1)
    factors = [generator.uniform(low, high, COUNT) for low, high in ranges.values()]
    assert len(set(map(tuple, order.tolist()))) > 15
    functions = list(JITTERS.values())
    expected = []
    for place in range(COUNT):
        image = images[place : place + 1].clone()
        for turn in order[place]:
            image = functions[turn](image, torch.tensor([factors[turn][place]]).float())
        expected.append(image[0].permute(2, 0, 1))
    assert torch.equal(change(settings, images), torch.stack(expected))


def test_trivial_augment_is_v2s() -> None:
    """Colours within one grey level, geometry but for pixels half way between two."""
    count = 400
    images = make_images(count, 40)
    kinds, strengths = draw_trivial(make_draws().open_generator("trivial_augment"), count, 31)
    transform = v2.TrivialAugmentWide()
    names = list(transform._AUGMENTATION_SPACE)
    expected = [
        transform._apply_image_or_video_transform(
            image, names[kind], strength, interpolation=transform.interpolation, fill=transform._fill
        )
        for image, kind, strength in zip(read_images(images), kinds, strengths.tolist(), strict=True)
    ]
    difference = measure_difference(change("trivial_augment", images), expected)
    for number, kind in enumerate(KINDS):
        chosen = difference[torch.from_numpy(kinds == number)]
        assert len(chosen) > 10, kind
        if kind in GEOMETRIC:
            assert (chosen > 0).float().mean() < 0.002, kind
        else:
            exact = kind in ("identity", "posterize", "solarize", "auto_contrast", "equalize")
            assert chosen.max() <= (0 if exact else 1), kind


def test_erasing_is_v2s() -> None:
    images = make_images()
    generator = make_draws().open_generator("random_erasing")
    erased = generator.random(COUNT) < 0.7
    boxes = draw_erased(generator, COUNT, (SIDE, SIDE), (0.02, 0.33), (0.3, 3.3))
    value = torch.tensor([10, 20, 30], dtype=torch.uint8).view(3, 1, 1)
    expected = [
        functional.erase(image, *box, v=value) if chosen else image
        for image, box, chosen in zip(read_images(images), boxes.tolist(), erased, strict=True)
    ]
    assert torch.equal(change("random_erasing(p=0.7,value=10:20:30)", images), torch.stack(expected))
    assert 0 < erased.sum() < COUNT
    assert not (boxes[:, 2:] == 0).any()


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_mixing_is_v2s_of_two_images(name: str) -> None:
    images = make_images().permute(0, 3, 1, 2).float() / 255
    labels = torch.arange(COUNT) % 3
    draws = make_draws()
    drawn = draws.open_generator(name)
    shares = drawn.beta(0.7, 0.7, COUNT)
    transform = (v2.MixUp if name == "mixup" else v2.CutMix)(alpha=0.7, num_classes=3)
    mixing = EpochAugmentation([f"{name}(alpha=0.7)"], 4, draws, 3).mixing
    assert mixing is not None
    found, targets = mixing.mix_batch(images, labels, (images[-1:], labels[-1:]), slice(0, COUNT))
    pasted = draw_pasted(shares, drawn, (SIDE, SIDE)).tolist()
    for place in range(COUNT):
        two = [place - 1, place]  # v2 mixes with the one before it in the batch
        both = labels[two]
        params = {"labels": both, "batch_size": 2, "lam": float(np.float32(shares[place]))}
        if name == "cutmix":
            top, left, bottom, right = pasted[place]
            area = (bottom - top) * (right - left)
            params |= {"box": (left, top, right, bottom), "lam_adjusted": 1.0 - area / SIDE**2}
        assert torch.equal(found[place], transform.transform(images[two], params)[1])
        torch.testing.assert_close(targets[place], transform.transform(both, params)[1])
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(COUNT))
    assert (targets > 0).sum() > 1.3 * COUNT


def test_of_mixup_and_cutmix_each_image_gets_one() -> None:
    images = torch.rand(COUNT, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    mixing = EpochAugmentation(["mixup", "cutmix"], 4, make_draws(), 3).mixing
    assert mixing is not None
    labels = torch.zeros(COUNT, dtype=torch.long)
    found, _ = mixing.mix_batch(images, labels, (images[-1:], labels[-1:]), slice(0, COUNT))
    before = images.roll(1, 0)
    pasted = ((found == images) | (found == before)).flatten(1).all(dim=1)
    assert 0.3 * COUNT < pasted.sum() < 0.7 * COUNT


def test_an_epoch_without_room_for_a_shape_takes_the_largest_centred_part() -> None:
    generator = np.random.default_rng(0)
    parts = draw_crops(generator, 5, (SIDE, SIDE), (1, 1), (2, 3))
    assert parts.tolist() == [[SIDE // 4, 0, SIDE // 2, SIDE]] * 5
    expected = v2.RandomResizedCrop(SIDE, scale=(1, 1), ratio=(2, 3)).make_params(
        [make_images()[0].permute(2, 0, 1)]
    )
    assert [expected["top"], expected["left"], expected["height"], expected["width"]] == parts[0].tolist()


def test_a_part_is_never_narrower_than_a_pixel() -> None:
    generator = np.random.default_rng(0)
    flat = draw_crops(generator, 3, (SIDE, SIDE), (0.5, 1), (1000, 2000))
    assert flat.tolist() == [[(SIDE - 1) // 2, 0, 1, SIDE]] * 3
    with np.errstate(over="ignore"):
        flattest = draw_crops(generator, 3, (SIDE, SIDE), (1e-9, 1), (1e307, 1e308))
    assert flattest.tolist() == flat.tolist()
    tall = draw_crops(generator, 3, (SIDE, SIDE), (0.5, 1), (1e-4, 1e-3))
    assert tall.tolist() == [[0, (SIDE - 1) // 2, SIDE, 1]] * 3
