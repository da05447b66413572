"""The option `--plugin`: when its modules are run, and what an experiment that began with some needs."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune_swa import plugins
from tune_swa.errors import RequestError

if TYPE_CHECKING:
    from tune_swa.config import Experiment


def add_plugin_option(parser: argparse.ArgumentParser, for_what: str) -> None:
    """Add `--plugin` to a command; `for_what` ends its line of help."""
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="MODULE",
        help=f"run a module of yours, or a .py file, that {for_what}; can be repeated",
    )


def check_recorded_plugins(folder: Path, given: list[str]) -> None:
    """Refuse to go on with an experiment without the plugins that it began with.

    Its space file may name what only they know, so this comes before it is read.

    Raises:
        RequestError: one is missing; says which option to add.
    """
    for name, about in read_recorded_plugins(folder).items():
        if not any(name in (text, Path(text).stem) for text in given):
            file, option = about.get("file"), shlex.quote(str(about.get("option")))
            raise RequestError(f"{folder}: this search began with a plugin ({file}). Add --plugin {option}")


def read_recorded_plugins(folder: Path) -> Mapping[str, Any]:
    """Read the plugins of an experiment from the first line of its journal; empty if it has none, or no
    journal that can be read: the command will say so."""
    from tune_swa.experiment.event_lines import decode_event
    from tune_swa.experiment.events import DamagedError

    with suppress(OSError, DamagedError), (folder / "journal.jsonl").open("rb") as file:
        found = decode_event(file.readline()).get("plugins", {})
        return found if isinstance(found, Mapping) else {}
    return {}


def read_name(space: str | Path) -> str | None:
    """Read the name in a space file, whose other settings may be plugins'; None: whoever reads it all will
    say what is wrong."""
    from tune_swa.config.shipped_spaces import locate_space
    from tune_swa.config.yaml_document import parse_document

    with suppress(OSError, UnicodeDecodeError, RequestError):
        value = parse_document(locate_space(Path(space)).read_bytes().decode(), str(space)).value
        name = value.get("name") if isinstance(value, Mapping) else None
        return name if isinstance(name, str) else None
    return None


def load_named_plugins(experiment: Experiment) -> None:
    """Run the plugins of the command line, and check that they know what the experiment names.

    Raises:
        RequestError: one failed, takes a name that tune_swa has, or none knows the network.
    """
    from tune_swa.config.network_names import explain_unknown_arch, is_arch_name
    from tune_swa.execution.plugin_checks import check_names

    plugins.load_announced()
    check_names()
    arch = experiment.model.arch
    if not is_arch_name(arch) and plugins.require_model(arch) is None:
        raise RequestError(f"model.arch: {arch!r}: {explain_unknown_arch(arch)}")
