"""Locate the ImageNet weights that torchvision publishes, and their file on this machine."""

from __future__ import annotations

from pathlib import Path


def locate_imagenet_weights() -> tuple[str, Path]:
    """Return the URL of the ImageNet weights of ResNet-18, and the file that a download of them becomes."""
    import torch
    from torchvision.models import ResNet18_Weights

    url: str = ResNet18_Weights.IMAGENET1K_V1.url
    return url, Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
