"""Modules of the user's own that `--plugin` names, and what they register: images and augmentations.

A module is run because the command line names it, never because a space file does. Its source is read once,
in the driver; every worker runs that text, on whatever node, so that all of them have the code that the
journal names by its hash.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from tune_swa.errors import RequestError
from tune_swa.text import first_line

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class PluginSource:
    """The source of a module that `--plugin` names. Workers get it with the settings of their trials."""

    name: str
    """Name of the module, or of the file without its suffix: how messages and the journal call it."""
    module: str
    """Key in `sys.modules`."""
    file: str
    """Absolute path on the machine where the command was given."""
    text: str
    is_package: bool = False

    @property
    def option(self) -> str:
        """What `--plugin` takes for it: the name of the module, or the path of the file."""
        return self.name if self.module == self.name else self.file

    @property
    def digest(self) -> str:
        """Hash of the source."""
        return hashlib.blake2b(self.text.encode(), digest_size=16).hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it; `PluginSource(**fields)` reads it."""
        return asdict(self)


@dataclass(frozen=True)
class Registered:
    """What a plugin has registered under a name."""

    name: str
    function: Callable[..., Any]
    plugin: str | None
    """Plugin that registered it; None: code outside of plugins, which no worker would run."""


@dataclass(frozen=True)
class RegisteredDataset(Registered):
    """A set of images; the function loads it."""

    version: str = ""


@dataclass(frozen=True)
class RegisteredAugmentation(Registered):
    """An augmentation; the function changes an image."""


_sources: dict[str, PluginSource] = {}
_datasets: dict[str, RegisteredDataset] = {}
_augmentations: dict[str, RegisteredAugmentation] = {}
_announced: list[str] = []
"""What `--plugin` names and has not been run yet: it may register any name."""
_loading: list[str] = []
"""Plugins whose modules are being run, the innermost last."""


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


def describe_sources() -> dict[str, dict[str, Any]]:
    """Describe the plugins as the journal does: by name their file, its hash and what they registered."""
    kinds: dict[str, Mapping[str, Registered]] = {
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


def announce_plugins(given: Sequence[str]) -> None:
    """Remember the plugins that `load_announced` runs later: in the process that trains, since one that has
    computed with torch cannot be forked."""
    _announced[:] = given


def load_announced() -> None:
    """Run the plugins that were announced; errors as of `load_plugins`."""
    given = [*_announced]
    _announced.clear()
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
        source = _read_source(text)
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
            _run_source(source)
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
    kinds: tuple[dict[str, Any], ...] = (_datasets, _augmentations)
    for known in kinds:
        for key in [key for key, registered in known.items() if registered.plugin == name]:
            del known[key]


def explain_user_error(what: str, error: BaseException, file: str | None) -> RequestError:
    """Say in one message what went wrong in a user's code, with the file and the line.

    Args:
        what: was being done.
        error: that was raised.
        file: of the plugin.
    """
    return RequestError(f"{what}: {describe_user_error(error, file)}")


def describe_user_error(error: BaseException, file: str | None) -> str:
    """Describe an error with the innermost line of the plugin's code, or of a file beside it."""
    place = ""
    if isinstance(error, SyntaxError) and error.filename:
        place = f" ({error.filename}, line {error.lineno})"
    elif file is not None:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if frame.filename == file]
        beside = [frame for frame in frames if Path(frame.filename).parent == Path(file).parent]
        for frame in (beside or own)[-1:]:
            place = f" ({frame.filename}, line {frame.lineno})"
    reason = error.msg if isinstance(error, SyntaxError) else first_line(error, 300)
    return f"{type(error).__name__}: {reason}{place}"


def _read_source(text: str) -> PluginSource:
    """Find the module or file that an option names, and read it.

    Raises:
        RequestError: it is not there, or is no Python source.
    """
    if text.endswith(".py") or "/" in text:
        path = Path(text).expanduser().absolute()
        # a name of its own: a file may be called like a module that others import
        return PluginSource(path.stem, f"tune_swa_plugin_{path.stem}", str(path), _read_text(text, path))
    folder = Path.cwd()
    spec = PathFinder.find_spec(text, [str(folder)]) if "." not in text else None
    if spec is None or spec.origin is None:
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
        try:
            spec = importlib.util.find_spec(text)
        except (ImportError, ValueError):
            spec = None
    if spec is None:
        raise _explain_missing(text, folder)
    if spec.origin is None or not spec.origin.endswith(".py"):
        raise RequestError(
            f"--plugin {text}: is not a Python file ({spec.origin or 'a folder without __init__.py'})"
        )
    path = Path(spec.origin).absolute()
    loaded = getattr(sys.modules.get(text), "__file__", None)
    if text in sys.modules and text not in _sources and loaded != str(path):
        raise RequestError(
            f"--plugin {text}: a module of that name is loaded already ({loaded or 'of Python itself'}). "
            f"Give the path of the file: --plugin {path}"
        )
    return PluginSource(text, text, str(path), _read_text(text, path), path.name == "__init__.py")


def _read_text(text: str, path: Path) -> str:
    try:
        return importlib.util.decode_source(path.read_bytes())
    except FileNotFoundError:
        raise RequestError(f"--plugin {text}: no such file ({path})") from None
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or first_line(error, 200)
        raise RequestError(f"--plugin {text}: cannot be read ({reason})") from None


def _explain_missing(text: str, folder: Path) -> RequestError:
    files = sorted(path.stem for path in folder.glob("*.py"))
    close = difflib.get_close_matches(text, files, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    return RequestError(
        f"--plugin {text}: no module of that name in {folder} or among the installed packages.{hint} Give "
        "the name of a module, or the path of a .py file"
    )


def _run_source(source: PluginSource) -> None:
    """Run the source as the module that it is of; what lies beside it can be imported where it is there."""
    folder = Path(source.file).parent
    parent = source.module.rpartition(".")[0]
    root = folder
    for _ in range(source.module.count(".") + source.is_package):
        root = root.parent
    if str(root) not in sys.path:
        sys.path.append(str(root))
    if parent:
        importlib.import_module(parent)
    module = ModuleType(source.module)
    module.__file__ = source.file
    module.__package__ = source.module if source.is_package else parent
    if source.is_package:
        module.__path__ = [str(folder)]
    sys.modules[source.module] = module
    try:
        exec(compile(source.text, source.file, "exec"), module.__dict__)
    except BaseException:
        del sys.modules[source.module]
        raise
