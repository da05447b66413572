"""Modules of the user's own that `--plugin` names, and what they register: networks, images, augmentations.

A module is run because the command line names it, never because a space file does. Its source is read once,
in the driver; every worker runs that text, on whatever node, so that all of them have the code that the
journal names by its hash.
"""

from __future__ import annotations

import re
import shlex
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from tune_swa.errors import RequestError
from tune_swa.plugin_files import (
    PluginSource,
    describe_user_error,
    explain_user_error,
    read_source,
    run_source,
)

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Registered:
    """What a plugin has registered under a name."""

    name: str
    function: Callable[..., Any]
    plugin: str | None
    """Plugin that registered it; None: code outside of plugins, which no worker would run."""


@dataclass(frozen=True)
class RegisteredModel(Registered):
    """A network; the function builds it for a number of classes."""

    head: str | None = None
    """Dotted name of its classifier layer; None: the last linear or convolutional one."""


@dataclass(frozen=True)
class RegisteredDataset(Registered):
    """A set of images; the function loads it."""

    version: str = ""


@dataclass(frozen=True)
class RegisteredAugmentation(Registered):
    """An augmentation; the function changes an image."""


_sources: dict[str, PluginSource] = {}
_models: dict[str, RegisteredModel] = {}
_datasets: dict[str, RegisteredDataset] = {}
_augmentations: dict[str, RegisteredAugmentation] = {}
_announced: ContextVar[tuple[str, ...]] = ContextVar("announced", default=())
"""What `--plugin` names and has not been run yet: it may register any name. Each thread has its own."""
_recorded: dict[str, str] = {}
"""Networks of experiments that are read, with the plugins that build them."""
_loading: list[str] = []
"""Plugins whose modules are being run, the innermost last."""


def register_model(name: str, builder: Callable[[int], Any], *, head: str | None = None) -> None:
    """Make a network known as `model.arch: NAME`. To be called in a module that `--plugin` names.

    Args:
        name: letters, digits and `_.-`, other than the networks of torchvision.
        builder: called with the number of classes; returns an `nn.Module` that maps [B, 3, H, W] to logits
            [B, classes]. It draws its weights from torch's global generator, which is seeded for it.
        head: dotted name of the classifier layer, for `train.freeze` and `train.head_lr_factor`; default: the
            last linear or convolutional layer.

    Raises:
        ValueError: the name cannot be one, or another plugin has registered it.
        TypeError: the builder cannot be called.
    """
    _check_registration("model", name, builder, _models)
    _models[name] = RegisteredModel(name, builder, _current_plugin(), head)


def register_dataset(name: str, loader: Callable[..., Any], *, version: str = "") -> None:
    """Make a set of images known as `data.dataset: NAME`. To be called in a module that `--plugin` names.

    Its images are decoded once and kept until the plugin's source or the version changes.

    Args:
        name: letters, digits and `_.-`, other than those of the sets that tune_swa knows.
        loader: called without arguments, or if it takes one with the folder of `--data-dir` or `data.path`
            (a `Path` or None); returns a dictionary with the parts `train`, and optionally `val`, `test` and
            `class_names`. A part is a map-style dataset of (image, label), or a pair of images (uint8
            [N, H, W, 3], or PIL images) and labels.
        version: to be changed when what the loader reads has changed.

    Raises:
        ValueError: the name cannot be one, or another plugin has registered it.
        TypeError: the loader cannot be called.
    """
    _check_registration("dataset", name, loader, _datasets)
    _datasets[name] = RegisteredDataset(name, loader, _current_plugin(), str(version))


