"""Plugins that a test writes and loads in its own process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tune_swa import plugins

DRAWN = """\
import numpy as np
import tune_swa


def load_drawn():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = (rng.integers(0, 120, (60, 9, 9, 3)) + 40 * labels[:, None, None, None]).astype("uint8")
    return {"train": (images, labels), "class_names": ["low", "middle", "high"]}


tune_swa.register_dataset("drawn", load_drawn)
"""
"""A set of 60 small images from arrays."""


SMALL_NETWORK = """\
import torch
import tune_swa


class Small(torch.nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body = torch.nn.Sequential(
            torch.nn.Conv2d(3, 6, 3, 2), torch.nn.BatchNorm2d(6), torch.nn.AdaptiveAvgPool2d(1)
        )
        self.head = torch.nn.Linear(6, classes)

    def forward(self, images):
        return self.head(self.body(images).flatten(1))


tune_swa.register_model("small", Small, head="head")
"""
"""A network of one convolution."""


def write_plugin(folder: Path, text: str, name: str = "own") -> Path:
    path = folder / f"{name}.py"
    path.write_text(text)
    return path


@contextmanager
def loaded_plugin(folder: Path, text: str, name: str = "own") -> Iterator[Path]:
    """Write a plugin and load it for a while."""
    path, before = write_plugin(folder, text, name), plugins.list_sources()
    try:
        plugins.load_plugins([*(source.option for source in before), str(path)])
        yield path
    finally:
        plugins.forget_plugin(name)
