"""Give different images of a batch to different functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from tune_swa.data.epoch_draws import EpochDraws


class ImageGroups:
    """The images of an epoch in groups, by what was drawn for each.

    The places of all groups go to the device once. Which of them are in a batch, the host knows by itself, so
    no batch makes it wait.

    Args:
        chosen: the group of the image at each place, [n].
        groups: how many there are.
        draws: of the epoch.
    """

    def __init__(self, chosen: npt.NDArray[Any], groups: int, draws: EpochDraws) -> None:
        self._places = np.argsort(chosen, kind="stable")  # by group, and there rising
        self._bounds = np.searchsorted(chosen[self._places], np.arange(groups + 1))
        self._moved = draws.move_numbers(self._places)

    def change_group(
        self,
        group: int,
        images: Tensor,
        place: slice,
        function: Callable[..., Tensor],
        *numbers: Tensor,
    ) -> Tensor:
        """Change the images of a group in place, if any are there, and return all.

        Args:
            group: which one.
            images: [B, H, W, 3], at some places of the epoch.
            place: these places.
            function: called with the group's images and their numbers.
            numbers: of all places of the epoch, [n, ...] each.
        """
        start, stop = self._bounds[group], self._bounds[group + 1]
        low, high = start + np.searchsorted(self._places[start:stop], (place.start, place.stop))
        if low == high:
            return images
        places = self._moved[low:high]
        among = places - place.start
        own = (values.index_select(0, places) for values in numbers)
        return images.index_copy_(0, among, function(images.index_select(0, among), *own))
