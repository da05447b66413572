"""Subspace inference where a run cannot have it: refused with the numbers, and the advice works."""

from __future__ import annotations

from pathlib import Path

import pytest

from tune_swa.config import Experiment, yaml_file
from tune_swa.errors import RequestError

SPACE = """
name: x
train: {epochs: 12}
averaging: {anneal_epochs: 2}
space: {lr: 1e-3, swa_start: {int: [2, 9]}, swa_lr: 1e-3}
"""
FEW = "averages.1.rank: 4: rank needs 5 models, but with swa_start 9 of 12 epochs 2 are averaged; "


def read_space(folder: Path, sections: str, *options: str) -> Experiment:
    file = folder / "space.yaml"
    file.write_text(SPACE + sections)
    return yaml_file.load_experiment(file, list(options))


@pytest.mark.parametrize(
    ("average", "message", "advice"),
    [
        ("rank: 4", FEW + "give rank 1 or less, or an swa_start of at most 6",
         ["averages.1.rank=1", "space.swa_start={int: [2, 6]}"]),
        ("rank: 5, last: 5",
         "rank 5 needs deviations of 6 epochs, but last is 5; raise last to 6, or lower rank to 4", []),
        ("samples: 0", "averages.1.samples: 0: expected a number of at least 1", []),
        ("temperature: 0", "temperature: 0: expected 'auto' or a number greater than 0", []),
        ("temperature: -1", "temperature: -1: expected 'auto' or a number greater than 0", []),
        ("prior: 0", "averages.1.prior: 0: expected a number greater than 0", []),
        ("rank: 21", "averages.1.rank: 21: expected", []),
        ("fit_batches: 0", "averages.1.fit_batches: 0: expected a number", []),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_and_the_advice_works(
    average: str, message: str, advice: list[str], tmp_path: Path
) -> None:
    sections = f"averages: [{{method: swa}}, {{method: subspace, {average}}}]\n"
    with pytest.raises(RequestError) as refused:
        read_space(tmp_path, sections)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    for option in advice:
        read_space(tmp_path, sections, option)


def test_cycles_collect_at_their_ends(tmp_path: Path) -> None:
    sections = "averages: [{method: swa}, {method: subspace, rank: 3}]\n"
    cyclic = ["averaging={tail: cyclic, cycle_epochs: 3}", "space.swa_start=2"]
    with pytest.raises(
        RequestError, match="and cycles of 3, 3 are averaged; give rank 2 or less, or an swa_sta"
    ):
        read_space(tmp_path, sections, *cyclic)
    for option in ("averages.1.rank=2", "space.swa_start=1"):
        read_space(tmp_path, sections, *cyclic, option)


def test_one_model_has_no_rank_to_lower_to(tmp_path: Path) -> None:
    sections = "averages: [{method: subspace, rank: 11}]\n"
    with pytest.raises(RequestError, match=r"1 is averaged; train more epochs \(train.epochs\)$"):
        read_space(tmp_path, sections, "space.swa_start=10")


def test_a_baseline_has_no_such_mean(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="a baseline has no SWA phase; list ema, power_ema, lawa or swad"):
        read_space(tmp_path, "baseline: {averages: [{method: subspace}]}\n")
