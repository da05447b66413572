"""Batches: every image once, drawn by (seed, epoch, purpose) alone, augmented as one would by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import transforms

from tune_swa.config import DataSpec
from tune_swa.data.batches import ImageBatches, list_batch_sizes
from tune_swa.data.dataset import Dataset, prepare_dataset
from tune_swa.seeds import derive_seed

DRAW = {"seed": 3, "epoch": 5, "purpose": "train"}


@pytest.fixture
def batches(tiny_data: Dataset) -> ImageBatches:
    return ImageBatches(tiny_data, tiny_data.train, "cpu", channels_last=True)


def joined(pairs: object) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = zip(*pairs, strict=True)  # type: ignore[call-overload]
    return torch.cat(images), torch.cat(labels)


def plain(data: Dataset) -> torch.Tensor:
    """Training images as ToTensor gives them."""
    return torch.stack([transforms.ToTensor()(np.array(data.images[row])) for row in data.train])


@given(count=st.integers(2, 500), size=st.integers(2, 64))
@settings(max_examples=200, deadline=None)
def test_batch_sizes(count: int, size: int) -> None:
    sizes = list_batch_sizes(count, size)
    assert sum(sizes) == count
    assert min(sizes) >= 2
    assert all(s == size for s in sizes[:-1])
    assert sizes[-1] <= size + 1


def test_one_image_cannot_be_trained_on() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        list_batch_sizes(1, 8)


def test_batches_and_splits_of_one_image(tiny_data: Dataset) -> None:
    with pytest.raises(ValueError, match="batch_size: training needs at least 2, got 1"):
        list_batch_sizes(10, 1)
    one = ImageBatches(tiny_data, tiny_data.train[:1], "cpu", channels_last=True)
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        next(one.iterate_training(8, **DRAW))
    assert len(joined(one.iterate_ordered(8))[1]) == 1  # evaluation has no such need


@pytest.mark.parametrize("rows", [[-1, 2], [0, 48]])
def test_rows_that_are_not_there(rows: list[int], tiny_data: Dataset) -> None:
    with pytest.raises(ValueError, match="rows: expected 0 to 47"):
        ImageBatches(tiny_data, np.array(rows), "cpu", channels_last=True)


def test_every_image_once_with_its_label(batches: ImageBatches, tiny_data: Dataset) -> None:
    images, labels = joined(batches.iterate_training(8, **DRAW))
    expected = plain(tiny_data)
    order = [int((expected == image).flatten(1).all(1).nonzero()[0]) for image in images]
    assert sorted(order) == list(range(len(tiny_data.train)))
    assert order != sorted(order)
    np.testing.assert_array_equal(labels, tiny_data.labels[tiny_data.train][order])


def test_in_order_they_are_totensors_bits(batches: ImageBatches, tiny_data: Dataset) -> None:
    images, labels = joined(batches.iterate_ordered(5))
    assert torch.equal(images, plain(tiny_data))
    np.testing.assert_array_equal(labels, tiny_data.labels[tiny_data.train])


def test_draws_are_a_function_of_seed_epoch_and_purpose(batches: ImageBatches, tiny_data: Dataset) -> None:
    augment = ("hflip", "vflip", "crop")
    other = ImageBatches(tiny_data, tiny_data.train, "cpu", channels_last=False)
    images, labels = joined(batches.iterate_training(8, augment=augment, **DRAW))
    torch.manual_seed(0)  # the global generator has no say
    for again in (
        batches.iterate_training(8, augment=augment, **DRAW),
        other.iterate_training(5, augment=augment, **DRAW),
    ):
        same_images, same_labels = joined(again)
        assert torch.equal(same_images, images)
        assert torch.equal(same_labels, labels)
    for change in ({"seed": 4}, {"epoch": 6}, {"purpose": "bn"}):
        changed, _ = joined(batches.iterate_training(8, augment=augment, **{**DRAW, **change}))
        assert not torch.equal(changed, images)


def test_augmentation_against_one_image_at_a_time(batches: ImageBatches, tiny_data: Dataset) -> None:
    padding = 3
    images, _ = joined(
        batches.iterate_training(8, augment=("hflip", "vflip", "crop"), crop_padding=padding, **DRAW)
    )
    count = len(tiny_data.train)

    def generator(what: str) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(3, 5, "train", what))

    order = torch.randperm(count, generator=generator("order"))
    hflip = torch.rand(count, generator=generator("hflip")) < 0.5
    vflip = torch.rand(count, generator=generator("vflip")) < 0.5
    shifts = torch.randint(0, 2 * padding + 1, (count, 2), generator=generator("crop"))
    assert 0 < hflip.sum() < count
    assert len(set(map(tuple, shifts.tolist()))) > 5
    source = plain(tiny_data)
    for place in range(count):
        image = source[order[place]]
        if hflip[place]:
            image = transforms.functional.hflip(image)
        if vflip[place]:
            image = transforms.functional.vflip(image)
        padded = transforms.functional.pad(image, [padding])
        top, left = shifts[place].tolist()
        assert torch.equal(images[place], transforms.functional.crop(padded, top, left, 16, 16))


def test_normalisation_is_torchvisions() -> None:
    for how in ("imagenet", "dataset"):
        data = prepare_dataset(DataSpec(image_size=8, normalize=how, train_images=100))
        images, _ = joined(ImageBatches(data, data.train, "cpu", channels_last=False).iterate_ordered(64))
        normalize = transforms.Normalize(data.mean, data.std)
        assert torch.equal(images, torch.stack([normalize(image) for image in plain(data)]))
        if how == "dataset":
            assert images.mean().abs() < 1e-5
            assert images.std(correction=0) == pytest.approx(1, abs=1e-4)


def test_memory_formats(tiny_data: Dataset) -> None:
    for channels_last in (True, False):
        source = ImageBatches(tiny_data, tiny_data.train, "cpu", channels_last=channels_last)
        for images, _ in source.iterate_training(8, augment=("hflip",), **DRAW):
            assert images.dtype == torch.float32
            assert images.is_contiguous(memory_format=torch.channels_last) == channels_last
            assert images.is_contiguous() != channels_last


def test_max_batches_and_the_merged_last_batch(tiny_data: Dataset) -> None:
    source = ImageBatches(tiny_data, tiny_data.train[:17], "cpu", channels_last=True)
    assert [len(labels) for _, labels in source.iterate_training(8, **DRAW)] == [8, 9]
    assert [len(labels) for _, labels in source.iterate_training(8, max_batches=1, **DRAW)] == [8]
    assert source.batch_count(8) == 2
    assert [len(labels) for _, labels in source.iterate_ordered(8)] == [8, 8, 1]


def every_value() -> Dataset:
    """Four images that hold each of the 256 values."""
    images = np.arange(4 * 8 * 8 * 3).reshape(4, 8, 8, 3).astype(np.uint8)
    rows = np.arange(4)
    return Dataset.from_arrays(images, rows % 2, rows, rows, rows, class_names=("a", "b"))


NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NEEDS_GPU])])
def test_every_value_is_totensors(device: str) -> None:
    data = every_value()
    assert len(np.unique(data.images)) == 256
    images, _ = joined(ImageBatches(data, data.train, device, channels_last=True).iterate_ordered(4))
    assert torch.equal(images.cpu(), plain(data))


@pytest.mark.gpu
@NEEDS_GPU
def test_a_gpu_gives_the_same_batches(tiny_data: Dataset) -> None:
    here = ImageBatches(tiny_data, tiny_data.train, "cpu", channels_last=True)
    for limit in (0, None):
        there = ImageBatches(tiny_data, tiny_data.train, "cuda", channels_last=True, max_resident_bytes=limit)
        assert there.resident == (limit is None)
        augment = (
            "hflip", "vflip", "crop", "random_resized_crop", "rotation(degrees=30)",
            "color_jitter(brightness=0.4,contrast=0.4,saturation=0.4,hue=0.1)", "trivial_augment",
            "random_erasing", "mixup", "cutmix",
        )  # fmt: skip
        for left, right in zip(
            here.iterate_training(8, augment=augment, **DRAW),
            there.iterate_training(8, augment=augment, **DRAW),
            strict=True,
        ):
            assert torch.equal(left[0], right[0].cpu())
            assert torch.equal(left[1], right[1].cpu())
