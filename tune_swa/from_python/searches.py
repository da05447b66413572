"""`tune_swa.search`: a search as a function call."""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tune_swa.cli.parser import TRACKERS
from tune_swa.cli.search import OWN_OPTIONS, collect_overrides
from tune_swa.config.python_space import list_texts, load_space
from tune_swa.errors import RequestError
from tune_swa.from_python.displays import choose_display
from tune_swa.from_python.search_process import SearchProcess

if TYPE_CHECKING:
    from tune_swa.config import Experiment
    from tune_swa.results.api import Results


def search(
    space: str | os.PathLike[str] | Mapping[str, Any],
    *,
    gpus: int | None = None,
    gpus_per_trial: float | str | None = None,
    cpus: int | None = None,
    name: str | None = None,
    results_dir: str | os.PathLike[str] = "results",
    data_dir: str | os.PathLike[str] | None = None,
    trials: int | None = None,
    seed: int | None = None,
    epochs: int | None = None,
    resume: bool = False,
    confirm: bool = True,
    address: str | None = None,
    storage: str | os.PathLike[str] | None = None,
    log: str | Sequence[str] = (),
    plugin: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    quiet: bool = False,
    overrides: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Results:
    """Search a space and return the results.

    Arguments that are not listed are options of `tune-swa search`; None: the option is not given.

    The search runs in a process of its own: this one keeps its signal handlers, environment, threads and
    Ray. It works in a thread, and in a notebook, where the progress is one output that changes in place.

    Args:
        space: a space file, the name of a shipped space, or the content of one as a mapping.
        resume: go on with the experiment of this name.
        confirm: whether fresh seeds follow the search.
        plugin: modules of yours, or .py files, that the search's process and its workers run.
        quiet: print nothing.
        overrides: values of settings by dotted name.
        settings: the same as keywords: `**{"train.epochs": 10}`.

    Returns:
        What `load_results` returns for the experiment's folder.

    Raises:
        RequestError: the request is wrong; nothing was trained.
        SearchFailed: no trial completed, a disk or Ray refused, or the search's process died.
        Interrupted: a signal to the search's process ended it.
        KeyboardInterrupt: Ctrl-C, or a notebook's stop button; the search has stopped and can be resumed.
    """
    given = _fill_defaults(dict(locals()))  # every argument by its name
    spec = _read_experiment(given).model_dump(mode="json", by_alias=True)
    folder = SearchProcess(spec, _collect_options(given), choose_display(quiet=quiet)).run()
    from tune_swa.results.api import load_results

    return load_results(folder)


ARGUMENTS = tuple(search.__kwdefaults__ or {})
"""Names of the keyword arguments."""


def _fill_defaults(given: dict[str, Any]) -> dict[str, Any]:
    """Put the default in the place of None, which stands for an option that is not given."""
    defaults = search.__kwdefaults__ or {}
    return {name: defaults.get(name) if value is None else value for name, value in given.items()}


def _read_experiment(given: Mapping[str, Any]) -> Experiment:
    _check_text("name", given["name"])
    own = {option: given[option[2:].replace("-", "_")] for option in OWN_OPTIONS}
    return load_space(
        given["space"],
        given["overrides"],
        given["settings"],
        arguments=ARGUMENTS,
        options=collect_overrides(own),
        plugin=list_texts(given["plugin"]),
    )


def _collect_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the command line, as JSON can hold them."""
    return {
        **{name: _check_count(name, given[name]) for name in ("gpus", "cpus", "epochs")},
        **{name: _check_text(name, given[name]) for name in ("name", "address")},
        **{name: _check_path(name, given[name]) for name in ("results_dir", "data_dir", "storage")},
        "resume": bool(given["resume"]),
        "no_confirm": not given["confirm"],
        "log": [_check_tracker(tracker) for tracker in list_texts(given["log"])],
        "plugin": list_texts(given["plugin"]),
        "quiet": bool(given["quiet"]),
    }


def _check_count(name: str, value: Any) -> int | None:
    if value is None:
        return None
    if not isinstance(value, bool):
        with suppress(TypeError):
            return operator.index(value)  # numpy's whole numbers have one, too
    raise RequestError(f"{name}={value!r}: expected a whole number, or None")


def _check_text(name: str, value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise RequestError(f"{name}={value!r}: expected a text, or None")


def _check_path(name: str, value: Any) -> str | None:
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if path is None or isinstance(path, str):
        return path
    raise RequestError(f"{name}={value!r}: expected a path, or None")


def _check_tracker(name: str) -> str:
    if name in TRACKERS:
        return name
    raise RequestError(f"log={name!r}: expected {', '.join(TRACKERS)}")
