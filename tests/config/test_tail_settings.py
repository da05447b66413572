"""Settings of the tail after the fork: what goes together, and what every mistake is answered with."""

from __future__ import annotations

from typing import Any

import pytest

from tune_swa.config import AveragingSpec, Experiment, RunSettings, TrainSpec, yaml_file
from tune_swa.config.cautions import list_cautions
from tune_swa.config.space_problems import describe_long_cycle
from tune_swa.errors import RequestError

CYCLIC = """name: x
train: {epochs: 20}
averaging: {tail: cyclic}
space:
  lr: 1e-3
  swa_start: {choice: [4, 10]}
  swa_lr: {log_uniform: [1e-4, 1e-2]}
"""
BASE = CYCLIC.replace("cyclic", "base").replace("  swa_lr: {log_uniform: [1e-4, 1e-2]}\n", "")


# text, old, new, beginning and end of the message
MISTAKES = [
    (CYCLIC, "cyclic", "wavy", "f.yaml:3: averaging.tail: 'wavy': expected", "'cyclic' or 'base'"),
    (CYCLIC, "cyclic", "base", "f.yaml:7: space.swa_lr: has no effect, since averaging.tail is base: the "
     "base schedule goes on. Take swa_lr out of the space", "or give averaging.tail constant or cyclic"),
    (CYCLIC, "cyclic", "constant, cycle_epochs: 3", "f.yaml:3: averaging.cycle_epochs: 3: has no effect, "
     "since averaging.tail is constant; leave it out", "or give averaging.tail cyclic"),
    (CYCLIC, "cyclic", "constant, cycle_low: 0.1", "f.yaml:3: averaging.cycle_low: 0.1: has no", "cyclic"),
    (CYCLIC, "cyclic", "cyclic, anneal_epochs: 3", "f.yaml:3: averaging.anneal_epochs: 3: has no effect, "
     "since averaging.tail is cyclic", "or give averaging.tail constant"),
    (CYCLIC, "cyclic", "cyclic, anneal_strategy: linear", "f.yaml:3: averaging.anneal_strategy", "constant"),
    (CYCLIC, "cyclic", "cyclic, cycle_epochs: 0", "f.yaml:3: averaging.cycle_epochs: 0", "greater than 0"),
    (CYCLIC, "cyclic", "cyclic, cycle_low: 1.5", "f.yaml:3: averaging.cycle_low: 1.5", "at most 1"),
    (CYCLIC, "cyclic", "cyclic, cycle_low: 0", "f.yaml:3: averaging.cycle_low: 0", "greater than 0"),
    (CYCLIC, "cyclic", "cyclic, cycle_epochs: 9", "f.yaml:6: space.swa_start: swa_start 10 leaves 8 of 20 "
     "epochs after the fork, and a cycle takes 9 (averaging.cycle_epochs): take swa_start up to 9, or "
     "shorter cycles", "or more train.epochs"),
    (CYCLIC, "cyclic", "cyclic, cycle_epochs: 19", "f.yaml:6: space.swa_start: swa_start 10 leaves 8",
     "a cycle takes 19 (averaging.cycle_epochs): take shorter cycles, or more train.epochs"),
    (CYCLIC, "[4, 10]", "[4, 17]", "f.yaml:6: space.swa_start: swa_start 17 leaves 1 of 20 epochs", ""),
    (CYCLIC, "  lr:", "  averaging.cycle_epochs: {int: [1, 9]}\n  lr:", "f.yaml:7: space.swa_start", ""),
    (CYCLIC, "  lr:", "  averaging.cycle_epochs: 9\n  lr:", "f.yaml:7: space.swa_start", ""),
    (CYCLIC, "  lr:", "  averaging.tail: {choice: [constant, cyclic]}\n  lr:", "f.yaml:5: "
     "space.averaging.tail: cannot be searched: each has settings of its own; run one search for each, and "
     "`tune-swa compare` them", "set it in its section"),
    (CYCLIC, "  lr:", "  averaging.anneal_epochs: {choice: [10, 3]}\n  lr:",
     "f.yaml:5: space.averaging.anneal_epochs: has no effect", "constant"),
    (CYCLIC, "  lr:", "  averaging.anneal_epochs: 10\n  lr:",
     "f.yaml:5: space.averaging.anneal_epochs: has no effect", "constant"),
    (CYCLIC, "  swa_lr: {log_uniform: [1e-4, 1e-2]}\n", "", "f.yaml:4: space: swa_lr is missing", ""),
    (BASE, "  lr:", "  averaging.cycle_low: {uniform: [0.1, 1]}\n  lr:",
     "f.yaml:5: space.averaging.cycle_low: has no effect, since averaging.tail is base", "cyclic"),
    (BASE, "  swa_start: {choice: [4, 10]}\n", "", "f.yaml:4: space: swa_start is missing", ""),
    (BASE, "name: x", "name: x\npoints: [{swa_start: 4, swa_lr: 0.1}]",
     "f.yaml:2: points.0.swa_lr: 0.1: not a parameter of the space", "allowed: swa_start, lr"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "old", "new", "begins", "ends"), MISTAKES)
