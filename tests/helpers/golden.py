"""Reference numbers of published averaging methods, and the small network that they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tune_swa.averaging.observers import Member, load_member
from tune_swa.averaging.swa import refresh_bn

GOLDEN = Path(__file__).parent.parent / "golden"
Arrays = Mapping[str, Any]


def load_golden(name: str) -> Arrays:
    """The arrays of one method, by their names."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


class GoldenNet(nn.Module):
    """Two convolutions with batch normalisation and a classifier, in the sizes of an array's shapes."""

    def __init__(self, arrays: Arrays) -> None:
        super().__init__()
        shapes = [[int(n) for n in shape if n >= 0] for shape in arrays["param_shapes"]]
        named = dict(zip(map(str, arrays["param_names"]), shapes, strict=True))
        first, second = named["conv1.weight"], named["conv2.weight"]
        self.conv1 = nn.Conv2d(first[1], first[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first[0])
        self.conv2 = nn.Conv2d(second[1], second[0], 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(second[0])
        self.fc = nn.Linear(second[0], named["fc.weight"][0])
        assert [name for name, _ in self.named_parameters()] == list(named)

    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.relu(self.bn1(self.conv1(images)))
        hidden = torch.relu(self.bn2(self.conv2(hidden)))
        return self.fc(hidden.mean(dim=(2, 3)))  # type: ignore[no-any-return]


def split_vector(model: nn.Module, vector: Any) -> list[Tensor]:
    """A weight vector as tensors in the order and dtype of the model's parameters."""
    flat, found, start = torch.as_tensor(np.asarray(vector)), [], 0
    for parameter in model.parameters():
        found.append(flat[start : start + parameter.numel()].view_as(parameter).to(parameter.dtype))
        start += parameter.numel()
    assert start == len(flat)
    return found


def join_tensors(tensors: Any) -> Any:
    """Tensors as one vector."""
    return torch.cat([tensor.detach().flatten() for tensor in tensors]).numpy()


def set_weights(model: nn.Module, vector: Any) -> None:
    """Load a weight vector into the model."""
    load_member(model, Member(split_vector(model, vector)))


def set_statistics(model: GoldenNet, vector: Any) -> None:
    """Load running means and variances, layer by layer."""
    flat, start = torch.as_tensor(np.asarray(vector)), 0
    for layer in (model.bn1, model.bn2):
        for statistic in (layer.running_mean, layer.running_var):
            assert statistic is not None
            statistic.copy_(flat[start : start + len(statistic)])
            start += len(statistic)
    assert start == len(flat)


def refresh_statistics(model: nn.Module, arrays: Arrays) -> None:
    """Refresh batch normalisation over the arrays' images, in their batches."""
    dtype = next(model.parameters()).dtype
    refresh_bn(model, torch.as_tensor(arrays["bn_images"]).to(dtype).split(int(arrays["bn_batch_size"])))


@torch.no_grad()
def predict_probabilities(model: nn.Module, arrays: Arrays) -> Any:
    """Class probabilities [N, C] float64 of the arrays' images."""
    dtype = next(model.parameters()).dtype
    logits = model.eval()(torch.as_tensor(arrays["images"]).to(dtype))
    return torch.softmax(logits.double(), dim=1).numpy()


def deviation(found: Any, expected: Any) -> float:
    """Largest absolute deviation over the largest absolute expected value."""
    found, expected = np.asarray(found, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())
