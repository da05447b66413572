"""The augmentations that plugins register by name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeAlias

from tune_swa.config.augmentation import PLUGIN_PREFIX
from tune_swa.config.values import Value
from tune_swa.errors import RequestError

if TYPE_CHECKING:  # whoever only looks a name up should not wait for torch
    import torch

AugmentationFunction: TypeAlias = "Callable[[torch.Tensor, torch.Generator], torch.Tensor]"
"""Takes an image [3, H, W] uint8 and a generator, and returns an image of the same shape and type."""

_FUNCTIONS: dict[str, AugmentationFunction] = {}


def register_augmentation(name: str, function: AugmentationFunction) -> None:
    """Register an augmentation, which space files then call `plugin/NAME`.

    The function is called for one image after another. Everything that it draws has to come from the
    generator or from torch's own on the CPU (as torchvision's transforms draw): both are the same one, seeded
    anew for each image by (seed, epoch, purpose, name, image). So images depend neither on the batch size nor
    on an interruption.

    Args:
        name: of letters, digits, dot, dash and underscore.
        function: changes an image. It may run on a GPU, and should not wait for it.

    Raises:
        ValueError: the name is taken, or has other characters.
    """
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", name):
        raise ValueError(f"{name!r}: expected letters, digits, dot, dash and underscore")
    if _FUNCTIONS.get(name, function) is not function:
        raise ValueError(f"an augmentation {name!r} is registered already; give this one another name")
    _FUNCTIONS[name] = function


def find_augmentation(name: str) -> AugmentationFunction:
    """Return the function that is registered for `plugin/NAME`.

    Raises:
        RequestError: there is none.
    """
    key = name.removeprefix(PLUGIN_PREFIX)
    if key not in _FUNCTIONS:
        close = difflib.get_close_matches(key, _FUNCTIONS, n=1)
        hint = f" Did you mean {PLUGIN_PREFIX}{close[0]}?" if close else ""
        known = ", ".join(f"{PLUGIN_PREFIX}{known}" for known in sorted(_FUNCTIONS)) or "none"
        raise RequestError(f"train.augment: no plugin has registered {name}.{hint} Registered: {known}")
    return _FUNCTIONS[key]


def check_registered(lists: Iterable[Value]) -> None:
    """Check that a function is registered for each `plugin/NAME` in some lists of augmentations.

    Raises:
        RequestError: there is none.
    """
    for texts in lists:
        for text in texts if isinstance(texts, tuple) else ():
            if text.startswith(PLUGIN_PREFIX):
                find_augmentation(text)
