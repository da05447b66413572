"""The files of plugins: found, read and run, and where an error in their code lies."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import os
import re
import shlex
import sys
import traceback
from dataclasses import asdict, dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from tune_swa.errors import RequestError
from tune_swa.files import expand_home
from tune_swa.text import first_line, quote_name


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


def read_source(text: str) -> PluginSource:
    """Find the module or file that an option names, and read it.

    Raises:
        RequestError: it is not there, or is no Python source.
    """
    if text.endswith(".py") or "/" in text:
        path = expand_home(text, "--plugin").absolute()
        # a name of its own, without dots: a file may be called like a module that others import
        module = f"tune_swa_plugin_{re.sub('[^A-Za-z0-9_]', '_', path.stem)}"
        return PluginSource(path.stem, module, str(path), _read_text(text, path))
    folder = Path.cwd()
    spec = PathFinder.find_spec(text, [str(folder)]) if "." not in text else None
    if spec is None or spec.origin is None:
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
        spec = _find_importable(text)
    if spec is None:
        raise _explain_missing(text, folder)
    if spec.origin is None or not spec.origin.endswith(".py"):
        raise RequestError(
            f"--plugin {text}: is not a Python file ({spec.origin or 'a folder without __init__.py'})"
        )
    path = Path(spec.origin).absolute()
    loaded = getattr(sys.modules.get(text), "__file__", None)
    if text in sys.modules and loaded != str(path):
        raise RequestError(
            f"--plugin {text}: a module of that name is loaded already ({loaded or 'of Python itself'}). "
            f"Give the path of the file: --plugin {shlex.quote(str(path))}"
        )
    return PluginSource(text, text, str(path), _read_text(text, path), path.name == "__init__.py")


def _find_importable(text: str) -> ModuleSpec | None:
    """Find a module as an import would, which runs the packages that it is in; None: there is none.

    Raises:
        RequestError: the code of a package failed.
    """
    try:
        return None if text.startswith(".") else importlib.util.find_spec(text)
    except ModuleNotFoundError as error:
        if error.name is None or f"{text}.".startswith(f"{error.name}."):
            return None
        raise explain_user_error(f"--plugin {text}", error, None) from None
    except ValueError:  # a text that no module can have as its name
        return None
    except (Exception, SystemExit) as error:
        files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
        own = [file for file in files if not file.startswith("<")]  # not importlib's
        raise explain_user_error(f"--plugin {text}", error, own[-1] if own else None) from None


def _read_text(text: str, path: Path) -> str:
    if os.fsencode(path).decode(errors="ignore") != str(path):
        raise RequestError(
            f"--plugin {quote_name(text)}: its path is not in UTF-8, and Ray does not start with such a "
            "one in sys.path. Move the file"
        )
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


def run_source(source: PluginSource) -> None:
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
        # not with this file's own `from __future__ import`
        exec(compile(source.text, source.file, "exec", dont_inherit=True), module.__dict__)
    except BaseException:
        del sys.modules[source.module]
        raise


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
