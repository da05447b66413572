"""Locate the weights that torchvision publishes for its networks, and their files on this machine."""

from __future__ import annotations

from pathlib import Path


def locate_imagenet_weights(arch: str = "resnet18") -> tuple[str, Path]:
    """Return the URL of the default weights of a network of torchvision's, and the file that a download of
    them becomes."""
    import torch
    from torchvision.models import get_model_weights

    url: str = get_model_weights(arch).DEFAULT.url
    return url, Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
