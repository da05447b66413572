"""Which runs on fresh seeds keep their last checkpoint, and the room that the plan counts for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helpers.journals import SWA_ARM, TUNED_ARM, experiment, usual
from tune_swa.execution.dry_run import _checkpoint_bytes
from tune_swa.experiment.events import CheckpointsRemoved, Event
from tune_swa.search.confirm_cost import looks_cost, max_tested_plain_arms
from tune_swa.search.retention import Retention
from tune_swa.storage import FolderStore

SEEDS = (8, 9, 10)


@pytest.mark.parametrize("keeps", [False, True])
def test_all_runs_on_fresh_seeds_are_kept_only_where_that_is_asked_for(keeps: bool, tmp_path: Path) -> None:
    spec = experiment(confirm={"seeds": 3, "keep_weights": keeps})
    writer = usual(tmp_path, spec=spec)
    writer.planned_look([SWA_ARM, TUNED_ARM], SEEDS)
    for number, seed in enumerate(SEEDS):
        for arm in (SWA_ARM, TUNED_ARM):
            writer.tested(arm, seed, np.arange(20) > 2, validation=0.9 + number / 100)
    state = writer.state()
    for name, trial in state.trials.items():
        trial.checkpoints = [f"checkpoints/{name}/epoch-00002.pt", f"checkpoints/{name}/epoch-00003.pt"]
    events: list[Event] = []
    retention = Retention(spec, state, FolderStore(tmp_path), events.append, lambda _: False)
    retention.begin_stage("confirm", None, None)  # type: ignore[arg-type]
    retention.remove_leftovers()
    removed = {e.trial: len(e.removed) for e in events if isinstance(e, CheckpointsRemoved)}
    kept = {name for name in state.trials if "-seed" in name and removed[name] == 1}
    best = {"swa-0-seed10", "base-0-seed10"}
    assert kept == ({name for name in state.trials if "-seed" in name} if keeps else best)


def test_the_plan_counts_the_room_of_all_of_them() -> None:
    sizes = []
    for keeps in (False, True):
        spec = experiment(confirm={"top": 1, "seeds": 5, "max_seeds": 10, "keep_weights": keeps})
        sizes.append(_checkpoint_bytes(spec, 1, 10, confirm=True))
    arms = 1 + max_tested_plain_arms(spec)
    assert looks_cost(spec).runs[1] == 10 * arms
    weights = 4 * (11_176_512 + 513 * 10)
    assert sizes[1] - sizes[0] == 9 * arms * 2 * weights  # the live model and the average
    assert _checkpoint_bytes(spec, 1, 10, confirm=False) < sizes[0]
