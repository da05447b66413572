"""The folder of one experiment: who may write to it, and whether it is begun or continued."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from tune_swa.config import Experiment, ObjectiveSpec
from tune_swa.errors import RequestError
from tune_swa.experiment.events import Event, ExperimentCreated
from tune_swa.experiment.journal import read_events
from tune_swa.experiment.state import ExperimentState
from tune_swa.files import NoLocksError, hold_lock, is_locked, refuse_strange_files
from tune_swa.storage import Store, check_usable, open_store, resolved
from tune_swa.text import first_line

JOURNAL = "journal.jsonl"
SPACE = "space.yaml"
LOCK = ".lock"


class NameTakenError(RequestError):
    """There is a search of this name, or one is running."""


@contextmanager
def lock_experiment(folder: Path) -> Iterator[None]:
    """Hold the experiment's lock; the system frees it when the process dies.

    Raises:
        RequestError: another process holds it, the folder cannot be written to, or links lead out of it.
    """
    with ExitStack() as stack:
        try:
            refuse_strange_files(folder)
            made = [path for path in (folder, *folder.parents) if not path.exists()]
            stack.enter_context(hold_lock(folder / LOCK, wait=False))
            (folder / LOCK).write_text(str(os.getpid()))
        except BlockingIOError:
            raise NameTakenError(
                f"{folder}: another search is writing to it (process {_read_process(folder)}). Wait for it, "
                "stop it, or give this one another --name"
            ) from None
        except NoLocksError as error:
            raise RequestError(
                f"{folder}: {error.strerror}. Choose a place on a local disk with --results-dir; --storage "
                "is for what other machines have to see"
            ) from None
        except OSError as error:
            raise RequestError(
                f"{folder}: cannot be written to ({error.strerror}). Choose another place with --results-dir"
            ) from None
        except ValueError as error:  # NUL, which a shell cannot pass
            raise RequestError(f"{folder}: cannot be the name of a folder ({error})") from None
        try:
            yield
        finally:
            with suppress(OSError):  # somebody has moved or removed it, or uses it by now
                if os.listdir(folder) == [LOCK]:  # the request was refused: leave nothing behind
                    (folder / LOCK).unlink()
                    for path in made or [folder]:
                        path.rmdir()


def _is_there(path: Path) -> bool:
    try:
        path.lstat()  # `exists` takes a name that is too long for one that is free
    except FileNotFoundError:
        return False
    return True


def find_writer(folder: Path) -> str | None:
    """The process that writes to an experiment's folder now, as its lock names it; None: nobody does."""
    return _read_process(folder) if is_locked(folder / LOCK) else None


def _read_process(folder: Path) -> str:
    with suppress(OSError):
        return (folder / LOCK).read_bytes()[:32].decode(errors="replace").strip() or "unknown"
    return "unknown"


def choose_storage(state: ExperimentState, given: str | None, folder: Path) -> str | None:
    """Find the checkpoints of an experiment: where they were, if it began before.

    The place is written out, so that a resume in another folder looks where the search began.

    Raises:
        RequestError: another place is given than the one that it began with, or none is given and the one
            that the journal names does not hold this search.
    """
    wanted = None if given is None else resolved(given)
    if state.sessions == 0:
        return wanted
    begun = None if state.storage is None else resolved(state.storage)
    if wanted is None and begun is not None:
        _check_holds_search(begun, folder)
    if wanted in (None, begun):
        return begun
    raise RequestError(
        f"--storage {given}: the checkpoints of {folder.name} are in {state.storage or folder}. Leave "
        "--storage out to go on there, or give this search another --name"
    )


def _check_holds_search(storage: str, folder: Path) -> None:
    """Refuse to write to a place that only the journal names, unless the search has been there before."""
    try:
        store = open_store(storage, folder.name)
        known = _is_copy(store, folder)
    except (OSError, ValueError) as error:
        raise RequestError(
            f"{storage}: cannot be read ({first_line(error)}), and holds the checkpoints of "
            f"{folder.name}. Make it available again, then continue with --resume"
        ) from None
    if not known:
        raise RequestError(
            f"{folder}: its journal names {storage} for the checkpoints, but {store.where} does not hold "
            f"this search ({JOURNAL} and {SPACE} there are not copies of those here). If that is the right "
            f"place, confirm it with --storage {shlex.quote(storage)}"
        )


def _is_copy(store: Store, folder: Path) -> bool:
    """Whether a place holds the search of `folder`: its journal begins with the same line.

    One that was killed in its first seconds has copied its space file there, and no journal yet.

    Raises:
        OSError: a file cannot be read.
    """
    names = store.names("")
    name = JOURNAL if JOURNAL in names else SPACE
    if name not in names or not (folder / name).is_file():
        return False
    with store.local(name) as path, path.open("rb") as there, (folder / name).open("rb") as here:
        if name == JOURNAL:
            return there.readline() == here.readline()
        return there.read() == here.read()


