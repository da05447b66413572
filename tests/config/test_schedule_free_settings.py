"""Settings that a schedule-free optimizer has, has not, and shares with others in one search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tune_swa.config import Experiment, RunSettings, yaml_file
from tune_swa.config.cautions import list_cautions
from tune_swa.errors import RequestError
from tune_swa.execution.dry_run import _checkpoint_bytes
from tune_swa.search.trunk_names import TrunkNamer

FREE = "schedulefree_sgd"
MIXED = {"train.optimizer": {"choice": ["sgd", FREE]}}


def read_space(
    folder: Path, train: dict[str, Any], space: dict[str, Any] | None = None, *options: str
) -> Experiment:
    file = folder / "space.yaml"
    core = {"lr": {"log_uniform": [1e-3, 1]}, "swa_start": 10, "swa_lr": 1e-3}
    averaging = {"anneal_epochs": 3}
    file.write_text(
        yaml.safe_dump(
            {"name": "x", "train": train, "averaging": averaging, "space": {**core, **(space or {})}}
        )
    )
    return yaml_file.load_experiment(file, list(options))


def test_the_only_optimizer_has_its_constant_rate_without_a_word(tmp_path: Path) -> None:
    experiment = read_space(tmp_path, {"optimizer": FREE})
    assert experiment.train.schedule == "constant"
    again = Experiment.model_validate(experiment.model_dump(by_alias=True))
    assert again.fixed_settings() == experiment.fixed_settings()
    assert read_space(tmp_path, {"optimizer": FREE, "schedule": "constant"}) == experiment
    assert read_space(tmp_path, {}, {}, f"train.optimizer={FREE}").train.schedule == "constant"


@pytest.mark.parametrize(
    ("train", "space", "message", "advice"),
    [
        ({"optimizer": FREE, "schedule": "cosine"}, {}, "train.schedule: 'cosine': schedulefree_sgd trains",
         ["train.schedule=constant"]),
        ({}, {"train.optimizer": FREE}, "give train.schedule: constant", ["train.schedule=constant"]),
        ({"optimizer": FREE}, {"train.schedule": {"choice": ["cosine", "constant"]}},
         "space.train.schedule: 'cosine': schedulefree_sgd trains", ["space.train.schedule=constant"]),
        ({"optimizer": FREE, "t_max": 3}, {}, "train.t_max: 3: schedulefree_sgd trains at a constant rate;",
         ["train.t_max=null"]),
        ({"optimizer": FREE, "momentum": 0}, {}, "train.momentum: 0: schedulefree_sgd needs a momentum",
         ["train.momentum=0.9"]),
        ({}, {**MIXED, "train.momentum": {"uniform": [0, 0.95]}}, "space.train.momentum: 0: schedulefree_sgd",
         ["space.train.momentum={uniform: [0.5, 0.95]}"]),
    ],
)  # fmt: skip
def test_what_it_does_not_have_is_refused_and_the_advice_works(
    train: dict[str, Any], space: dict[str, Any], message: str, advice: list[str], tmp_path: Path
) -> None:
    with pytest.raises(RequestError) as refused:
        read_space(tmp_path, train, space)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    read_space(tmp_path, train, space, *advice)


def test_a_schedule_is_that_of_the_others_where_the_optimizer_is_searched(tmp_path: Path) -> None:
    for section in ("sgd", FREE):
        experiment = read_space(tmp_path, {"optimizer": section, "t_max": 7}, MIXED)
        runs = {
            name: experiment.run_settings("baseline", {"lr": 0.1, "train.optimizer": name}).train
            for name in ("sgd", FREE)
        }
        assert (runs["sgd"].schedule, runs["sgd"].t_max) == ("cosine", 7)
        assert (runs[FREE].schedule, runs[FREE].t_max) == ("constant", None)


def name_trunks(experiment: Experiment, optimizer: str, setting: str, values: tuple[object, ...]) -> set[str]:
    namer = TrunkNamer.by_settings()
    points = [{"lr": 0.1, "train.optimizer": optimizer, setting: value} for value in values]
    return {namer.name_trunk(experiment.run_settings("swa", point)) for point in points}  # type: ignore[arg-type]


def test_trunks_do_not_differ_in_a_schedule_that_they_do_not_have(tmp_path: Path) -> None:
    schedules = ("cosine", "constant")
    experiment = read_space(tmp_path, {}, {**MIXED, "train.schedule": {"choice": list(schedules)}})
    assert len(name_trunks(experiment, "sgd", "train.schedule", schedules)) == 2
    assert len(name_trunks(experiment, FREE, "train.schedule", schedules)) == 1


@pytest.mark.parametrize("setting", ["averaging.bn_batches", "averaging.bn_batch_size"])
def test_trunks_differ_in_the_refresh_that_their_epochs_report(setting: str, tmp_path: Path) -> None:
    experiment = read_space(tmp_path, {}, {**MIXED, setting: {"choice": [2, 3]}})
    assert len(name_trunks(experiment, "sgd", setting, (2, 3))) == 1
    assert len(name_trunks(experiment, FREE, setting, (2, 3))) == 2


def test_settings_reach_a_worker_as_they_are(tmp_path: Path) -> None:
    experiment = read_space(tmp_path, {}, MIXED)
    run = experiment.run_settings("baseline", {"lr": 0.1, "train.optimizer": FREE})
    assert RunSettings.model_validate(run.model_dump(mode="json")) == run


def test_early_stopping_half_way_is_pointed_out_where_it_compares_both(tmp_path: Path) -> None:
    (caution,) = list_cautions(read_space(tmp_path, {}, MIXED))
    assert caution.startswith("Early stopping favours schedulefree_sgd")
    assert "--set scheduler.trunk_rungs='[]'" in caution
    assert list_cautions(read_space(tmp_path, {}, MIXED, "scheduler.trunk_rungs=[]")) == []
    assert list_cautions(read_space(tmp_path, {}, MIXED, "scheduler.asha=false")) == []
    assert list_cautions(read_space(tmp_path, {"schedule": "constant"}, MIXED)) == []
    assert list_cautions(read_space(tmp_path, {"optimizer": FREE})) == []
    # every rate has a baseline, which is never stopped: nothing is compared before it is averaged
    assert list_cautions(read_space(tmp_path, {}, {**MIXED, "lr": {"choice": [0.01, 0.1]}})) == []


def test_a_plan_counts_what_the_optimizer_keeps(tmp_path: Path) -> None:
    def size(train: dict[str, Any], space: dict[str, Any] | None = None) -> int:
        return _checkpoint_bytes(read_space(tmp_path, train, space), 1, 10, confirm=False)

    assert size({"optimizer": FREE}) == size({"optimizer": "sgd"})
    assert (
        size({"optimizer": "schedulefree_adamw"}) == size({"optimizer": "adam"}) > size({"optimizer": "sgd"})
    )
    assert size({"optimizer": "sgd"}, MIXED) == size({"optimizer": "sgd"})
    searched = {"train.optimizer": {"choice": ["sgd", "schedulefree_adamw"]}}
    assert size({"optimizer": "sgd"}, searched) == size({"optimizer": "adam"})
