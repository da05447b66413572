"""Small images on disk, in the layouts that people have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tune_swa.config import DataSpec

CLASSES = ("forest", "sea", "street")


def draw(path: Path, seed: int = 0, size: tuple[int, int] = (20, 14), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).convert(mode)
    image.save(path)


def draw_tree(root: Path, folders: dict[str, int], classes: tuple[str, ...] = CLASSES) -> None:
    """`folders` says how many images each class has in each folder."""
    for folder, count in folders.items():
        for label in classes:
            for i in range(count):
                draw(root / folder / label / f"{i}.jpg", seed=i)


def folder_spec(**changes: object) -> DataSpec:
    return DataSpec.model_validate({"dataset": "folder", "image_size": 16, **changes})
