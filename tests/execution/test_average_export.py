"""Exports of one average of a run: what the files give is what the tables say."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from helpers.journals import SPACE, experiment
from helpers.trained_experiment import TrainedExperiment, compute_outputs, read_description
from tune_swa.averaging.swag import Moments, draw_noise, draw_weights
from tune_swa.cli import main
from tune_swa.data.dataset import Dataset
from tune_swa.seeds import derive_seed
from tune_swa.training.metrics import evaluate_logits, predict_logits

pytestmark = pytest.mark.usefixtures("narrow_network")
AVERAGES: list[dict[str, Any]] = [
    {"method": "swa"},
    {"method": "ema", "horizon": 1},
    {"method": "lawa", "last": 2},
    {"method": "swag", "rank": 2, "samples": 4, "search_samples": 3},
    {"method": "swag", "diagonal": True, "samples": 3, "search_samples": 2},
    {
        "method": "subspace", "rank": 2, "samples": 3, "search_samples": 2, "temperature": 1, "fit_batches": 2
    },
]  # fmt: skip
SUBSPACE = "subspace-2-samples-3-temperature-1-fit_batches-2"
MEMBERS = {"swa": 1, "ema-1": 1, "lawa-2": 1, "swag-2": 4, "swag-diagonal": 3, SUBSPACE: 3}
PARAMS = {"lr": 1e-3, "swa_start": 0, "swa_lr": 1e-2}


@pytest.fixture
def trained(tiny_data: Dataset, tmp_path: Path) -> TrainedExperiment:
    """A baseline and an SWA trial of the search, and a run of the latter on a fresh seed."""
    spec = experiment(
        train={"epochs": 5, "batch_size": 8, "augment": ["hflip"]},
        space={**SPACE, "swa_start": {"int": [0, 1]}},
        averages=AVERAGES,
        baseline={"averages": [{"method": "ema", "horizon": 1}]},
    )
    writer = TrainedExperiment(tmp_path / "made-up", spec, tiny_data)
    writer.train("base-0", {"lr": 1e-3})
    writer.train("swa-0", PARAMS)
    return writer


def test_every_average_gives_what_the_tables_say(
    trained: TrainedExperiment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained.look([{"name": "swa-0", "kind": "swa", "params": PARAMS, "roles": ["finalist"]}], [8])
    trained.train("swa-0-seed8", PARAMS, 8)
    folder = trained.hand_over(monkeypatch)
    run = trained.state().trials["swa-0-seed8"]
    assert run.tested is not None
    assert isinstance(run.tested.averages, dict)
    for label, members in MEMBERS.items():
        given = ["export-model", str(folder), "--average", label, "--trial", run.name]
        assert main(given) == 0
        said = capsys.readouterr().out
        assert "That is the recorded accuracy." in said
        about = read_description(folder / f"export-{label}")
        assert about.get("members", 1) == members
        assert (about["trial"], about["seed"], about["average"]) == (run.name, 8, label)
        validation = evaluate_logits(*compute_outputs(folder / f"export-{label}", trained.data, "val"))
        recorded = run.scores[4][label]
        assert about["validation"] == {key: recorded[key] for key in ("accuracy", "nll", "ece")}
        assert validation.accuracy == recorded["accuracy"]
        assert validation.nll == pytest.approx(recorded["nll"], rel=1e-5)
        tested = run.tested.averages[label]
        assert about["test"] == tested
        outputs, labels = compute_outputs(folder / f"export-{label}", trained.data, "test")
        assert outputs.dtype == torch.float32
        found = predict_logits(outputs, labels, about["calibration"]["temperature"]).compute_metrics()
        assert found == pytest.approx(dict(tested), rel=1e-5, abs=1e-6)
        if members > 1:
            torch.testing.assert_close(outputs.exp().sum(dim=1), torch.ones(len(labels)))
            assert "posterior.safetensors" in said


def test_the_posterior_gives_the_members(trained: TrainedExperiment, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of the search, which draws as often as there."""
    folder = trained.hand_over(monkeypatch)
    seed = trained.spec.seed
    for label in ("swag-2", "swag-diagonal", SUBSPACE):
        given = ["export-model", str(folder), "--average", label, "--trial", "swa-0"]
        assert main([*given, "--format", "safetensors"]) == 0
        held = load_file(folder / f"export-{label}" / "posterior.safetensors")
        weights = load_file(folder / f"export-{label}" / "model.safetensors")
        names = [key.removeprefix("mean.") for key in held if key.startswith("mean.")]
        names.sort(key=[key.removeprefix("0.") for key in weights].index)
        order = _order_parameters(trained, names)
        about = read_description(folder / f"export-{label}")
        assert about["members"] == (3 if label == "swag-2" else 2)
        for member in range(about["members"]):
            if label == SUBSPACE:
                drawn = [
                    held[f"mean.{name}"]
                    + torch.tensordot(held["samples"][member].float(), held[f"basis.{name}"], dims=1)
                    for name in order
                ]
            else:
                moments = Moments(
                    [held[f"mean.{name}"] for name in order],
                    [held[f"variance.{name}"] for name in order],
                    [[held[f"deviations.{name}"][k] for name in order] for k in range(2)]
                    if label == "swag-2"
                    else [],
                )
                rank = about["posterior"].get("rank", 0)
                noise = draw_noise(moments.mean, rank, derive_seed(seed, "swag", member))
                drawn = draw_weights(moments, noise, about["posterior"]["scale"], divisor=rank - 1)
            for name, tensor in zip(order, drawn, strict=True):
                torch.testing.assert_close(weights[f"{member}.{name}"], tensor, rtol=1e-6, atol=1e-7)
            assert math.isfinite(float(weights[f"{member}.bn1.running_var"].sum()))
        statistics = [weights[f"{member}.bn1.running_mean"] for member in range(2)]
        assert not torch.equal(*statistics)  # of its own weights each


