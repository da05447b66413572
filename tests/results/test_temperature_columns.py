"""The fitted temperature from a worker's report to the result files, and runs of versions without one."""

from __future__ import annotations

import json
from base64 import b64decode
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.journals import SECOND_ARM, SWA_ARM, TUNED_ARM, confirmed, usual
from tune_swa.errors import RequestError
from tune_swa.experiment.state import ExperimentState
from tune_swa.results.predictions import find_damage, read_predictions
from tune_swa.results.tables import build_tables

SCORES = ("nll", "brier", "confidence")
PART = ("nll_calibrated", "ece_calibrated", "brier_calibrated")
RIGHT = np.arange(40) % 5 > 0


@pytest.mark.parametrize("swa_start", [1, None])
def test_a_worker_reports_a_temperature_for_every_model(
    swa_start: int | None, worker: Any, tmp_path: Path
) -> None:
    settings = {"swa_start": swa_start, "swa_lr": None if swa_start is None else 1e-3}
    worker.settings = worker.settings.model_copy(update=settings)
    worker.train(test=True)
    (tested,) = [message for message in worker.messages if message["event"] == "tested"]
    models = {name: tested[name] for name in ("shipped", "refreshed") if tested[name] is not None}
    assert set(models) == ({"shipped"} if swa_start else {"shipped", "refreshed"})
    file = tmp_path / "predictions.npz"
    file.write_bytes(b64decode(tested["predictions"]))
    assert find_damage(file, tested["images"], 3) is None
    with np.load(file) as arrays:
        for name, metrics in models.items():
            assert 0.01 <= metrics["temperature"] <= 100
            for score in ("nll", "brier"):
                of_images = arrays[f"{name}.{score}_calibrated"]
                assert metrics[f"{score}_calibrated"] == pytest.approx(of_images.mean(), rel=1e-6)


def mixed(folder: Path) -> ExperimentState:
    """Runs with a temperature of 2, and of a version that fitted none."""
    writer = usual(folder)
    writer.look([SWA_ARM, SECOND_ARM, TUNED_ARM], [8])
    writer.tested(SWA_ARM, 8, RIGHT)
    writer.tested(SECOND_ARM, 8, RIGHT, temperature=None)
    writer.tested(TUNED_ARM, 8, RIGHT)
    return writer.state()


def test_confirm_has_them_and_nulls_for_older_runs(tmp_path: Path) -> None:
    confirm = build_tables(mixed(tmp_path), tmp_path).confirm
    assert confirm is not None
    new, old, plain = confirm.to_pylist()
    assert (new["test_temperature"], old["test_temperature"]) == (2.0, None)
    assert (plain["test_temperature"], plain["refreshed_temperature"]) == (2.0, 2.0)
    assert new["refreshed_temperature"] is None
    assert new["test_ece_calibrated"] == 0.05
    logit = np.log([9, 0.25])  # of 0.9 and 0.2
    expected = np.log1p(np.exp(-logit / 2)) @ [0.8, 0.2]
    assert new["test_nll_calibrated"] == pytest.approx(expected)
    assert [old[f"test_{name}"] for name in PART] == [None] * 3
    assert [old["test_accuracy"], old["test_nll"]] == [new["test_accuracy"], new["test_nll"]]


def test_predictions_have_them_by_image_and_nulls_for_older_files(tmp_path: Path) -> None:
    predictions = build_tables(mixed(tmp_path), tmp_path).predictions
    assert predictions is not None
    table = predictions.to_pandas()
    means = table.groupby(["trial", "model"])[[f"{name}_calibrated" for name in SCORES]].mean()
    assert means.loc["swa-1-seed8"].isna().all(axis=None)
    assert means.drop("swa-1-seed8").notna().all(axis=None)
    assert len(means) == 4
    old = table[table["trial"] == "swa-1-seed8"]
    assert len(old) == len(RIGHT)
    assert old["nll"].notna().all()


def test_older_files_have_no_scores_at_a_temperature(tmp_path: Path) -> None:
    found = read_predictions(mixed(tmp_path), tmp_path)
    assert found["swa-1-seed8"]["shipped"].calibrated is None
    calibrated = found["swa-0-seed8"]["shipped"].calibrated
    assert calibrated is not None
    assert calibrated.nll.shape == RIGHT.shape


@pytest.mark.parametrize("value", [0, -1.0, "warm", None])
def test_a_journal_with_another_temperature_is_damaged(value: object, tmp_path: Path) -> None:
    journal = confirmed(tmp_path).path
    text = journal.read_text()
    assert '"temperature":2.0' in text
    journal.write_text(text.replace('"temperature":2.0', f'"temperature":{json.dumps(value)}', 1))
    with pytest.raises(RequestError, match=r"journal\.jsonl"):
        ExperimentState.read(journal)
