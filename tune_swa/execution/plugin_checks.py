"""Check what plugins register before anything is trained, and that a resumed search has the same ones."""

from __future__ import annotations

from tune_swa.config import Experiment
from tune_swa.data.registered_augmentations import list_required
from tune_swa.errors import RequestError
from tune_swa.experiment.events import ExperimentCreated
from tune_swa.plugin_files import explain_user_error
from tune_swa.plugins import Registered, describe_sources, find_changed, find_source


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
        flags = " ".join(f"--plugin {before[name]['option']}" for name in missing)
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


def check_augmentations(experiment: Experiment) -> None:
    """Change a made-up image by each augmentation of a plugin that trials can have, twice from one seed.

    Raises:
        RequestError: none is registered under a name, it fails, or what it returns is no such image.
    """
    registered_ones = list_required(experiment.list_extremes("train.augment"))
    if not registered_ones:
        return
    import torch

    side = experiment.data.image_size
    for registered in registered_ones:
        what = f"train.augment: plugin/{registered.name}"
        file = _require_file(what, registered)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            image = torch.randint(0, 256, (3, side, side), dtype=torch.uint8)
            try:
                one, two = (
                    registered.function(image.clone(), torch.default_generator.manual_seed(1))
                    for _ in range(2)
                )
            except (Exception, SystemExit) as error:
                raise explain_user_error(what, error, file) from None
        if not isinstance(one, torch.Tensor) or one.shape != image.shape or one.dtype != torch.uint8:
            got = f"{one.dtype} {list(one.shape)}" if isinstance(one, torch.Tensor) else type(one).__name__
            given = f"torch.uint8 {[3, side, side]}"
            raise RequestError(f"{what} ({file}): returned {got}; expected an image as it was given, {given}")
        if not torch.equal(one, two):
            raise RequestError(
                f"{what} ({file}): gives two images from one seed, and a resume needs the same ones. Draw "
                "from the generator that it is given, or from torch's global one"
            )


def _require_file(what: str, registered: Registered) -> str:
    """The file of the plugin that registered something.

    Raises:
        RequestError: it is no plugin's.
    """
    source = find_source(registered.plugin)
    if source is None:
        raise RequestError(
            f"{what} was registered outside of a plugin, where no worker runs it. Put the code into a "
            "module, and name that with --plugin"
        )
    return source.file
