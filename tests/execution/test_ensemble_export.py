"""Exports of ensembles: what the program gives is what `ensembles.parquet` says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from helpers.journals import SPACE, experiment
from helpers.trained_experiment import TrainedExperiment, compute_outputs, read_description
from tune_swa.cli import main
from tune_swa.data.dataset import Dataset
from tune_swa.results.export import write_tables
from tune_swa.training.metrics import predict_logits
from tune_swa.training.temperature import fit_temperature

pytestmark = pytest.mark.usefixtures("narrow_network")
AVERAGES: list[dict[str, Any]] = [
    {"method": "swa"},
    {"method": "ema", "horizon": 1},
    {"method": "swag", "rank": 2, "samples": 2, "search_samples": 2},
]
PARAMS = {"lr": 1e-3, "swa_start": 0, "swa_lr": 1e-2}
PLAIN = {"lr": 1e-3}
METHODS = {
    "deep ensemble": 2,
    "deep ensemble (BN refresh alone)": 2,
    "MultiSWA": 2,
    "MultiSWAG (swag-2)": 4,
    "ensemble of ema-1": 2,
}
"""With the number of their members."""


def train_experiment(folder: Path, data: Dataset, tested: int, **confirm: Any) -> TrainedExperiment:
    """A finalist and a baseline on fresh seeds, of which three were planned."""
    spec = experiment(
        name="made-up",
        train={"epochs": 4, "batch_size": 8},
        space={**SPACE, "swa_start": {"choice": [0]}},
        averages=AVERAGES,
        confirm={"seeds": 3, "ensemble": 2, **confirm},
    )
    writer = TrainedExperiment(folder / "made-up", spec, data)
    writer.train("base-0", PLAIN)
    writer.train("swa-0", PARAMS)
    arms = [
        {"name": "swa-0", "kind": "swa", "params": PARAMS, "roles": ["finalist"]},
        {"name": "base-0", "kind": "baseline", "params": PLAIN, "roles": ["baseline", "trunk"]},
    ]
    writer.planned_look(arms, range(8, 11))
    for seed in range(8, 8 + tested):
        writer.train(f"base-0-seed{seed}", PLAIN, seed)
        writer.train(f"swa-0-seed{seed}", PARAMS, seed)
    return writer


def test_every_ensemble_gives_what_the_table_says(
    tiny_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = train_experiment(tmp_path, tiny_data, 3)
    folder = trained.hand_over(monkeypatch)
    write_tables(trained.state(), folder)
    table = pd.read_parquet(folder / "ensembles.parquet").set_index("method")
    assert set(table.index) == set(METHODS)
    for method, members in METHODS.items():
        output = folder / "out"
        given = ["export-model", str(folder), "--ensemble", method.upper(), "--output", str(output)]
        assert main([*given, "--format", "torch.export"]) == 0
        said = capsys.readouterr().out
        assert "That is the recorded accuracy." in said
        about, row = read_description(output), table.loc[method]
        assert (about["ensemble"], about["members"], about["seeds"]) == (method, members, [8, 9])
        assert about["trials"] == [f"{row.arm}-seed8", f"{row.arm}-seed9"]
        assert "trial" not in about
        expected = {key: row[key] for key in ("accuracy", "nll", "ece", "brier")}
        assert about["test"] == pytest.approx(expected)
        outputs, labels = compute_outputs(output, tiny_data, "test")
        found = predict_logits(outputs, labels).compute_metrics()
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)
        torch.testing.assert_close(outputs.exp().sum(dim=1), torch.ones(len(labels)))
        fitted = fit_temperature(*compute_outputs(output, tiny_data, "val"))
        assert about["calibration"]["temperature"] == pytest.approx(fitted, rel=1e-4)


def test_the_folder_is_named_for_the_method(
    tiny_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = train_experiment(tmp_path, tiny_data, 3).hand_over(monkeypatch)
    given = ["export-model", str(folder), "--format", "state_dict", "--ensemble", "MultiSWAG (swag-2)"]
    assert main(given) == 0
    weights = torch.load(folder / "export-multiswag-swag-2" / "model.pt", weights_only=True)
    assert {name.partition(".")[0] for name in weights} == {"0", "1", "2", "3"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("--ensemble swa", "--ensemble swa: there is none. There are MultiSWA, ensemble of ema-1, MultiSWAG"),
        ("--ensemble MultiSWA --arm base-0", "--arm base-0: has no MultiSWA. There are swa-0"),
        ("--ensemble MultiSWA --group 1", "--group 1: swa-0 has 1 groups of 2 seeds, 0 to 0."),
        (
            "--ensemble MultiSWA",
            "the weights of swa-0-seed9 were removed when these runs had ended. `confirm.keep_weights: true` "
            "keeps those of runs to come: go on with more seeds (--resume --set confirm.keep_weights=true "
            "--set confirm.seeds=6), or search under another --name",
        ),
        ("--arm swa-0", "--arm swa-0: is only for --ensemble, which is not given"),
        ("--group 0 --average swa", "--group 0: is only for --ensemble, which is not given"),
    ],
)
def test_what_is_not_there_is_refused(
    given: str, expected: str, tiny_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    trained = train_experiment(tmp_path, tiny_data, 3)
    trained.remove_weights("swa-0-seed9")
    folder = trained.hand_over(monkeypatch)
    assert main(["export-model", str(folder), *given.split()]) == 2
    assert expected in " ".join(capsys.readouterr().err.split())
    assert not list(folder.glob("export*"))


@pytest.mark.parametrize(
    ("seeds", "confirm", "expected"),
    [
        (0, {}, "no run on fresh seeds was tested yet. Let it go on to its end (--resume)"),
        (1, {}, "not all of its runs on fresh seeds have ended. Let it go on to its end (--resume)"),
        (3, {"ensemble": None}, "asks for no ensembles. In a new search, `confirm: {ensemble: 3, "),
        (3, {"seeds": 4, "ensemble": 4}, "an ensemble has 4 runs (confirm.ensemble), and no arm has"),
    ],
)  # fmt: skip
def test_without_ensembles_it_says_why(
    seeds: int, confirm: dict[str, Any], expected: str, tiny_data: Dataset, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = train_experiment(tmp_path, tiny_data, seeds, **confirm).hand_over(monkeypatch)
    assert main(["export-model", str(folder), "--ensemble", "MultiSWA"]) == 2
    assert expected in " ".join(capsys.readouterr().err.split())
