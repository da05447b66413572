"""`train.freeze` and `train.head_lr_factor` in a space file."""

from __future__ import annotations

from typing import Any

import pytest

from tune_swa.config import Experiment
from tune_swa.config.cautions import list_cautions
from tune_swa.execution.dry_run import _checkpoint_bytes
from tune_swa.execution.gpu_share import largest_workload
from tune_swa.search.trunk_names import TrunkNamer
from tune_swa.training.numerics import Numerics


def read_space(weights: str = "none", space: dict[str, Any] | None = None, **train: Any) -> Experiment:
    core = {"lr": 1e-3, "swa_start": {"choice": [3, 5]}, "swa_lr": 1e-3}
    return Experiment.model_validate(
        {"name": "x", "model": {"weights": weights}, "train": train, "space": {**core, **(space or {})}}
        | {"averaging": {"anneal_epochs": 3}}
    )


def test_searches_without_them_go_on_as_before() -> None:
    plain = read_space()
    assert {"freeze", "head_lr_factor"}.isdisjoint(plain.fixed_settings()["train"])
    assert read_space(freeze="none", head_lr_factor=1).fixed_settings() == plain.fixed_settings()
    changed = read_space(freeze="bn", head_lr_factor="1e1").fixed_settings()["train"]
    assert (changed["freeze"], changed["head_lr_factor"]) == ("bn", 10)


def test_trunks_differ_by_them() -> None:
    """Those of a search without them have the names that they had (`test_arithmetic` has one)."""
    searched = read_space(
        "imagenet",
        {
            "train.freeze": {"choice": ["none", "bn", "backbone"]},
            "train.head_lr_factor": {"log_uniform": [1, 100]},
        },
    )
    points = [
        {"train.freeze": what, "train.head_lr_factor": f} for what in ("none", "bn") for f in (1.0, 2.0)
    ]
    runs = [
        searched.run_settings(kind, {**point, **start})  # type: ignore[arg-type]
        for point in points
        for kind, start in (("swa", {"swa_start": 3}), ("swa", {"swa_start": 5}), ("baseline", {}))
    ]
    names = [TrunkNamer.by_settings().name_trunk(run) for run in runs]
    assert len(set(names)) == 4
    assert names[0] == TrunkNamer.by_settings().name_trunk(
        read_space("imagenet").run_settings("baseline", {})
    )
    assert [run.train.head_lr_factor for run in runs[::3]] == [1, 2, 1, 2]


@pytest.mark.parametrize("factor", [0, -1, "inf", "ten"])
def test_a_factor_is_a_number_above_zero(factor: Any) -> None:
    with pytest.raises(ValueError, match="head_lr_factor"):
        read_space(head_lr_factor=factor)
    with pytest.raises(ValueError, match="head_lr_factor"):
        read_space(space={"train.head_lr_factor": {"choice": [1, factor]}})


def test_random_weights_are_hardly_meant_to_be_kept() -> None:
    for what in ("backbone", "bn"):
        for space, train in (({}, {"freeze": what}), ({"train.freeze": {"choice": ["none", what]}}, {})):
            [caution] = list_cautions(read_space(space=space, **train))
            assert f"train.freeze {what}" in caution
            assert "--set model.weights=imagenet" in caution
            assert caution.endswith(f" --set {'space.' if space else ''}train.freeze=none")
            assert not list_cautions(read_space("imagenet", space, **train))
    assert not list_cautions(read_space())


def test_what_is_frozen_has_no_moments() -> None:
    """In the plan, and in the trial by which a GPU is shared: the one that takes most."""
    sizes = [
        _checkpoint_bytes(read_space("imagenet", **train), 1, 10, confirm=False)
        for train in ({}, {"freeze": "bn"}, {"freeze": "backbone"})
    ]
    assert sizes[2] < 0.7 * sizes[0]
    assert sizes[0] == sizes[1]  # batch normalisation is a thousandth of the network
    numerics = Numerics("cuda", "fp32", threads=1, channels_last=True, fused=True, compile=False)
    for values, most in ((["backbone", "bn"], "bn"), (["backbone", "none"], "none")):
        searched = read_space("imagenet", {"train.freeze": {"choice": values}})
        assert largest_workload(searched, numerics, 10, 100, 50).settings.train.freeze == most