def _order_parameters(trained: TrainedExperiment, names: list[str]) -> list[str]:
    from tune_swa.training.model import build_model

    order = [name for name, _ in build_model(trained.data.num_classes, seed=0).named_parameters()]
    assert sorted(order) == sorted(names)
    return order


def test_a_damaged_snapshot_is_named_and_stays(
    trained: TrainedExperiment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained.hand_over(monkeypatch)
    snapshot = max(folder.glob("checkpoints/swa-0/snapshot-*"))
    snapshot.write_bytes(b"torn")
    assert main(["export-model", str(folder), "--average", "swag-2", "--trial", "swa-0"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "the weights of swa-0 in" in said
    assert "Restore that file from a copy, or export another run" in said
    assert snapshot.exists()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("--average swag-9", "--average swag-9: no run observed it. There are ema-1, swa, lawa-2, swag-2,"),
        (
            "--average ema-1 --trial swa-7",
            "--trial swa-7: there is no such trial. --trial takes a run whose weights are kept: base-0",
        ),
        (
            "--average swag-2 --trial base-0",
            "--trial base-0: it observed no swag-2, but ema-1. --trial takes a run whose weights are",
        ),
        (
            "--average swag-2 --trial swa-1",
            "--trial swa-1: its weights were removed when it had ended. --trial takes a run whose weights",
        ),
        ("--trial swa-0", "--trial swa-0: is only for --average, which is not given"),
        ("--soup --average swa", "not allowed with argument"),
    ],
    ids=["label", "trial", "other average", "removed", "alone", "both"],
)  # fmt: skip
def test_what_is_not_there_is_refused(
    given: str, expected: str, trained: TrainedExperiment, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = trained.hand_over(monkeypatch)
    trained.train("swa-1", {**PARAMS, "lr": 3e-3})
    trained.remove_weights("swa-1")
    try:
        code = main(["export-model", str(folder), *given.split()])
    except SystemExit as error:  # of the parser
        code = error.code  # type: ignore[assignment]
    assert code == 2
    assert expected in " ".join(capsys.readouterr().err.split())
    assert not list(folder.glob("export*"))


def test_without_weights_or_images_it_says_what_to_do(
    trained: TrainedExperiment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tune_swa.errors import RequestError

    folder = trained.hand_over(monkeypatch)

    def find_none(*_: object, **__: object) -> Dataset:
        raise RequestError("there are none")

    monkeypatch.setattr("tune_swa.results.report.images.prepare_dataset", find_none)
    given = ["export-model", str(folder), "--trial", "swa-0", "--format", "state_dict"]
    assert main([*given, "--average", "lawa-2"]) == 2
    assert "are computed on its training images" in " ".join(capsys.readouterr().err.split())
    assert main([*given, "--average", "swa"]) == 0  # whose statistics are in the checkpoint
    trained.remove_weights("swa-0")
    assert main([*given, "--average", "swag-2"]) == 2
    assert "No run with swag-2 has its weights any more" in " ".join(capsys.readouterr().err.split())
