"""Members of SWAP: after the fork another order of the same images, and batches of another size."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from helpers.same_tensors import same_tensors
from tune_swa.config import AveragingSpec, RunSettings, TrainSpec
from tune_swa.data.dataset import Dataset
from tune_swa.search.trunk_names import TrunkNamer
from tune_swa.training.numerics import Numerics
from tune_swa.training.run import Run

pytestmark = pytest.mark.usefixtures("narrow_network")
NUMERICS = Numerics("cpu", "fp32", threads=1, channels_last=True, fused=True, compile=False)
EPOCHS, START = 5, 1
FORK = START + 1


def make_settings(**given: Any) -> RunSettings:
    return RunSettings(
        lr=1e-3,
        swa_start=START,
        swa_lr=1e-3,
        train=TrainSpec(epochs=EPOCHS, batch_size=14, augment=("hflip", "crop")),
        averaging=AveragingSpec(anneal_epochs=1),
        **given,
    )


def list_states(data: Dataset, **given: Any) -> list[dict[str, Any]]:
    """The live model and the average after each epoch."""
    run = Run(make_settings(**given), data, NUMERICS)
    return [copy.deepcopy(take_state(run)) for _ in run]


def take_state(run: Run) -> dict[str, Any]:
    return {key: run.state_dict()[key] for key in ("model", "averaging")}


def test_members_part_after_the_fork(tiny_data: Dataset) -> None:
    plain, *members = (list_states(tiny_data, **given) for given in ({}, {"member": 1}, {"member": 2}))
    for member in members:
        assert all(same_tensors(a, b) for a, b in zip(plain[: FORK + 1], member[: FORK + 1], strict=True))
        assert not same_tensors(plain[FORK + 1], member[FORK + 1])
    assert not same_tensors(members[0][FORK + 1], members[1][FORK + 1])


def test_the_first_member_is_the_plain_branch(tiny_data: Dataset) -> None:
    plain = list_states(tiny_data)
    for given in ({"member": 0}, {"member": 0, "branch_batch_size": 14}):
        assert same_tensors(plain[-1], list_states(tiny_data, **given)[-1])


def test_the_trunk_may_have_larger_batches(tiny_data: Dataset) -> None:
    run = Run(make_settings(branch_batch_size=7), tiny_data, NUMERICS)
    steps = [run.images.count_steps(epoch) for epoch in range(EPOCHS)]
    assert steps == [2] * (FORK + 1) + [4] * (EPOCHS - FORK - 1)
    sizes = []
    while not run.done:
        sizes.append([len(labels) for _, labels in run.draw_batches("train")])
        run.run_epoch()
    assert sizes == [[14, 14]] * (FORK + 1) + [[7] * 4] * (EPOCHS - FORK - 1)
    plain = list_states(tiny_data)
    assert same_tensors(plain[FORK], list_states(tiny_data, branch_batch_size=7)[FORK])


def test_members_have_one_trunk() -> None:
    namer = TrunkNamer.by_settings()
    given: list[dict[str, Any]] = [{}, {"member": 3}, {"branch_batch_size": 7}]
    assert len({namer.name_trunk(make_settings(**each)) for each in given}) == 1


def test_a_member_goes_on_with_its_own_order(tiny_data: Dataset) -> None:
    straight = list_states(tiny_data, member=1)
    run = Run(make_settings(member=1), tiny_data, NUMERICS)
    for _ in range(EPOCHS - 1):
        run.run_epoch()
    again = Run(make_settings(member=1), tiny_data, NUMERICS)
    again.load_state_dict(run.state_dict())
    again.run_epoch()
    assert same_tensors(straight[-1], take_state(again))
