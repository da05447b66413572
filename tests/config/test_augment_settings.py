"""Augmentations in a space file: by name or with settings, fixed or searched, and what is wrong with them."""

from __future__ import annotations

import pytest
from jsonschema import Draft202012Validator

from tune_swa.config import Experiment, TrainSpec, format_label
from tune_swa.config.augmentation import format_augmentation, parse_augmentation
from tune_swa.config.yaml_file import parse_experiment
from tune_swa.errors import RequestError

SPACE = """\
name: x
train: {epochs: 20, augment: %s}
space:
  lr: 1e-3
  swa_start: 5
  swa_lr: 1e-3
"""
LISTED = (
    "[hflip, {name: random_resized_crop, scale: [0.5, 1], ratio: [0.75, 1.3333]}, {name: rotation, degrees: 15}, "
    "{name: color_jitter, brightness: 4e-1, hue: [-0.1, 0.2]}, trivial_augment, "
    "{name: random_erasing, p: 0.25, value: [1, 2, 3]}, {name: mixup, alpha: 0.2}, {name: cutmix, alpha: 1}, crop]"
)
TEXTS = (
    "hflip",
    "random_resized_crop(scale=0.5:1,ratio=0.75:1.3333)",
    "rotation(degrees=15)",
    "color_jitter(brightness=0.4,hue=-0.1:0.2)",
    "trivial_augment",
    "random_erasing(p=0.25,value=1:2:3)",
    "mixup(alpha=0.2)",
    "cutmix",
    "crop",
)


def test_names_and_settings_become_one_short_text_each() -> None:
    experiment = parse_experiment(SPACE % LISTED)
    assert experiment.train.augment == TEXTS
    assert Experiment.model_validate(experiment.model_dump(mode="json", by_alias=True)) == experiment
    for text in TEXTS:
        assert format_augmentation(parse_augmentation(text)) == text


def test_old_lists_are_recorded_as_they_were() -> None:
    train = TrainSpec.model_validate({"augment": ["crop", "hflip"]})
    assert train.model_dump(mode="json")["augment"] == ["crop", "hflip"]


def test_lists_with_settings_are_searched() -> None:
    text = (
        SPACE % "[]"
        + "  train.augment: {choice: [[hflip], [hflip, {name: mixup, alpha: 0.2}], ['cutmix(alpha=1)']]}\n"
    )
    experiment = parse_experiment(text + "points: [{train.augment: [hflip, {name: mixup, alpha: 2e-1}]}]\n")
    (parameter,) = experiment.parameters
    mixed = ("hflip", "mixup(alpha=0.2)")
    assert parameter.domain.list_values() == (("hflip",), mixed, ("cutmix",))
    assert experiment.swa_points == ({"train.augment": mixed},)
    settings = experiment.run_settings("swa", {"train.augment": mixed})
    assert settings.train.augment == mixed
    assert (
        format_label({"lr": 0.1, "train.augment": mixed}) == "baseline lr=0.1 augment=hflip+mixup(alpha=0.2)"
    )
    overridden = parse_experiment(
        SPACE % "[]", overrides=["train.augment=[{name: rotation, degrees: [0, 90]}]"]
    )
    assert overridden.train.augment == ("rotation(degrees=0:90)",)
    constant = parse_experiment(SPACE % "[]" + "  train.augment: [{name: mixup, alpha: 0.2}]\n")
    assert constant.constants["train.augment"] == ("mixup(alpha=0.2)",)


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ("[hflp]", r"f\.yaml:2: train\.augment\.0: 'hflp': unknown augmentation\. Did you mean hflip\? Allowed: hflip,"),
        ("[Hflip]", r"Did you mean hflip\?"),
        ("[rotation]", r"rotation needs degrees, such as \{name: rotation, degrees: 15\}"),
        ("[color_jitter]", "color_jitter changes nothing; give brightness, contrast, saturation or hue, such as"),
        ("[{name: mixup, alfa: 1}]", r"mixup has no setting alfa\. Did you mean alpha\?"),
        ("[{name: hflip, p: 1}]", r"hflip has no setting p\. Allowed: none"),
        ("[{name: mixup, alpha: -1}]", r"mixup\.alpha: expected a number greater than 0, got -1"),
        ("[{name: rotation, degrees: [30, 10]}]", r"rotation\.degrees: expected the lower bound first, got \[30, 10\]"),
        ("[{name: random_erasing, scale: [0.1]}]", r"random_erasing\.scale: expected two numbers"),
        ("[{name: random_erasing, value: 300}]", r"random_erasing\.value: expected a number of at most 255, got 300"),
        ("[{name: color_jitter, hue: 0.7}]", r"color_jitter\.hue: expected a number of at most 0\.5, got 0\.7"),
        ("[{alpha: 1}]", r"settings need a name, such as \{name: mixup, alpha: 0\.2\}"),
        ("['mixup(0.2)']", r"expected settings such as mixup\(alpha=0\.2\), got '0\.2'"),
        ("['mixup(alpha=0.2']", r"expected a name, or a name with settings such as mixup\(alpha=0\.2\)"),
        ("[3]", r"train\.augment\.0: 3: expected the name of an augmentation, or settings such as"),
        ("[mixup, {name: mixup, alpha: 0.2}]", "an operation is listed twice"),
        ("[plugin/a b]", r"plugin/a b\.name: expected letters, digits"),
    ],
)  # fmt: skip
def test_mistakes_are_named(listed: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        parse_experiment(SPACE % listed, "f.yaml")


def test_mistakes_in_a_searched_list_are_named() -> None:
    for item, message in (
        ("{name: mixup, alpha: 0}", r"mixup\.alpha: expected a number greater"),
        ("hflp", "Did you mean"),
    ):
        text = SPACE % "[]" + f"  train.augment: {{choice: [[], [hflip, {item}]]}}\n"
        with pytest.raises(RequestError, match=rf"f\.yaml:7: space\.train\.augment\.choice\.1.*{message}"):
            parse_experiment(text, "f.yaml")


def test_the_schema_knows_names_and_settings() -> None:
    schema = Experiment.model_json_schema(by_alias=True)
    lists = Draft202012Validator({**schema["$defs"]["TrainSpec"], "$defs": schema["$defs"]})
    accepted = [["hflip"], ["mixup(alpha=0.2)", "plugin/mine"], [{"name": "mixup", "alpha": 0.2}, "cutmix"],
                [{"name": "plugin/mine"}]]  # fmt: skip
    assert [bool(list(lists.iter_errors({"augment": value}))) for value in accepted] == [False] * 4
    refused = [["hflp"], [{"name": "mixup", "alfa": 1}], [{"name": "rotation"}], "hflip", [{"name": "hflp"}]]
    assert [bool(list(lists.iter_errors({"augment": value}))) for value in refused] == [True] * 5