def test_mistakes_name_place_numbers_and_remedy(
    text: str, old: str, new: str, begins: str, ends: str
) -> None:
    assert old in text
    with pytest.raises(RequestError) as caught:
        yaml_file.parse_experiment(text.replace(old, new, 1), "f.yaml")
    assert caught.value.exit_code == 2
    assert str(caught.value).startswith(begins)
    assert str(caught.value).endswith(ends)
    assert len(str(caught.value).splitlines()) == 1


def test_the_largest_start_that_is_advised_is_allowed() -> None:
    text = CYCLIC.replace("cyclic", "cyclic, cycle_epochs: 9").replace("[4, 10]", "[4, 9]")
    spec = yaml_file.parse_experiment(text, "f.yaml")
    settings = spec.run_settings("swa", {"swa_start": 9, "swa_lr": 1e-3})
    assert [epoch for epoch in range(20) if settings.is_collecting(epoch)] == [10, 19]
    assert describe_long_cycle(20, 9, 9) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"averaging": AveragingSpec(tail="base"), "swa_lr": 1e-3}, "swa_lr has no effect"),
        ({"averaging": AveragingSpec(tail="cyclic", cycle_epochs=4)}, "a cycle takes 4"),
        ({"averaging": AveragingSpec(tail="cyclic"), "swa_lr": None}, "go together"),
        ({"averaging": AveragingSpec(tail="cyclic"), "swa_start": None}, "go together"),
    ],
)
def test_runs_refuse_what_has_no_effect(changes: dict[str, Any], message: str) -> None:
    values = {"lr": 1e-3, "swa_start": 1, "swa_lr": 1e-3, "train": TrainSpec(epochs=6), **changes}
    with pytest.raises(ValueError, match=message):
        RunSettings.model_validate(values)


def test_a_configuration_without_a_rate_is_named_by_its_start() -> None:
    spec = yaml_file.parse_experiment(BASE, "f.yaml")
    assert spec.complete_configuration({"swa_start": 4}, swa=True) == {"lr": 1e-3, "swa_start": 4}
    assert spec.format_label({"swa_start": 4}, swa=True) == "SWA_4 lr=1e-3"
    assert spec.format_label({}, swa=False) == "baseline lr=1e-3"
    swa, baseline = spec.run_settings("swa", {"swa_start": 4}), spec.run_settings("baseline", {})
    assert (swa.swa_start, swa.swa_lr, swa.fork_epoch) == (4, None, 5)
    assert baseline.fork_epoch is None


def test_a_setting_as_by_default_changes_no_experiment() -> None:
    """Experiments of before there were tails go on."""
    constant = yaml_file.parse_experiment(CYCLIC.replace("cyclic", "constant"), "f.yaml")
    before = yaml_file.parse_experiment(CYCLIC.replace("averaging: {tail: cyclic}\n", ""), "f.yaml")
    assert constant.fixed_settings() == before.fixed_settings()
    assert not {"tail", "cycle_epochs", "cycle_low"} & set(before.fixed_settings()["averaging"])
    identities = [
        yaml_file.parse_experiment(text, "f.yaml").fixed_settings()["averaging"]
        for text in (CYCLIC, CYCLIC.replace("cyclic", "cyclic, cycle_epochs: 3"), BASE)
    ]
    assert [identity["tail"] for identity in identities] == ["cyclic", "cyclic", "base"]
    assert identities[0] != identities[1]


def test_a_resolved_file_reads_back() -> None:
    for text in (CYCLIC, BASE, CYCLIC.replace("cyclic", "constant, anneal_epochs: 3")):
        spec = yaml_file.parse_experiment(text, "f.yaml")
        assert Experiment.model_validate(spec.model_dump(by_alias=True)) == spec


@pytest.mark.parametrize("start", [{"int": [2, 16]}, {"choice": [3, 4]}, 5])
def test_epochs_that_change_no_average_are_pointed_out(start: object) -> None:
    text = CYCLIC.replace("{choice: [4, 10]}", str(start).replace("'", ""))
    (caution,) = list_cautions(yaml_file.parse_experiment(text, "f.yaml"))
    assert "cycles of 2 epochs end with the last epoch from swa_start 0, 2, ..., 16 only" in caution


def test_the_advice_on_cycles_can_be_followed() -> None:
    for start in ("{choice: [0, 2, 16]}", "{int: [2, 16], step: 2}", "4"):
        assert not list_cautions(
            yaml_file.parse_experiment(CYCLIC.replace("{choice: [4, 10]}", start), "f.yaml")
        )
    assert not list_cautions(yaml_file.parse_experiment(BASE, "f.yaml"))