def check_storage(store: Store, folder: Path, *, begun: bool) -> None:
    """See to it that the store can be used, and is not another search's.

    Raises:
        RequestError: neither holds.
    """
    check_usable(store, "--storage")
    if not begun and SPACE in store.names(""):
        raise RequestError(
            f"--storage {store.where}: holds a search of this name already, whose journal is not in {folder}."
            f" To go on with that one, copy its files to {folder} and add --resume; else give another --name"
        )


def load_earlier_events(
    folder: Path, experiment: Experiment, *, resume: bool
) -> tuple[list[Event], ExperimentState]:
    """Events of the sessions before and what they fold into; none for a new experiment.

    Raises:
        RequestError: there are some and `resume` is false, there are none and it is true, they are of
            other settings, or the journal is damaged.
    """
    journal = folder / JOURNAL
    events = list(read_events(journal)) if journal.exists() else []
    state = ExperimentState.fold(events, journal)
    if state.header is None:
        if resume and not journal.exists():
            raise RequestError(
                f"{folder}: there is no search to resume (no {JOURNAL}). Leave --resume out to start one, "
                "or check --name and --results-dir"
            )
        return [], state  # a journal that was torn in its first line holds nothing
    if not resume:
        raise NameTakenError(
            f"{folder}: there is a search of this name already. Continue it with --resume, or give this "
            "one another --name"
        )
    after = _name_defaults(recall_reuse(experiment, state.header).fixed_settings())
    before = _name_defaults(_forget_weights_file(state.header.identity, after))
    changed = list(list_differences(before, after))
    if changed:
        raise RequestError(
            f"{folder}: a search is resumed with the settings it began with, but these differ:\n  "
            + "\n  ".join(changed)
            + f"\nUse the space file it keeps ({folder / 'space.yaml'}), or give this one another --name"
        )
    return events, state


def _name_defaults(identity: dict[str, Any]) -> dict[str, Any]:
    """Add what is in no identity where it is so, but what a line that says what changed names: the
    objective's defaults, and that no trunk is reused."""
    default = {name: field.default for name, field in ObjectiveSpec.model_fields.items()}
    search = {"reuse": False, **identity.get("search", {})}
    return {**identity, "search": search, "objective": {**default, **identity.get("objective", {})}}


def _forget_weights_file(before: Any, after: Any) -> Any:
    """Take the place of the starting weights from before: a file that has moved holds the same ones.

    What they are is compared when they are read. Random ones come from no file.
    """
    models = [settings.get("model") for settings in (before, after)]
    if not all(isinstance(model, dict) and model.get("weights", "none") != "none" for model in models):
        return before
    return {**before, "model": {**before["model"], "weights": after["model"]["weights"]}}


def keep_suffixes(experiment: Experiment, header: ExperimentCreated | None) -> Experiment:
    """The experiment, reading the files that its search began with.

    Searches of before other suffixes than torchvision's were read do not say which files were left out.
    """
    if header is None or "left_out" in header.data:
        return experiment
    data = experiment.data.model_copy(update={"suffixes": "torchvision"})
    return experiment.model_copy(update={"data": data})


def recall_order(experiment: Experiment, header: ExperimentCreated | None) -> Experiment:
    """The experiment with the keys of its space in the order in which the search began."""
    recorded = None if header is None else header.identity.get("space")
    return experiment.order_space(recorded) if isinstance(recorded, dict) else experiment


def recall_reuse(experiment: Experiment, header: ExperimentCreated | None) -> Experiment:
    """The experiment, opening a trunk with every suggestion if its search began like that.

    So did all searches of before there was a choice.
    """
    if header is None or header.identity.get("search", {}).get("reuse", False):
        return experiment
    search = experiment.search.model_copy(update={"reuse": False})
    return experiment.model_copy(update={"search": search})


def describe_reuse(experiment: Experiment, header: ExperimentCreated | None) -> str | None:
    """Say that no trunk is reused although the space file has it so; None: it is as there."""
    if not experiment.reuses_trunks or recall_reuse(experiment, header).reuses_trunks:
        return None
    return (
        "search.reuse is false, as when this search began: each suggestion opens a trunk of its own. To have "
        "trunks reused, start another search with a --name of its own"
    )


UNSET = object()
"""A setting that only one of two searches has."""


def list_differences(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """Lines that name each setting that differs, with both values."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in dict.fromkeys([*before, *after]):
            below = f"{path}.{key}" if path else str(key)
            yield from list_differences(before.get(key, UNSET), after.get(key, UNSET), below)
    elif before != after and not (before in (UNSET, None) and after in (UNSET, None)):
        yield f"{path}: was {_shown(before)}, is {_shown(after)}"


def _shown(value: Any) -> str:
    return "not set" if value is UNSET else repr(value)
