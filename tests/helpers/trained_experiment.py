"""An experiment whose journal, checkpoints and predictions come from runs that a test trains itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.journals import Writer, append_event
from tune_swa.config import Experiment
from tune_swa.data.batches import ImageBatches
from tune_swa.data.dataset import Dataset
from tune_swa.execution.best_model import export_best
from tune_swa.execution.trial_checkpoints import save_checkpoint
from tune_swa.experiment.journal import Journal
from tune_swa.plugins import describe_sources, list_sources
from tune_swa.results.comparison import best_trial
from tune_swa.storage import FolderStore
from tune_swa.training.numerics import Numerics, describe_hardware
from tune_swa.training.prediction_file import pack_predictions
from tune_swa.training.run import Run

NUMERICS = Numerics("cpu", "fp32", threads=1, channels_last=True, fused=True, compile=False)


class TrainedExperiment(Writer):
    """Writes what a search writes: every number of its journal is one that a run has reported."""

    def __init__(self, folder: Path, spec: Experiment, data: Dataset) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.spec, self.data = folder / "journal.jsonl", spec, data
        self.journal, self.store = Journal(self.path), FolderStore(folder)
        parts = {part: len(getattr(data, part)) for part in ("train", "val", "test")}
        names = {"class_names": list(data.class_names), "num_classes": len(data.class_names)}
        append_event(
            self.journal,
            "created",
            format=1,
            version="0.1.0",
            spec=spec.model_dump(mode="json", by_alias=True),
            identity={},
            data={"name": data.name, "fingerprint": data.fingerprint, "left_out": {}, **names, **parts},
            numerics=NUMERICS.as_dict(),
            hardware=describe_hardware(),
            versions={"torch": str(torch.__version__).partition("+")[0]},
            seed=spec.seed,
            **({"plugins": describe_sources()} if list_sources() else {}),
        )
        self.session(1)

    def train(self, name: str, params: dict[str, Any], seed: int | None = None) -> None:
        """Train a trial of the search, or where a seed is given a run that is tested."""
        kind: Any = "baseline" if name.startswith("base") else "swa"
        self.suggest(name, params, "search" if seed is None else "confirm", seed)
        self.start(name)
        settings = self.spec.run_settings(kind, params, seed)
        run = Run(settings, self.data, NUMERICS, all_draws=seed is not None)
        for record in run:
            saved = save_checkpoint(run, self.store, f"checkpoints/{name}", keep_all=False)
            scores = {label: score.as_dict() for label, score in run.scores.items()}
            append_event(
                self.journal,
                "epoch",
                trial=name,
                record=record.as_dict(),
                decision="continue",
                rung=None,
                checkpoint=saved,
                scores=scores,
            )
        assert run.record is not None
        gone = [f"checkpoints/{name}/epoch-{epoch:05d}.pt" for epoch in range(run.epoch - 1)]
        append_event(self.journal, "checkpoints", trial=name, removed=gone)
        if seed is not None:
            self._test(name, run)
        self.end(name, value=run.record.accuracy)

    def _test(self, name: str, run: Run) -> None:
        models = {"shipped": run.predict_test_images()}
        if run.averaging is None:
            models["refreshed"] = run.predict_test_images(refresh=True)
        averages = run.predict_with_averages(models["shipped"])
        folder = self.path.parent / "predictions"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.npz").write_bytes(pack_predictions({**models, **averages}, probabilities=True))
        metrics = {label: said.compute_metrics() for label, said in models.items()}
        append_event(
            self.journal,
            "tested",
            trial=name,
            images=len(models["shipped"].label),
            shipped=metrics["shipped"],
            refreshed=metrics.get("refreshed"),
            averages={label: said.compute_metrics() for label, said in averages.items()},
        )

    def remove_weights(self, name: str) -> None:
        """Remove the last checkpoint, as a search does that has better ones."""
        last = self.state().trials[name].checkpoints[-1]
        append_event(self.journal, "checkpoints", trial=name, removed=[last])
        (self.path.parent / last).unlink()

    def hand_over(self, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Write the best model, and let the commands find the images; returns the folder."""
        self.finish()
        folder, state = self.path.parent, self.state()
        best = best_trial(state)
        assert best is not None
        size = self.data.images.shape[1]
        preprocessing = {"image_size": size, "resize": "squash", "exif_rotation": False, "grey_bits": 16}
        preprocessing |= {"mean": list(self.data.mean), "std": list(self.data.std)}
        export_best(best, state, self.spec, folder, self.store, preprocessing)
        monkeypatch.setattr("tune_swa.results.report.images.prepare_dataset", lambda *_, **__: self.data)
        return folder


def read_description(folder: Path) -> dict[str, Any]:
    """What an export says of itself."""
    found: dict[str, Any] = json.loads((folder / "model.json").read_text())
    return found


def compute_outputs(folder: Path, data: Dataset, part: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What the exported program says of a part of the images, and their labels."""
    program = torch.export.load(folder / "model.pt2").module()
    batches = ImageBatches(data, getattr(data, part), "cpu", channels_last=NUMERICS.channels_last)
    with torch.no_grad():
        pairs = [(program(images), labels) for images, labels in batches.iterate_ordered(256)]
    outputs, labels = zip(*pairs, strict=True)
    return torch.cat(outputs), torch.cat(labels)
