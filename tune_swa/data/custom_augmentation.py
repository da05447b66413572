"""Apply an augmentation that a plugin has registered, one image after the other."""

from __future__ import annotations

import torch
from torch import Tensor

from tune_swa.data.epoch_draws import EpochDraws
from tune_swa.data.registered_augmentations import require_augmentation
from tune_swa.errors import RequestError


class CustomAugmentation:
    """Applies a registered function to the images of an epoch, one after the other.

    Args:
        name: `plugin/NAME`.
        draws: of the epoch.

    Raises:
        RequestError: nothing is registered under the name.
    """

    def __init__(self, name: str, draws: EpochDraws) -> None:
        self._name, self._draws = name, draws
        self._function = require_augmentation(name).function

    def __call__(self, images: Tensor, place: slice) -> Tensor:
        """Change the images [B, H, W, 3] of some places.

        Raises:
            RequestError: the function returns something else than an image.
        """
        rows = self._draws.order[place].tolist()
        changed = []
        with torch.random.fork_rng(devices=[]):  # a GPU's generator belongs to the network's layers
            for row, image in zip(rows, images, strict=True):
                generator = torch.default_generator.manual_seed(self._draws.derive_seed(self._name, row))
                changed.append(self._check_image(self._function(image.permute(2, 0, 1), generator), image))
        return torch.stack(changed).permute(0, 2, 3, 1).contiguous()

    def _check_image(self, result: object, image: Tensor) -> Tensor:
        expected = image.permute(2, 0, 1)
        if (
            isinstance(result, Tensor)
            and result.shape == expected.shape
            and result.dtype == torch.uint8
            and result.device == image.device
        ):
            return result
        found = type(result).__name__
        if isinstance(result, Tensor):
            found = f"a tensor {list(result.shape)} of {result.dtype} on {result.device}"
        raise RequestError(
            f"{self._name} returned {found}; expected an image as it was given, a tensor "
            f"{list(expected.shape)} of torch.uint8 on {image.device}"
        )
