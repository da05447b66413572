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
        changed = torch.empty_like(images, memory_format=torch.contiguous_format)
        with torch.random.fork_rng(devices=[]):  # a GPU's generator belongs to the network's layers
            for place_in_batch, (row, image) in enumerate(zip(rows, images, strict=True)):
                generator = torch.default_generator.manual_seed(self._draws.derive_seed(self._name, row))
                result = self._check_image(self._function(image.permute(2, 0, 1), generator), image)
                # at once: the function may use its memory again
                changed[place_in_batch] = result.permute(1, 2, 0)
        return changed

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
