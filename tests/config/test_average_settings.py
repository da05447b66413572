"""Averages that a space has no models for are refused with the numbers, and the advice works."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from tune_swa.config import Experiment, RunSettings, count_snapshots, yaml_file
from tune_swa.config.averages import EmaAverage, PowerEmaAverage, check_averages
from tune_swa.errors import RequestError
from tune_swa.execution.dry_run import _checkpoint_bytes
from tune_swa.execution.gpu_share import largest_workload
from tune_swa.training.numerics import Numerics

RANGE: dict[str, Any] = {"int": [5, 15]}
SWAG = {"method": "swag"}


def read_space(
    folder: Path, averages: list[dict[str, Any]], swa_start: Any = 9, baseline: Any = (), **more: Any
) -> Experiment:
    """An experiment of 20 epochs."""
    file = folder / "space.yaml"
    document = {
        "name": "x",
        "train": {"epochs": 20},
        "averages": averages,
        "baseline": {"averages": list(baseline)},
        "space": {"lr": {"choice": [1e-3, 1e-2]}, "swa_start": swa_start, "swa_lr": 1e-3},
        **more,
    }
    file.write_text(yaml.safe_dump(document))
    return yaml_file.load_experiment(file)


@pytest.mark.parametrize(
    ("average", "swa_start", "message", "ways"),
    [
        (SWAG, RANGE, "averages.0: rank is 20 by default and needs 20 models, but with swa_start 15 of 20 "
         "epochs 4 are averaged; give rank 4 or less", [({"rank": 4}, RANGE)]),
        ({**SWAG, "rank": 12}, {"choice": [3, 9, 8]}, "averages.0.rank: 12: rank needs 12 models, but with "
         "swa_start 9 of 20 epochs 10 are averaged; give rank 10 or less, or an swa_start of at most 7",
         [({"rank": 10}, 9), ({}, 7)]),
        ({**SWAG, "rank": 5}, 18, "rank needs 5 models, but with swa_start 18 of 20 epochs 1 is averaged; "
         "give an swa_start of at most 14", [({}, 14)]),
        ({**SWAG, "diagonal": True}, 18, "diagonal needs 2 models, but with swa_start 18 of 20 epochs 1 is "
         "averaged; give an swa_start of at most 17", [({}, 17)]),
        ({**SWAG, "rank": 5}, 0.8, "with swa_start 16 of 20 epochs 3 are averaged; give rank 3 or less, or "
         "an swa_start of at most 14", [({"rank": 3}, 0.8), ({}, 14)]),
        ({"method": "lawa"}, RANGE, "averages.0: last is 5 by default and needs 5 models, but with swa_start "
         "15 of 20 epochs 4 are averaged; give last 4 or less, or an swa_start of at most 14",
         [({"last": 4}, RANGE), ({}, {"int": [5, 14]})]),
        ({"method": "subspace"}, RANGE, "averages.0: rank is 5 by default and needs 6 models, but with "
         "swa_start 15 of 20 epochs 4 are averaged; give rank 3 or less, or an swa_start of at most 13",
         [({"rank": 3}, RANGE), ({}, {"int": [5, 13]})]),
        ({"method": "lawa", "last": 12}, RANGE, "averages.0.last: 12: last needs 12 models, but with "
         "swa_start 15 of 20 epochs 4 are averaged; give last 4 or less, or an swa_start of at most 7",
         [({"last": 4}, RANGE), ({}, {"int": [5, 7]})]),
        ({**SWAG, "rank": 30}, 18, "1 is averaged; train more epochs", []),
    ],
)  # fmt: skip
def test_too_few_models(
    average: dict[str, Any], swa_start: Any, message: str, ways: list[Any], tmp_path: Path
) -> None:
    with pytest.raises(RequestError) as refused:
        read_space(tmp_path, [average], swa_start)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    for change, start in ways:
        read_space(tmp_path, [{**average, **change}], start)


@pytest.mark.parametrize(
    ("average", "message", "change"),
    [
        ({**SWAG, "diagonal": True, "rank": 5}, "rank 5 is of the low-rank part, which diagonal: true leaves "
         "out; take one of the two out", {"rank": 0}),
        ({**SWAG, "rank": 1}, "rank 1 has no deviations to draw along; give 2 or more, or diagonal: true",
         {"rank": 2}),
        ({**SWAG, "rank": 0}, "give 2 or more, or diagonal: true", {"diagonal": True}),
        ({**SWAG, "rank": 3, "scale": -1}, "scale", {"scale": 0}),
        ({**SWAG, "rank": 3, "samples": 0}, "samples", {"samples": 1}),
        ({**SWAG, "rank": 3, "draws": 3}, "unknown key", None),
    ],
)  # fmt: skip
def test_settings_of_swag(
    average: dict[str, Any], message: str, change: dict[str, Any] | None, tmp_path: Path
) -> None:
    with pytest.raises(RequestError) as refused:
        read_space(tmp_path, [average])
    assert message in str(refused.value)
    if change is not None:
        read_space(tmp_path, [{**average, **change}])


def test_models_of_cycles(tmp_path: Path) -> None:
    cyclic = {"averaging": {"tail": "cyclic", "cycle_epochs": 3}}
    message = (
        "with swa_start 9 of 20 epochs and cycles of 3 4 are averaged; give rank 4 or less, or an swa_start "
    )
    with pytest.raises(RequestError) as refused:
        read_space(tmp_path, [{**SWAG, "rank": 5}], 9, **cyclic)
    assert message.replace("3 4", "3, 4") + "of at most 6" in str(refused.value)
    read_space(tmp_path, [{**SWAG, "rank": 5}], 6, **cyclic)
    read_space(tmp_path, [{**SWAG, "rank": 4}], 9, **cyclic)


def test_averages_of_a_baseline(tmp_path: Path) -> None:
    with pytest.raises(
        RequestError, match="last needs 21 models, but a baseline has 20 .*; give last 20 or less"
    ):
        read_space(tmp_path, [], baseline=[{"method": "lawa", "last": 21}])
    read_space(tmp_path, [], baseline=[{"method": "lawa", "last": 20}])
    with pytest.raises(RequestError, match="a baseline has no SWA phase; list ema, power_ema, lawa or swad"):
        read_space(tmp_path, [], baseline=[{**SWAG, "rank": 3}])


def test_two_that_a_table_could_not_tell_apart(tmp_path: Path) -> None:
    few, many = {**SWAG, "rank": 3}, {**SWAG, "rank": 3, "samples": 50}
    with pytest.raises(RequestError, match="swag-3 is listed twice"):
        read_space(tmp_path, [few, many])
    others = [few, {**few, "scale": 1}, {**SWAG, "diagonal": True}, {**SWAG, "rank": 4}]
    found = read_space(tmp_path, others)
    assert [average.label for average in found.averages] == [
        "swag-3",
        "swag-3-scale1",
        "swag-diagonal",
        "swag-4",
    ]


def test_settings_come_back_as_they_were(tmp_path: Path) -> None:
    found = read_space(tmp_path, [{**SWAG, "diagonal": True}, {**SWAG, "rank": 3}])
    again = Experiment.model_validate(found.model_dump(by_alias=True))
    assert again.averages == found.averages
    assert again.fixed_settings() == found.fixed_settings()
    run = found.run_settings("swa", {"lr": 0.001})
    assert RunSettings.model_validate(run.model_dump(mode="json")) == run
    diagonal = found.averages[0]
    assert diagonal.method == "swag"
    assert (diagonal.rank, diagonal.scale) == (0, 1.0)


def test_a_plan_counts_them(tmp_path: Path) -> None:
    def size(averages: list[dict[str, Any]], baseline: Any = ()) -> float:
        experiment = read_space(tmp_path, averages, 2, baseline, confirm={"top": 1})
        weights = _checkpoint_bytes(read_space(tmp_path, [], 2, confirm={"top": 1}), 1, 10, confirm=False)
        one = 4 * (11_176_512 + 513 * 10)
        return (_checkpoint_bytes(experiment, 1, 10, confirm=False) - weights) / one

    swa, ema = {"method": "swa"}, {"method": "ema"}
    states = 3 + 2  # checkpoints of one slot, and two trials that have ended
    assert size([swa]) == 0
    assert size([swa, ema]) == states
    assert size([ema]) == 2 * states  # and what is shipped
    assert size([swa], [ema, {"method": "ema", "horizon": 1}]) == 2 * states
    assert size([swa, {"method": "lawa", "last": 4}]) == 3 * 4 + 2 * 4  # shared between checkpoints at best
    assert size([swa, {**SWAG, "rank": 10}]) == 2 * states + 20 + 2 * 10  # no more than there are epochs
    shared = [swa, {**SWAG, "rank": 5}, {"method": "lawa", "last": 4}]
    assert size(shared) == size(shared[:2])


def test_what_a_trial_takes_of_a_gpu_is_tried_out_with_them(tmp_path: Path) -> None:
    numerics = Numerics("cpu", "fp32", threads=1, channels_last=False, fused=False, compile=False)

    def tried(averages: list[dict[str, Any]], baseline: Any = ()) -> list[str]:
        experiment = read_space(tmp_path, averages, 9, baseline)
        return [
            average.label for average in largest_workload(experiment, numerics, 2, 64, 32).settings.averages
        ]

    assert tried([]) == []
    assert tried([{"method": "swa"}, {**SWAG, "rank": 10}]) == ["swa", "swag-10"]
    emas = [{"method": "ema", "horizon": n} for n in (1, 2, 3)]
    assert tried([{"method": "swa"}, {**SWAG, "rank": 10}], emas) == ["ema-1", "ema-2", "ema-3"]


def test_models_that_averages_look_back_at(tmp_path: Path) -> None:
    lists: list[list[dict[str, Any]]] = [
        [{"method": "swa"}, {"method": "ema"}],
        [{"method": "lawa", "last": 4}, {**SWAG, "rank": 3}],
        [{**SWAG, "diagonal": True}],
    ]
    assert [count_snapshots(read_space(tmp_path, averages).averages) for averages in lists] == [0, 4, 0]


def test_names_tell_averages_apart_by_every_digit() -> None:
    above = math.nextafter(2.0, 3.0)
    averages = check_averages(
        [EmaAverage(method="ema", horizon=horizon) for horizon in (2, above, 2.0000001, 2e6, 2e6 + 0.1, 2e-9)]
        + [PowerEmaAverage(method="power_ema", length=length) for length in (0.1, math.nextafter(0.1, 1))]
    )
    labels = [average.label for average in averages]
    assert labels[:3] == ["ema-2", f"ema-{above!r}", "ema-2.0000001"]
    assert len({*labels}) == len(labels)
    with pytest.raises(ValueError, match="ema-2 is listed twice"):
        check_averages([EmaAverage(method="ema", horizon=2), EmaAverage(method="ema", horizon=2.0)])