def register_augmentation(name: str, function: Callable[[Any, Any], Any]) -> None:
    """Make an augmentation known as `plugin/NAME` in `train.augment`. To be called in a module that
    `--plugin` names.

    The function is called for one image after another. Everything that it draws has to come from the
    generator or from torch's own on the CPU (as torchvision's transforms draw): both are the same one, seeded
    anew for each image by (seed, epoch, purpose, name, image). So images depend neither on the batch size nor
    on an interruption.

    Args:
        name: letters, digits and `_.-`.
        function: takes an image [3, H, W] uint8 and a `torch.Generator`, and returns an image of the same
            shape and type. It may run on a GPU, and should not wait for it.

    Raises:
        ValueError: the name cannot be one, or is taken.
        TypeError: the function cannot be called.
    """
    _check_registration("augmentation", name, function, _augmentations)
    _augmentations[name] = RegisteredAugmentation(name, function, _current_plugin())


def _check_registration(what: str, name: str, function: Any, known: Mapping[str, Registered]) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"register_{what}: {name!r} is no name; use letters, digits and _.-")
    if not callable(function):
        raise TypeError(f"register_{what}: {name} needs a function, got {type(function).__name__}")
    other, plugin = known.get(name), _current_plugin()
    if other is None or other.function is function or (other.plugin is None and plugin is not None):
        return
    by = f", by {other.plugin}" if other.plugin is not None else ""
    raise ValueError(f"register_{what}: {name} is registered already{by}. Give this one another name")


def _current_plugin() -> str | None:
    return _loading[-1] if _loading else None


def accepts_model(name: str) -> bool:
    """Whether a name that no library has may be a network's: registered, in a journal, or about to be."""
    return name in _models or name in _recorded or bool(_announced.get() and _NAME.fullmatch(name))


def require_model(name: str) -> RegisteredModel | None:
    """Return the network that a plugin has registered under a name; None: the name is none of a plugin's.

    Raises:
        RequestError: its plugin is not loaded.
    """
    if name in _recorded and name not in _models:
        option = _recorded[name]
        raise RequestError(
            f"model.arch: {name} is built by a plugin. Add --plugin {shlex.quote(option)} (in Python: "
            f"tune_swa.plugins.load_plugins([{option!r}]))"
        )
    return _models.get(name)


def recall_models(described: Any) -> None:
    """Accept the networks of an experiment whose plugins `describe_sources` has described."""
    for about in described.values() if isinstance(described, Mapping) else ():
        models = about.get("models") if isinstance(about, Mapping) else None
        for name in models if isinstance(models, list) else ():
            if isinstance(name, str) and _NAME.fullmatch(name):
                _recorded[name] = str(about.get("option"))


def list_models() -> tuple[str, ...]:
    """Names of the networks that plugins have registered."""
    return tuple(_models)


def find_dataset(name: str) -> RegisteredDataset | None:
    """Return the set of images that a plugin has registered under a name; None: none has."""
    return _datasets.get(name)


def find_augmentation(name: str) -> RegisteredAugmentation | None:
    """Return the augmentation that a plugin has registered under a name; None: none has."""
    return _augmentations.get(name)


def list_augmentations() -> tuple[str, ...]:
    """Names of the augmentations that plugins have registered."""
    return tuple(_augmentations)


def list_datasets() -> tuple[str, ...]:
    """Names of the sets of images that plugins have registered."""
    return tuple(_datasets)


def list_sources() -> tuple[PluginSource, ...]:
    """The plugins of this process, in the order in which they were loaded."""
    return tuple(_sources.values())


def find_source(name: str | None) -> PluginSource | None:
    """Return a plugin of this process by its name; None: it has no such one."""
    return None if name is None else _sources.get(name)


def require_source(what: str, registered: Registered) -> PluginSource:
    """Return the plugin that has registered something; `what` begins the message.

    Raises:
        RequestError: code outside of plugins has.
    """
    source = find_source(registered.plugin)
    if source is None:
        raise RequestError(
            f"{what} was registered outside of a plugin, where no worker runs it. Put the code into a "
            "module, and name that with --plugin"
        )
    return source


