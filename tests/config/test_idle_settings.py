"""Settings that have no effect are pointed out: held against what runs with and without them do."""

from __future__ import annotations

from typing import Any

import pytest

from helpers.resumed_runs import facts
from tune_swa.config import Experiment
from tune_swa.config.cautions import list_cautions
from tune_swa.data.dataset import Dataset
from tune_swa.training.run import Run

ADAM, SGD = {"optimizer": "adam"}, {"optimizer": "sgd"}
SUBSPACE = {"method": "subspace", "rank": 1, "samples": 2, "search_samples": 2, "fit_batches": 1}


def read_space(train: dict[str, Any], averaging: dict[str, Any], averages: Any = ()) -> Experiment:
    return Experiment.model_validate(
        {
            "name": "x",
            "train": {"epochs": 4, "batch_size": 14, "augment": ["hflip"], **train},
            "averaging": {"anneal_epochs": 1, **averaging},
            "averages": averages,
            "space": {"lr": 1e-2, "swa_start": 0, "swa_lr": 1e-2},
        }
    )


@pytest.mark.parametrize(
    ("train", "averaging", "name", "value"),
    [
        (ADAM, {}, "train.momentum", 0.5),
        (SGD, {}, "train.momentum", 0.5),
        ({}, {}, "train.crop_padding", 2),
        ({"augment": ["crop"]}, {}, "train.crop_padding", 2),
        ({"schedule": "constant"}, {}, "train.t_max", 2),
        ({}, {}, "train.t_max", 2),
        ({"freeze": "bn"}, {}, "averaging.bn_batches", 1),
        ({"freeze": "backbone"}, {}, "averaging.bn_batch_size", 7),
        ({}, {}, "averaging.bn_batches", 1),
        ({}, {}, "averaging.bn_batch_size", 7),
    ],
)
def test_what_changes_no_run_is_pointed_out(
    train: Any, averaging: Any, name: str, value: Any, tiny_data: Dataset, narrow_network: None
) -> None:
    section, _, field = name.partition(".")
    given = {"train": train, "averaging": averaging}
    plain = read_space(**given)
    changed = read_space(**{**given, section: {**given[section], field: value}})
    runs = [[facts(record) for record in Run(e.run_settings("swa", {}), tiny_data)] for e in (plain, changed)]
    told = [caution for caution in list_cautions(changed) if caution.startswith(f"{name} has no effect: ")]
    assert len(told) == (runs[0] == runs[1])
    assert not [caution for caution in list_cautions(plain) if "has no effect" in caution]


def test_scores_and_batches_may_be_those_of_other_averages() -> None:
    def named(*given: Any) -> list[str]:
        cautions = list_cautions(read_space(*given))
        return [caution.partition(" has no effect")[0] for caution in cautions if "no effect" in caution]

    assert named({}, {"score": "every"}) == ["averaging.score"]
    assert named({}, {"score": "every"}, [SUBSPACE]) == []
    assert named({"freeze": "bn"}, {"bn_batch_size": 7}, [SUBSPACE]) == []
    assert named({"freeze": "bn"}, {"bn_batches": 1}, [SUBSPACE]) == ["averaging.bn_batches"]


def test_a_setting_that_is_searched_without_effect_is_pointed_out() -> None:
    spec = read_space({"freeze": "bn"}, {})
    space = {
        **spec.space,
        "averaging.bn_batches": {"choice": [1, 2]},
        "train.momentum": {"uniform": [0, 0.5]},
    }
    searched = Experiment.model_validate({**spec.model_dump(by_alias=True), "space": space})
    told = [caution.partition(" has no effect")[0] for caution in list_cautions(searched)]
    assert {"averaging.bn_batches", "train.momentum"} <= set(told)


def test_the_batch_size_of_evaluations_cannot_be_searched(tiny_data: Dataset, narrow_network: None) -> None:
    """It moves the last digits of what is reported, and trunks of both sizes would have one name."""
    spec = read_space({}, {})
    space = {**spec.space, "train.eval_batch_size": {"choice": [1, 256]}}
    with pytest.raises(ValueError, match="it changes nothing that is learned; set it in its section"):
        Experiment.model_validate({**spec.model_dump(by_alias=True), "space": space})
    losses = [
        [
            record.nll
            for record in Run(read_space({"eval_batch_size": size}, {}).run_settings("swa", {}), tiny_data)
        ]
        for size in (1, 256)
    ]
    assert losses[0] == pytest.approx(losses[1])
    assert losses[0] != losses[1]
