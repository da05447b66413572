"""A trained model as a search hands it over, for the tests of exporting."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn

from helpers.drawn_arrays import draw_dataset
from tune_swa.config import RunSettings, TrainSpec
from tune_swa.data.dataset import Dataset
from tune_swa.training import model_export
from tune_swa.training.model_export import FORMATS, export_model
from tune_swa.training.numerics import decide_numerics, describe_hardware
from tune_swa.training.run import Run

EVERY = tuple(FORMATS)


@dataclasses.dataclass
class Handed:
    """A trained model as `best_model.pt` and `best_model.json` hold it."""

    model: nn.Module
    about: dict[str, Any]
    train: TrainSpec
    data: Dataset

    def export(self, output: Path, formats: tuple[str, ...] = EVERY, **changes: Any) -> model_export.Report:
        output.mkdir(exist_ok=True)
        own: dict[str, Any] = {"model": self.model, "about": self.about, "data": self.data}
        return export_model(train=self.train, formats=formats, output=output, **{**own, **changes})


def train_model(precision: str = "fp32", channels_last: bool = False) -> Handed:
    drawn = draw_dataset(train=60, val=60, test=90)
    # hard enough that some images lie on a border, and with a normalisation of its own
    data = dataclasses.replace(drawn, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    spec = TrainSpec(epochs=3, batch_size=8, precision=precision, channels_last=channels_last)  # type: ignore[arg-type]
    numerics = decide_numerics(spec, 16, device="cpu", threads=1)
    run = Run(RunSettings(lr=3e-4, swa_start=0, swa_lr=3e-4, train=spec), data, numerics)
    last = list(run)[-1]
    test = run.predict_test_images()
    about = {
        "arch": "resnet18",
        "num_classes": 3,
        "class_names": list(data.class_names),
        "preprocessing": {
            "image_size": 16, "resize": "crop", "exif_rotation": True,
            "mean": list(data.mean), "std": list(data.std),
        },
        "trial": "swa-0000",
        "kind": "swa",
        "configuration": "SWA_0_3e-4 lr=3e-4",
        "params": {"lr": 3e-4, "swa_start": 0, "swa_lr": 3e-4},
        "validation": {"accuracy": last.accuracy},
        "test": {"accuracy": test.compute_metrics()["accuracy"]},
        "numerics": numerics.as_dict(),
        "hardware": describe_hardware(),
        "versions": {"torch": str(torch.__version__).partition("+")[0]},
    }  # fmt: skip
    return Handed(copy.deepcopy(run.shipped_model).eval(), about, spec, data)