def describe_sources() -> dict[str, dict[str, Any]]:
    """Describe the plugins as the journal does: by name their file, its hash and what they registered."""
    kinds: dict[str, Mapping[str, Registered]] = {
        "models": _models,
        "datasets": _datasets,
        "augmentations": _augmentations,
    }
    return {
        source.name: {
            "option": source.option,
            "file": source.file,
            "hash": source.digest,
            **{
                kind: [name for name, registered in known.items() if registered.plugin == source.name]
                for kind, known in kinds.items()
            },
        }
        for source in _sources.values()
    }


def find_changed(described: Mapping[str, Any]) -> PluginSource | None:
    """Return the first plugin of this process whose source is not the one that was described."""
    hashes = {name: about.get("hash") for name, about in described.items()}
    return next((s for s in _sources.values() if hashes.get(s.name, s.digest) != s.digest), None)


def check_builder(name: str, described: Any) -> None:
    """Check that a network is built by the plugin that built it for an experiment, unchanged.

    Args:
        name: of the network.
        described: the experiment's plugins, as of `describe_sources`.

    Raises:
        RequestError: another plugin builds it here, or its source is another.
    """
    registered = _models.get(name)
    source = None if registered is None else find_source(registered.plugin)
    if source is None or not isinstance(described, Mapping):
        return
    about = described.get(source.name)
    if about is None:
        raise RequestError(
            f"model.arch: {name} is built by --plugin {source.name} here, and was built by "
            f"{', '.join(map(str, described))}. Leave --plugin {source.name} out"
        )
    if about.get("hash") != source.digest:
        raise RequestError(
            f"--plugin {source.name}: {source.file} has changed since {name} was trained. Restore it"
        )


def describe_failure(error: BaseException) -> str:
    """Describe an error with its type, and if a plugin's code raised it with the file and line there."""
    files = {frame.filename for frame in traceback.extract_tb(error.__traceback__)}
    file = next((source.file for source in list_sources() if source.file in files), None)
    return f"{type(error).__name__}: {error}" if file is None else describe_user_error(error, file)


def announce_plugins(given: Sequence[str]) -> None:
    """Remember the plugins that `load_announced` runs later: in the process that trains, since one that has
    computed with torch cannot be forked."""
    _announced.set(tuple(given))


def load_announced() -> None:
    """Run the plugins that were announced; errors as of `load_plugins`."""
    given = _announced.get()
    _announced.set(())
    load_plugins(given)


def load_plugins(given: Sequence[str]) -> None:
    """Run the modules that `--plugin` names, in this order; this process has no other plugins afterwards.

    Args:
        given: names of modules, or paths of Python files.

    Raises:
        RequestError: there is no such module, or its code failed; names the line.
    """
    sources: dict[str, PluginSource] = {}
    for text in given:
        source = read_source(text)
        other = sources.setdefault(source.name, source)
        if other.file != source.file:
            raise RequestError(
                f"--plugin {text}: another one is called {source.name} ({other.file}). Rename one of them"
            )
    install_plugins(sources.values())


def install_plugins(sources: Iterable[PluginSource]) -> None:
    """Run plugins, those that this process has not run yet, and forget any others.

    Raises:
        RequestError: the code of one failed; names the line.
    """
    wanted = [*sources]
    for known in list_sources():
        if known not in wanted:
            forget_plugin(known.name)
    for source in wanted:
        if source.name in _sources:
            continue
        _loading.append(source.name)
        try:
            run_source(source)
        except (Exception, SystemExit) as error:
            forget_plugin(source.name)
            raise explain_user_error(f"--plugin {source.name}", error, source.file) from None
        finally:
            _loading.pop()
        _sources[source.name] = source


def forget_plugin(name: str) -> None:
    """Take back what a plugin has registered."""
    source = _sources.pop(name, None)
    if source is not None:
        sys.modules.pop(source.module, None)
    kinds: tuple[dict[str, Any], ...] = (_models, _datasets, _augmentations)
    for known in kinds:
        for key in [key for key, registered in known.items() if registered.plugin == name]:
            del known[key]
