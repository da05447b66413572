"""Augmentations of tensors on `cuda:0` without numbers: no batch makes the host wait, devices do not mix."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from fake_cuda import fake_cuda  # type: ignore[import-not-found]
from made_up_gpus import Card, MadeUpGpus  # type: ignore[import-not-found]

from helpers.drawn_arrays import draw_dataset
from tune_swa.data.batches import ImageBatches

GPU = torch.device("cuda", 0)
BATCH = 8
CHANGES = (
    "hflip", "vflip", "crop", "random_resized_crop", "rotation(degrees=30)",
    "rotation(degrees=30,interpolation=bilinear)",
    "color_jitter(brightness=0.4,contrast=0.4,saturation=0.4,hue=0.1)", "trivial_augment", "random_erasing",
    "mixup", "cutmix", "mixup+cutmix",
)  # fmt: skip


@pytest.mark.parametrize("limit", [10**9, 0], ids=["resident", "streamed"])
def test_no_augmentation_makes_the_host_wait(limit: int, make_up_gpus: Callable[..., MadeUpGpus]) -> None:
    make_up_gpus(Card())
    data = draw_dataset(train=8 * BATCH, val=BATCH, test=BATCH)
    with fake_cuda() as fake:
        batches = ImageBatches(data, data.train, GPU, channels_last=True, max_resident_bytes=limit)
        for text in CHANGES:
            fake.waits.clear()
            augment = text.split("+")
            drawn = list(batches.iterate_training(BATCH, augment=augment, seed=0, epoch=0, purpose="train"))
            assert not fake.waits, text
            mixed = {"mixup", "cutmix"} & set(augment)
            for images, labels in drawn:
                assert images.device == labels.device == GPU
                assert images.shape == (BATCH, 3, 16, 16)
                assert images.is_contiguous(memory_format=torch.channels_last)
                assert labels.shape == ((BATCH, 3) if mixed else (BATCH,))
