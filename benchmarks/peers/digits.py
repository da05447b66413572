"""The images of the peers: the very pixels and division of tune_swa's digits, as plain tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, TensorDataset

from tune_swa.config import DataSpec
from tune_swa.data.dataset import prepare_dataset


def tensors(data: dict[str, Any]) -> tuple[TensorDataset, TensorDataset]:
    """Training and validation images [N, 3, H, W] float32 in [0, 1] with labels."""
    found = prepare_dataset(DataSpec.model_validate(data))

    def of(rows: np.ndarray) -> TensorDataset:
        pixels = torch.from_numpy(np.ascontiguousarray(found.images[rows]))
        return TensorDataset(
            pixels.permute(0, 3, 1, 2).float().div(255).contiguous(), torch.from_numpy(found.labels[rows])
        )

    return of(found.train), of(found.val)


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """The same as 8x8 PIL images with a transform, as image folders are loaded."""

    def __init__(self, data: dict[str, Any], transform: Any) -> None:
        small = prepare_dataset(DataSpec.model_validate({**data, "image_size": 8}))
        self.labels = small.labels[small.train]
        self.images = [Image.fromarray(np.asarray(small.images[row])) for row in small.train]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images[index]), int(self.labels[index])
