"""Check what plugins register before anything is trained, and that a resumed search has the same ones."""

from __future__ import annotations

import shlex

from tune_swa.config import Experiment
from tune_swa.config.network_names import is_arch_name
from tune_swa.data.registered_augmentations import list_required
from tune_swa.data.source_lookup import list_known_sets
from tune_swa.errors import RequestError
from tune_swa.experiment.events import ExperimentCreated
from tune_swa.plugin_files import explain_user_error
from tune_swa.plugins import (
    RegisteredAugmentation,
    describe_sources,
    find_changed,
    list_datasets,
    list_models,
    require_source,
)

TRIED = 32
"""Images that an augmentation is tried with: one that draws a coin from another generator gives itself away
with some of them."""


def check_same_plugins(begun: ExperimentCreated | None) -> None:
    """A resumed search must have the plugins that it began with, unchanged.

    Raises:
        RequestError: one is missing, is new, or has another source; says what to do.
    """
    if begun is None:
        return
    before, after = begun.get("plugins", {}), describe_sources()
    missing = [name for name in before if name not in after]
    if missing:
        flags = " ".join(f"--plugin {shlex.quote(str(before[name]['option']))}" for name in missing)
        raise RequestError(f"this search began with a plugin ({before[missing[0]]['file']}). Add {flags}")
    added = [name for name in after if name not in before]
    if added:
        raise RequestError(
            f"--plugin {added[0]}: this search began without it. Leave it out, or start a new search with "
            "another --name"
        )
    changed = find_changed(before)
    if changed is not None:
        raise RequestError(
            f"--plugin {changed.name}: {changed.file} has changed since this search began, so its numbers "
            "could not be compared. Restore the file, or start a new search with another --name"
        )


def check_names() -> None:
    """Check that plugins register no network or set under a name that has one.

    Raises:
        RequestError: one does.
    """
    same = next((name for name in list_models() if is_arch_name(name)), None)
    if same is not None:
        raise RequestError(f"register_model: {same} is a network of torchvision. Give yours another name")
    taken = next((name for name in list_datasets() if name in list_known_sets()), None)
    if taken is not None:
        raise RequestError(f"register_dataset: {taken} is a set that tune_swa has. Give yours another name")


def check_augmentations(experiment: Experiment) -> None:
    """Change made-up images by each augmentation of a plugin that trials can have, each twice from one seed.

    Raises:
        RequestError: none is registered under a name, it fails, or what it returns is no such image.
    """
    registered_ones = list_required(experiment.list_extremes("train.augment"))
    if not registered_ones:
        return
    import torch

    for registered in registered_ones:
        what = f"train.augment: plugin/{registered.name}"
        file = require_source(what, registered).file
        with torch.random.fork_rng(devices=[]):
            problem = _find_problem(what, registered, file, experiment.data.image_size)
        if problem is not None:
            raise RequestError(f"{what} ({file}): {problem}")


def _find_problem(what: str, registered: RegisteredAugmentation, file: str, side: int) -> str | None:
    """What keeps an augmentation from being used; None: nothing that shows."""
    import torch

    for seed in range(TRIED):
        numbers = torch.Generator().manual_seed(seed)
        lowest, highest = ((0, 1), (255, 256))[seed] if seed < 2 else (0, 256)  # some divide by a contrast
        pixels = torch.randint(lowest, highest, (side, side, 3), dtype=torch.uint8, generator=numbers)
        results = []
        for _ in range(2):
            image = pixels.clone().permute(2, 0, 1)  # as they lie in a batch
            try:
                result = registered.function(image, torch.default_generator.manual_seed(seed))
            except (Exception, SystemExit) as error:
                raise explain_user_error(what, error, file) from None
            if not isinstance(result, torch.Tensor):
                got = type(result).__name__
            elif result.shape == (3, side, side) and result.dtype == torch.uint8:
                results.append(result.clone())
                continue
            else:
                got = f"{result.dtype} {list(result.shape)}"
            return f"returned {got}; expected an image as it was given, torch.uint8 {[3, side, side]}"
        if not torch.equal(*results):
            return (
                "gives two images from one seed, and a resume needs the same ones. Draw from the generator "
                "that it is given, or from torch's global one"
            )
    return None
