"""Runs with augmentations that mix images: soft labels, exact resumption, shared trunks, an inert setting."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from helpers.resumed_runs import NUMERICS, assert_same_weights, facts, resume_everywhere
from tune_swa.config import AveragingSpec, RunSettings, TrainSpec
from tune_swa.data.dataset import Dataset
from tune_swa.training.run import Run

pytestmark = pytest.mark.usefixtures("narrow_network")
MIXED = ("hflip", "random_resized_crop(scale=0.5:1)", "trivial_augment", "mixup(alpha=0.4)", "cutmix")


def make_settings(augment: tuple[str, ...] = MIXED, **train: object) -> RunSettings:
    given = {"epochs": 5, "batch_size": 8, "augment": augment, **train}
    return RunSettings(
        lr=1e-3,
        swa_start=1,
        swa_lr=5e-4,
        train=TrainSpec.model_validate(given),
        averaging=AveragingSpec(anneal_epochs=2),
    )


def test_resuming_at_every_boundary_changes_nothing(tiny_data: Dataset, tmp_path: Path) -> None:
    resume_everywhere(make_settings(label_smoothing=0.1), tiny_data, tmp_path)


def test_a_branch_of_a_shared_trunk_is_the_run_by_itself(tiny_data: Dataset) -> None:
    straight = Run(make_settings(), tiny_data, NUMERICS)
    expected = [facts(record) for record in straight]
    trunk = Run(make_settings(), tiny_data, NUMERICS)
    for _ in range(2):
        trunk.run_epoch()
    trunk.begin_epoch()
    branch = Run(make_settings(), tiny_data, NUMERICS)
    branch.load_state_dict(trunk.trunk_state())
    found = [facts(record) for record in branch]
    assert found == expected[-len(found) :]
    assert_same_weights(branch.shipped_model, straight.shipped_model)


def test_the_loss_is_that_of_the_mixed_labels(tiny_data: Dataset) -> None:
    settings = make_settings(("mixup",), label_smoothing=0.2)
    run = Run(settings, tiny_data, NUMERICS)
    images, targets = next(run.draw_batches("train"))
    assert targets.shape == (8, 3)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(8))
    run.model.train()
    with torch.no_grad():
        logarithms = torch.log_softmax(run.model(images), dim=1)
    smoothed = 0.8 * targets + 0.2 / 3
    expected = -(smoothed * logarithms).sum(dim=1).mean()
    fresh = Run(settings, tiny_data, NUMERICS)
    fresh.model.train()
    torch.testing.assert_close(fresh.train_batch(images, targets), expected)
    assert all(math.isfinite(record.train_loss) for record in run)


def test_the_refresh_takes_augmented_images(tiny_data: Dataset) -> None:
    """The images are augmented as those of training are, by draws of its own."""
    run = Run(make_settings(("mixup",)), tiny_data, NUMERICS)
    plain = Run(make_settings(()), tiny_data, NUMERICS)
    refreshed, training, without = (
        torch.cat([images for images, _ in images])
        for images in (run.draw_batches("bn"), run.draw_batches("train"), plain.draw_batches("bn"))
    )
    assert refreshed.shape == without.shape
    assert not torch.equal(refreshed, without)
    assert not torch.equal(refreshed, training)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("random_resized_crop", "random_resized_crop(scale=0.5:1)"),
        ("random_resized_crop", "random_resized_crop(ratio=1:1)"),
        ("rotation(degrees=15)", "rotation(degrees=30)"),
        ("rotation(degrees=15)", "rotation(degrees=15,interpolation=bilinear)"),
        ("color_jitter(brightness=0.4)", "color_jitter(contrast=0.4)"),
        ("color_jitter(hue=0.4)", "color_jitter(saturation=0.4)"),
        ("trivial_augment", "trivial_augment(num_magnitude_bins=10)"),
        ("random_erasing", "random_erasing(p=1)"),
        ("random_erasing", "random_erasing(scale=0.3:0.4)"),
        ("random_erasing", "random_erasing(ratio=1:1)"),
        ("random_erasing", "random_erasing(value=100)"),
        ("mixup", "mixup(alpha=0.2)"),
        ("cutmix", "cutmix(alpha=0.2)"),
    ],
)
def test_no_setting_is_inert(one: str, other: str, tiny_data: Dataset) -> None:
    """And each is part of a trunk's settings."""
    settings = [make_settings((text,)) for text in (one, other)]
    losses = [Run(each, tiny_data, NUMERICS).train_epoch() for each in settings]
    assert losses[0] != losses[1]
    assert settings[0].model_dump() != settings[1].model_dump()
