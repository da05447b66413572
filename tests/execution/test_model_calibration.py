"""The temperature in the description of the model that is handed over."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from helpers.journals import SWA_ARM, usual
from helpers.resumed_runs import NUMERICS
from tune_swa.config import RunSettings, TrainSpec
from tune_swa.data.dataset import Dataset
from tune_swa.execution.best_model import export_best
from tune_swa.storage import FolderStore
from tune_swa.training.checkpoint import save_checkpoint
from tune_swa.training.run import Run


@pytest.mark.usefixtures("narrow_network")
@pytest.mark.parametrize(
    ("trial", "temperature", "described"),
    [("swa-0-seed8", 1.25, 1.25), ("swa-0-seed8", None, None), ("swa-0", 1.25, None)],
    ids=["tested", "tested by an older version", "of the search"],
)
def test_the_description_has_the_temperature_of_a_tested_run(
    trial: str, temperature: float | None, described: float | None, tiny_data: Dataset, tmp_path: Path
) -> None:
    writer = usual(tmp_path)
    writer.look([SWA_ARM], [8])
    writer.tested(SWA_ARM, 8, np.arange(20) > 2, temperature=temperature)
    state = writer.state()
    run = Run(RunSettings(lr=1e-3, train=TrainSpec(epochs=2, batch_size=16)), tiny_data, NUMERICS)
    run.run_epoch()
    save_checkpoint(run.state_dict(), tmp_path / "epoch-00000.pt")
    state.trials[trial].checkpoints = ["epoch-00000.pt"]
    export_best(state.trials[trial], state, writer.spec, tmp_path, FolderStore(tmp_path), {})
    about = json.loads((tmp_path / "best_model.json").read_text())
    if described is None:
        assert about["calibration"] is None
    else:
        assert about["calibration"]["temperature"] == described
