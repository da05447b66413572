"""Find the augmentations that plugins have registered."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from tune_swa.config.augmentation import PLUGIN_PREFIX
from tune_swa.config.values import Value
from tune_swa.errors import RequestError
from tune_swa.plugins import RegisteredAugmentation, find_augmentation, list_augmentations


def require_augmentation(name: str) -> RegisteredAugmentation:
    """Return what is registered for `plugin/NAME`.

    Raises:
        RequestError: nothing is.
    """
    key = name.removeprefix(PLUGIN_PREFIX)
    found = find_augmentation(key)
    if found is None:
        known = list_augmentations()
        close = difflib.get_close_matches(key, known, n=1)
        hint = f" Did you mean {PLUGIN_PREFIX}{close[0]}?" if close else ""
        names = ", ".join(f"{PLUGIN_PREFIX}{name}" for name in sorted(known)) or "none. Add --plugin MODULE"
        raise RequestError(f"train.augment: no plugin has registered {name}.{hint} Registered: {names}")
    return found


def list_required(lists: Iterable[Value]) -> list[RegisteredAugmentation]:
    """Return what is registered for each `plugin/NAME` in some lists of augmentations.

    Raises:
        RequestError: nothing is registered for one of them.
    """
    texts = [text for listed in lists if isinstance(listed, tuple) for text in listed]
    return [require_augmentation(text) for text in dict.fromkeys(texts) if text.startswith(PLUGIN_PREFIX)]
