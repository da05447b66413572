"""Settings that can hardly be meant are pointed out: held against what a run with them really does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tune_swa.config import Experiment, yaml_file
from tune_swa.config.cautions import list_cautions
from tune_swa.data.batches import ImageBatches
from tune_swa.data.dataset import Dataset
from tune_swa.execution.dry_run import make_plan
from tune_swa.execution.plan_table import print_plan
from tune_swa.execution.slots import Machine
from tune_swa.training.run import Run

SHIPPED = sorted((Path(__file__).parent.parent.parent / "search_spaces").glob("*.yaml"))


def read_space(start: Any = 0, anneal: Any = 10, epochs: int = 4, **settings: Any) -> Experiment:
    space = {"lr": 1e-3, "swa_start": start, "swa_lr": 5e-2, "averaging.anneal_epochs": anneal}
    train = {"epochs": epochs, "batch_size": 14, **settings.pop("train", {})}
    return Experiment.model_validate({"name": "x", "space": space, "train": train, **settings})


@pytest.mark.parametrize("start", [0, 1, 2])
@pytest.mark.parametrize("anneal", [0, 1, 2, 3])
def test_a_rate_that_no_epoch_is_trained_at(
    start: int, anneal: int, tiny_data: Dataset, narrow_network: None
) -> None:
    spec = read_space(start, anneal)
    last = list(Run(spec.run_settings("swa", {}), tiny_data))[-1]
    reached = last.learning_rate == pytest.approx(5e-2, rel=1e-9)
    assert bool(list_cautions(spec)) == (not reached)


def test_the_advice_on_annealing_can_be_followed() -> None:
    (caution,) = list_cautions(read_space({"int": [5, 14]}, epochs=16))
    assert caution.startswith("No trial reaches swa_lr")
    assert caution.endswith(" or give --set space.averaging.anneal_epochs=4")
    assert list_cautions(read_space({"int": [5, 14]}, 4, epochs=16)) == []
    assert list_cautions(read_space({"int": [0, 14]}, epochs=16)) == []


def test_values_that_are_searched_count_too() -> None:
    assert list_cautions(read_space(0, {"choice": [10, 1]})) == []
    assert list_cautions(read_space(0, {"int": [8, 10]}))


@pytest.mark.parametrize("padding", [4, 15, 16, 40])
def test_images_that_are_shifted_out_of_the_picture(padding: int, tiny_data: Dataset) -> None:
    """`tiny_data` has images of 16 pixels, none of which is black."""
    spec = read_space(0, 1, data={"image_size": 16}, train={"augment": ["crop"], "crop_padding": padding})
    batches = ImageBatches(tiny_data, tiny_data.train, "cpu", channels_last=False)
    blank = 0
    for epoch in range(40):
        for images, _ in batches.iterate_training(
            14, augment=["crop"], crop_padding=padding, seed=0, epoch=epoch, purpose="train"
        ):
            blank += int((images.flatten(1).amax(dim=1) == 0).sum())
    cautions = list_cautions(spec)
    assert bool(cautions) == (blank > 0)
    if cautions:
        assert re.match(r"Some training images will be blank: train\.crop_padding \(\d+\)", cautions[0])
        (other,) = list_cautions(read_space(0, 1, data={"image_size": 16}, train={"crop_padding": padding}))
        assert "blank" not in other


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_spaces_are_meant(path: Path) -> None:
    assert list_cautions(yaml_file.load_experiment(path)) == []


def test_the_plan_shows_them() -> None:
    console = Console(width=200)
    with console.capture() as shown:
        print_plan(console, make_plan(read_space(), machine=Machine(gpus=0, cpus=2)))
    assert "caution" in shown.get()
    assert "No trial reaches swa_lr" in shown.get()


def test_a_leader_that_chooses_on_validation_images() -> None:
    swad = {"method": "swad", "converge": 2}
    [caution] = list_cautions(read_space(anneal=0, averages=[swad, {"method": "swa"}]))
    assert "swad leads" in caution
    assert list_cautions(read_space(anneal=0, averages=[{"method": "swa"}, swad])) == []


@pytest.mark.parametrize(("place", "option"), [("space", "space.train.freeze"), ("train", "train.freeze")])
def test_the_advice_has_its_effect_where_the_space_has_the_setting(place: str, option: str) -> None:
    core = "lr: 1e-3, swa_start: 5, swa_lr: 1e-3"
    text = "name: x\naveraging: {anneal_epochs: 2}\n" + (
        f"space: {{{core}, train.freeze: backbone}}" if place == "space"
        else f"space: {{{core}}}\ntrain: {{freeze: backbone}}"
    )  # fmt: skip
    (caution,) = list_cautions(yaml_file.parse_experiment(text))
    assert caution.endswith(f"--set {option}=none")
    assert list_cautions(yaml_file.parse_experiment(text, overrides=[f"{option}=none"])) == []
